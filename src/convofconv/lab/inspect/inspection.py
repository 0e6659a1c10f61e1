"""All that is looked at in networks side by side: what is asked for, what was found, and its figures and numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ...errors import ConfigError
from ..association_health import AssociationHealth, association_health
from ..models.detector import takes_list
from .activation_figure import draw_activation_maps
from .activation_maps import ActivationMaps, activation_maps
from .activation_targets import NothingFoundError, score
from .association_figure import draw_association_health
from .default_layers import field_layer, kernel_layers
from .field_comparison import FieldTable, compare_fields
from .field_figure import draw_fields
from .gradient_figures import draw_kernel_jacobian, draw_neighbour_shares
from .gradient_flow import NeighbourShare, neighbour_shares
from .input_images import input_channels, own_size
from .kernel_energy import EnergyCorrelation, energy_correlation
from .kernel_grids import associated_layers, grids_side_by_side
from .kernel_jacobian import KernelJacobian, kernel_jacobian
from .kernel_mosaic import KernelMosaic, kernel_mosaic
from .kernel_mosaic_figure import draw_mosaic
from .kernel_nulls import CLAIMED, NullTest, claim_tests, combine_tests
from .kernel_similarity import KernelSimilarity, layer_similarity
from .named_networks import NamedNetworks
from .prepared_images import PreparedImages
from .tap_figure import draw_tap_responses
from .tap_responses import TapResponses, tap_responses

#: What can be looked at, in the order of reports.
Topic = Literal["kernels", "groups", "fields", "maps", "gradients", "health"]
TOPICS: tuple[Topic, ...] = get_args(Topic)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is looked at.

    Args:
        topics: some of :data:`TOPICS`.
        layers: names of layers; chosen where none are given: the first and the middle one of the convs that are (or
            would be) associated for kernels, the last stage of the backbone for fields and activation maps.
        method: of activation maps.
        images: of noise, for receptive fields.
        groups: of kernels that a mosaic shows at most.
        draws: of the null that groups are tested against.

    Raises:
        ConfigError: a topic is unknown, or a number is not positive.
    """

    topics: Sequence[Topic] = TOPICS
    layers: Sequence[str] = ()
    method: str = "grad-cam"
    images: int = 8
    groups: int = 8
    draws: int = 39

    def __post_init__(self) -> None:
        if wrong := [topic for topic in self.topics if topic not in TOPICS]:
            raise ConfigError(f"--only: {wrong[0]!r} is none of {', '.join(TOPICS)}")
        for name in ("images", "groups", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class LayerGroups:
    """How the kernels of one layer of one network stand in their groups (claims C9 and C10).

    Args:
        similarity: of basic and of effective kernels.
        energy: against the super kernels; ``None`` in a plain network.
        tests: against permuted basic kernels; empty in a plain network.
        over_seeds: one p-value for each test over the networks of all seeds, of what the claims say; empty for one.
    """

    similarity: Mapping[str, KernelSimilarity]
    energy: EnergyCorrelation | None
    tests: Mapping[str, NullTest]
    over_seeds: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    def numbers(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **{kind: found.numbers() for kind, found in self.similarity.items()},
            "energy": self.energy and self.energy.numbers(),
            "tests": {name: test.numbers() for name, test in self.tests.items()},
            "over_seeds": dict(self.over_seeds),
        }


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found; a topic that was not asked for, or that these networks have nothing of, is empty.

    Args:
        mosaics: by layer.
        groups: by network and layer.
        fields: by network and layer.
        maps: by network, of ``images``.
        images: that activation maps are of.
        classes: their names.
        shares: of gradients through neighbours, by network.
        jacobians: of the first layer, by network.
        responses: α on tap responses of the first layer, by network.
        health: by network.
        remarks: why something is not there.
    """

    mosaics: Mapping[str, KernelMosaic] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, Mapping[str, LayerGroups]] = dataclasses.field(default_factory=dict)
    fields: FieldTable = dataclasses.field(default_factory=dict)
    maps: Mapping[str, ActivationMaps] = dataclasses.field(default_factory=dict)
    images: PreparedImages | None = None
    classes: tuple[str, ...] = ()
    shares: Mapping[str, tuple[NeighbourShare, ...]] = dataclasses.field(default_factory=dict)
    jacobians: Mapping[str, KernelJacobian] = dataclasses.field(default_factory=dict)
    responses: Mapping[str, TapResponses] = dataclasses.field(default_factory=dict)
    health: Mapping[str, AssociationHealth] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def numbers(self) -> dict[str, Any]:
        """Plain values, for JSON, by topic."""
        return {
            "kernels": {layer: mosaic.numbers() for layer, mosaic in self.mosaics.items()},
            "groups": _numbers(self.groups),
            "fields": _numbers(self.fields),
            "maps": {
                "files": [str(file) for file in self.images.files] if self.images else [],
                "networks": {name: found.numbers() for name, found in self.maps.items()},
            },
            "gradients": {
                "neighbour_shares": {name: [one.numbers() for one in found] for name, found in self.shares.items()},
                "jacobians": {name: found.numbers() for name, found in self.jacobians.items()},
                "tap_responses": {name: found.numbers() for name, found in self.responses.items()},
            },
            "health": {name: found.numbers() for name, found in self.health.items()},
            "remarks": list(self.remarks),
        }

    def figures(self) -> dict[str, Figure]:
        """Every figure by the name of a file, without ending."""
        figures = {f"kernels-{_file(layer)}": draw_mosaic(mosaic) for layer, mosaic in self.mosaics.items()}
        if self.fields:
            figures["fields"] = draw_fields(self.fields)
        if self.maps and self.images:
            layer = next(iter(self.maps.values())).layer
            fields = {name: found[layer] for name, found in self.fields.items() if layer in found}
            figures["maps"] = draw_activation_maps(
                self.images.shown, self.maps, fields if set(fields) == set(self.maps) else None, self.classes
            )
        if self.shares:
            figures["gradients"] = draw_neighbour_shares(self.shares)
        figures |= {f"jacobian-{_file(name)}": draw_kernel_jacobian(found) for name, found in self.jacobians.items()}
        figures |= {f"taps-{_file(name)}": draw_tap_responses(found) for name, found in self.responses.items()}
        figures |= {f"health-{_file(name)}": draw_association_health(one, name) for name, one in self.health.items()}
        return figures


def inspect_networks(
    networks: NamedNetworks,
    wanted: Wanted,
    images: PreparedImages | None = None,
    report: Callable[[Topic], None] = lambda topic: None,
) -> Inspection:
    """Look into networks side by side.

    Args:
        networks: by name.
        wanted: what is looked at.
        images: for activation maps and gradients; without them there are no maps, and gradients are those of noise.
        report: is called when a topic is done.

    Raises:
        ConfigError: a network has no such layer.
    """
    one_of_each = networks.one_of_each
    layers = tuple(wanted.layers) or kernel_layers(one_of_each)
    images_too = {"fields", "maps"} & set(wanted.topics)
    spatial = tuple(wanted.layers) or ((field_layer(one_of_each),) if images_too else ())
    converted = {name: network for name, network in one_of_each.items() if associated_layers(network)}
    found: dict[str, Any] = {"images": images, "classes": networks.classes}
    remarks: list[str] = []
    if not converted:
        remarks.append("nothing is associated in these networks: no super kernels, gradients of neighbours or health")
    for topic in [topic for topic in TOPICS if topic in wanted.topics]:
        if topic == "kernels":
            grids = {layer: grids_side_by_side(one_of_each, layer) for layer in layers}
            found["mosaics"] = {
                layer: kernel_mosaic(several, most_groups=wanted.groups) for layer, several in grids.items()
            }
        elif topic == "groups":
            found["groups"] = {name: _groups(networks, name, layers, wanted.draws) for name in one_of_each}
        elif topic == "fields":
            found["fields"] = compare_fields(networks.by_name, spatial, wanted.images)
        elif topic == "maps" and images is None:
            remarks.append("no activation maps: --images names images")
        elif topic == "maps" and images is not None:
            found["maps"] = _maps(one_of_each, images, spatial[0], wanted.method, remarks)
        elif topic == "gradients" and converted:
            inputs = images.inputs if images is not None else noise_like(next(iter(converted.values())))
            try:
                found["shares"] = {name: neighbour_shares(net, _score_of(inputs)) for name, net in converted.items()}
            except NothingFoundError as error:
                remarks.append(f"no shares of gradients: {error}")
            first_of = {name: _first_associated(network, layers) for name, network in converted.items()}
            found["jacobians"] = {name: kernel_jacobian(converted[name], layer) for name, layer in first_of.items()}
            found["responses"] = {name: tap_responses(converted[name], layer) for name, layer in first_of.items()}
        elif topic == "health":
            found["health"] = {name: association_health(network) for name, network in converted.items()}
        report(topic)
    return Inspection(**found, remarks=tuple(remarks))


def _first_associated(network: nn.Module, layers: Sequence[str]) -> str:
    """The first of these layers that is associated, or of all that are."""
    associated = associated_layers(network)
    return next((layer for layer in layers if layer in associated), associated[0])


def _groups(networks: NamedNetworks, name: str, layers: Sequence[str], draws: int) -> dict[str, LayerGroups]:
    found = {}
    for layer in layers:
        grids = grids_side_by_side(networks.one_of_each, layer)[name]
        if not grids.associated:
            found[layer] = LayerGroups(layer_similarity(grids), None, {})
            continue
        tests = [claim_tests(network, layer, draws=draws) for network in networks.by_name[name]]
        over_seeds = {
            measure: combine_tests([test[measure] for test in tests], claimed) for measure, claimed in CLAIMED.items()
        }
        found[layer] = LayerGroups(
            layer_similarity(grids), energy_correlation(grids), tests[0], over_seeds if len(tests) > 1 else {}
        )
    return found


def _maps(
    networks: Mapping[str, nn.Module], images: PreparedImages, layer: str, method: str, remarks: list[str]
) -> dict[str, ActivationMaps]:
    """All maps explain what the first network sees, so that they can be compared."""
    maps: dict[str, ActivationMaps] = {}
    try:
        for name, network in networks.items():
            labels = next(iter(maps.values())).labels if maps else None
            maps[name] = activation_maps(network, images.inputs, layer, method, labels)
    except NothingFoundError as error:
        remarks.append(f"no activation maps: {error} (network {name})")
        return {}
    return maps


def _score_of(inputs: Tensor) -> Callable[[nn.Module], Tensor]:
    """The loss whose gradients are looked at: minus what activation maps explain, the scores of the likeliest."""

    def loss(network: nn.Module) -> Tensor:
        outputs = network(list(inputs) if takes_list(network) else inputs)
        return -score(outputs, None).values.sum()

    return loss


def noise_like(network: nn.Module) -> Tensor:
    """Two images of noise of a size that the network is made for, always the same."""
    side, generator = own_size(network), torch.Generator().manual_seed(0)
    noise = torch.randn(2, input_channels(network), side, side, generator=generator)
    return noise.sigmoid() if takes_list(network) else noise


def _numbers(table: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {layer: one.numbers() for layer, one in found.items()} for name, found in table.items()}


def _file(name: str) -> str:
    """A name as that of a file."""
    return "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in name) or "conv"
