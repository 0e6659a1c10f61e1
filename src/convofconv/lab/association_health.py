"""The health of every layer's association α: is it far from the identity, near to singular, or has it killed groups?

α acts on a group's ``n`` numbers per input channel as one matrix, ``A = I + S`` with the skip. Its singular values say
how much it amplifies and dampens, their ratio how much of a kernel's gradient gets lost in others'. A trained network
needs none of this; a network that does not train well may.

Beside the rooms, because training reports it and ``inspect/`` draws it. Needs torch alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..functional.precision import no_autocast
from ..maps import SpatialAssociation
from ..maps.registered import convs, kernel_maps, weight_maps
from .association_matrices import association_matrices, kernels_per_group, removed_frequencies

#: Above this condition number a linear α has degenerated: one digit of float32 is left of the gradient that comes back
#: along its weakest direction. Random matrices of this size reach some thousands.
MOST_CONDITION = 1e6
#: A group is dead where its kernels are smaller than this, measured by the layer's basic kernels.
DEAD = 1e-3
#: Batched singular values of so many numbers at a time.
_MOST_NUMBERS = 1 << 24


@dataclasses.dataclass(frozen=True)
class LayerHealth:
    """The association of one layer in numbers; what a configuration leaves undefined is ``None``.

    Args:
        layer: name of the conv.
        groups: number of groups.
        positions: numbers of a group per input channel, ``n``; α's matrices are ``n × n``.
        remark: why something is ``None`` or approximate, empty if nothing is.
        singular_values: of the matrices of all groups, ``(number,)``, ascending.
        condition: largest ratio of a group's largest and smallest singular value; infinite if one is singular.
        median_condition: of all groups.
        distance: ``‖A − I‖ / ‖I‖`` (Frobenius) over the matrices of all groups.
        change: ``‖α(W) − W‖ / ‖W‖``, which is ``‖s ∗ W‖ / ‖W‖`` with the skip; ``None`` if all basic kernels are zero.
        removed: share of the frequencies of all super kernels at which α leaves less than a tenth.
        identity_groups: groups whose kernels α leaves exactly as they are, as with a super kernel of zeros.
        dead_groups: groups whose kernels behind α have a root mean square below :data:`DEAD` of the median group's
            basic kernels.
        finite: whether super kernels and kernels are numbers; else nothing is computed.
    """

    layer: str
    groups: int
    positions: int
    remark: str
    singular_values: Tensor | None = dataclasses.field(default=None, repr=False, compare=False)
    condition: float | None = None
    median_condition: float | None = None
    distance: float | None = None
    change: float | None = None
    removed: float | None = None
    identity_groups: tuple[int, ...] = ()
    dead_groups: tuple[int, ...] = ()
    finite: bool = True

    @property
    def smallest(self) -> float | None:
        """The smallest singular value."""
        return None if self.singular_values is None else float(self.singular_values[0])

    @property
    def largest(self) -> float | None:
        """The largest singular value."""
        return None if self.singular_values is None else float(self.singular_values[-1])

    @property
    def problem(self) -> str:
        """How α has degenerated and what to do, naming the layer; empty if it has not."""
        if not self.finite:
            return (
                f"{self.layer}: super kernels or kernels are no numbers any more; train with a smaller training.lr or "
                "training.super_kernel_rate, or training.clip"
            )
        found = []
        # A linearised α is no more than near to these matrices.
        if self.condition is not None and self.condition > MOST_CONDITION and not self.remark:
            what = "singular" if math.isinf(self.condition) else f"nearly singular (condition {self.condition:.2g})"
            found.append(f"the association is {what}: some patterns of kernels cannot be learnt any more")
        if self.dead_groups:
            which = ", ".join(map(str, self.dead_groups[:5])) + (", ..." if len(self.dead_groups) > 5 else "")
            found.append(f"the kernels of {len(self.dead_groups)} of {self.groups} groups have vanished ({which})")
        advice = "try a smaller training.super_kernel_rate or a larger training.weight_decay; coc inspect shows more"
        return f"{self.layer}: {' and '.join(found)}; {advice}" if found else ""

    def numbers(self) -> dict[str, object]:
        """Everything as plain values for JSON, singular values as five quantiles; an infinite condition is ``None``."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        sigma = values.pop("singular_values")
        levels = torch.linspace(0, 1, 5, dtype=torch.float64)
        quantiles = None if sigma is None else torch.quantile(sigma, levels).tolist()
        singular = self.condition is not None and math.isinf(self.condition)
        for key in ("condition", "median_condition"):
            values[key] = values[key] if values[key] is not None and math.isfinite(values[key]) else None
        lists = {key: list(values[key]) for key in ("identity_groups", "dead_groups")}
        return {**values, **lists, "singular": singular, "singular_value_quantiles": quantiles}


@dataclasses.dataclass(frozen=True)
class AssociationHealth:
    """What :func:`association_health` found; print it for a table."""

    layers: tuple[LayerHealth, ...]

    def numbers(self) -> list[dict[str, object]]:
        """One dictionary per layer, as plain values for JSON."""
        return [layer.numbers() for layer in self.layers]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("layer", "groups", "σ min", "σ max", "condition", "‖s∗W‖/‖W‖", "‖α−I‖/‖I‖", "removed", "notes")
        ]
        for one in self.layers:
            removed = "-" if one.removed is None else f"{100 * one.removed:.0f} %"
            sizes = (one.smallest, one.largest, one.condition, one.change, one.distance)
            rows.append((one.layer, str(one.groups), *map(_short, sizes), removed, _notes(one)))
        widths = [max(len(row[i]) for row in rows) for i in range(9)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(lines)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _notes(layer: LayerHealth) -> str:
    notes = [] if layer.finite else ["no numbers"]
    notes += [f"{len(layer.dead_groups)} dead"] if layer.dead_groups else []
    notes += [f"{len(layer.identity_groups)} at the identity"] if layer.identity_groups else []
    return "; ".join([*notes, *([layer.remark] if layer.remark else [])])


@torch.no_grad()
def association_health(model: nn.Module) -> AssociationHealth:
    """Measure the association of every converted layer: singular values, distance from the identity, dead groups.

    Draws no random numbers and changes nothing. Matrices are those of :mod:`convofconv.functional.super_matrix`, in
    float64 on the CPU. With a norm over the grids (``grid_norm``) α is not linear: its matrices are taken with the
    norm's statistics held, at their root mean square over input channels. A dense super kernel (``share="none"``) has
    none per group.

    Source: poster, steps 0-3; singular values of ``α`` as a linear map.

    Raises:
        ConfigError: no layer has an association.

    Examples:
        >>> from convofconv import convert
        >>> print(association_health(convert(nn.Sequential(nn.Conv2d(3, 8, 3)))))
        layer  groups  σ min  σ max  condition  ‖s∗W‖/‖W‖  ‖α−I‖/‖I‖  removed  notes
        -----  ------  -----  -----  ---------  ---------  ---------  -------  -----------------
        0      2       1      1      1          0          0          0 %      2 at the identity
    """
    layers = tuple(_layer(*found) for found in associations(model))
    if not layers:
        raise ConfigError("no layer of this network has an association: convert it with the method coc first")
    return AssociationHealth(layers)


def associations(model: nn.Module) -> Iterator[tuple[str, SpatialAssociation, Tensor]]:
    """Every association of a model: its layer's name, the map, and the kernels that it is given."""
    for name, conv in convs(model):
        maps, registered = kernel_maps(conv), weight_maps(conv)
        if registered is None or not any(isinstance(one, SpatialAssociation) for one in maps):
            continue
        kernels = registered.original
        assert isinstance(kernels, Tensor)
        for kernel_map in maps:
            if isinstance(kernel_map, SpatialAssociation):
                yield name or "(root)", kernel_map, kernels.detach()
                break
            kernels = kernel_map(kernels)


def _layer(name: str, association: SpatialAssociation, weight: Tensor) -> LayerHealth:
    grid = association.grid
    with no_autocast(weight.device):
        after = association(weight)
    basic, left, changed = (_by_group(kernels, association) for kernels in (weight, after, after - weight))
    if not (basic + left).isfinite().all():
        return LayerHealth(name, grid.groups, grid.positions, "", finite=False)
    sizes, total = kernels_per_group(grid), float(basic.square().sum().sqrt())
    floor = DEAD * (basic / sizes.sqrt()).median()
    matrices, remark = association_matrices(association, weight)
    return LayerHealth(
        name,
        grid.groups,
        grid.positions,
        remark,
        **_spectrum(matrices),
        change=float(changed.square().sum().sqrt()) / total if total else None,
        removed=removed_frequencies(association),
        identity_groups=tuple((changed == 0).nonzero().flatten().tolist()),
        dead_groups=tuple((left / sizes.sqrt() <= floor).nonzero().flatten().tolist()),
    )


def _by_group(kernels: Tensor, association: SpatialAssociation) -> Tensor:
    """The norm of every group's kernels, ``(G,)``, on the CPU."""
    of_kernels = kernels.float().flatten(1).square().sum(1)
    of_kernels = of_kernels if association.order is None else of_kernels[association.order]
    blocks = of_kernels.unflatten(0, (association.grid.blocks, -1))
    complete = nn.functional.pad(blocks, (0, association.grid.missing))
    return complete.reshape(-1, association.grid.cells).sum(1).sqrt().cpu()


def _spectrum(matrices: list[Tensor]) -> dict[str, Any]:
    if not matrices:
        return {}
    values, conditions, away, ones = [], [], 0.0, 0
    for some in matrices:
        step = max(1, _MOST_NUMBERS // some.shape[-1] ** 2)
        sigma = torch.cat([torch.linalg.svdvals(part) for part in some.split(step)])
        largest, smallest = sigma[:, 0], sigma[:, -1]
        rounding = some.shape[-1] * torch.finfo(some.dtype).eps
        conditions.append(torch.where(smallest <= rounding * largest, math.inf, largest / smallest))
        values.append(sigma.flatten())
        away += float((some - torch.eye(some.shape[-1], dtype=some.dtype)).square().sum())
        ones += some.shape[0] * some.shape[-1]
    condition = torch.cat(conditions)
    return {
        "singular_values": torch.cat(values).sort().values,
        "condition": float(condition.max()),
        "median_condition": float(condition.median()),
        "distance": math.sqrt(away / ones),
    }
