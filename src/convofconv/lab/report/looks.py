"""What is inside of the runs' networks, side by side where they have the same layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import ConvOfConvError
from ...maps.registered import convs, kernel_size
from ..inspect.inspection import TOPICS, Inspection, Topic, Wanted, inspect_networks
from ..inspect.kernel_grids import KernelGrids, grids_side_by_side
from ..inspect.layer_outputs import FORWARD_ERRORS
from ..inspect.named_networks import NamedNetworks
from ..inspect.prepared_images import PreparedImages, prepare_images
from ..predict.finished_run import FinishedRun, load_run
from ..progress import print_line, progress_bar
from .reported_runs import ReportedRun

#: Few images and draws, for a report shall not take longer than it takes to read its first table.
WANTED = Wanted(images=4, draws=19)


@dataclasses.dataclass(frozen=True)
class Look:
    """What was found in networks of one task that have the same layers.

    Args:
        title: the task in words, with the networks where there is another look into that task.
        runs: names of runs by network; several where they differ by seed alone.
        inspection: what was found.
        grids: kernels of the layers that are shown, by layer and network.
        problems: why a topic is missing, by topic.
    """

    title: str
    runs: Mapping[str, tuple[str, ...]]
    inspection: Inspection
    grids: Mapping[str, Mapping[str, KernelGrids]]
    problems: Mapping[Topic, str]


@dataclasses.dataclass(frozen=True)
class Inside:
    """What was found in the networks of all runs.

    Args:
        looks: by the task, with the networks where there is another look into it.
        left_out: why a run's network could not be looked into, by run.
    """

    looks: Mapping[str, Look]
    left_out: Mapping[str, str]

    def numbers(self, topic: Topic) -> dict[str, Any]:
        """What was found of a topic, by look, as plain values."""
        return {name: look.inspection.numbers()[topic] for name, look in self.looks.items()}


@dataclasses.dataclass(frozen=True)
class _Alike:
    """Networks that can be looked at side by side."""

    task: str
    runs: Mapping[str, tuple[str, ...]]
    networks: NamedNetworks


def look_inside(runs: Sequence[ReportedRun], images: Sequence[str] = (), out: Path = Path()) -> Inside:
    """Look into the networks of runs; what cannot be looked into is left out, with the reason.

    Args:
        runs: of whatever tasks.
        images: files, folders and patterns, for activation maps and gradients.
        out: what is written, and not searched for images.

    Raises:
        ConfigError: an image cannot be read, or is none that a network takes; nothing is computed then.
    """
    loaded: dict[str, FinishedRun] = {}
    left_out: dict[str, str] = {}
    for run in runs:
        try:
            loaded[run.name] = load_run(run.folder.path, folded=False)
        except (ConvOfConvError, *FORWARD_ERRORS) as error:
            left_out[run.name] = str(error)
    alike = list(_alike(runs, loaded))
    prepared = [
        prepare_images(images, one.networks.first, one.networks.recipe, out) if images else None for one in alike
    ]
    looks = {}
    with progress_bar(len(alike) * len(WANTED.topics), "looking inside") as bar:
        for one, given in zip(alike, prepared, strict=True):
            if bar.disable:
                print_line(f"looking inside: {one.task}: {', '.join(one.runs)}")
            tasks = [other.task for other in alike]
            which = "" if tasks.count(one.task) == 1 else f": {', '.join(one.runs)}"
            looks[f"{one.task}{which}"] = _look(f"{one.task.replace('_', ' ')}{which}", one, given, bar)
    return Inside(looks, left_out)


def _alike(runs: Sequence[ReportedRun], loaded: Mapping[str, FinishedRun]) -> Iterator[_Alike]:
    groups: dict[Any, list[ReportedRun]] = {}
    for run in runs:
        if run.name in loaded:
            network = loaded[run.name]
            groups.setdefault((run.task, network.classes, _layers(network.network)), []).append(run)
    for (task, classes, _), those in groups.items():
        variants = {run.variant: tuple(one.name for one in those if one.variant == run.variant) for run in those}
        by_name = {name: tuple(loaded[seed].network for seed in seeds) for name, seeds in variants.items()}
        yield _Alike(task, variants, NamedNetworks(by_name, loaded[those[0].name].recipe, classes))


def _layers(network: nn.Module) -> tuple[Any, ...]:
    return tuple((name, conv.in_channels, conv.out_channels, kernel_size(conv)) for name, conv in convs(network))


def _look(title: str, alike: _Alike, images: PreparedImages | None, bar: Any) -> Look:
    """Topic by topic, so that one that fails takes no other with it."""
    found: dict[str, Any] = {"images": images, "classes": alike.networks.classes}
    remarks: list[str] = []
    problems: dict[Topic, str] = {}
    for topic in TOPICS:
        try:
            part = inspect_networks(alike.networks, dataclasses.replace(WANTED, topics=(topic,)), images)
        except (ConvOfConvError, *FORWARD_ERRORS) as error:
            problems[topic] = str(error)
        else:
            values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
            found |= {key: value for key, value in values.items() if value and key not in (*found, "remarks")}
            remarks += [remark for remark in part.remarks if remark not in remarks]
        bar.update()
    inspection = Inspection(**found, remarks=tuple(remarks))
    grids = {layer: grids_side_by_side(alike.networks.one_of_each, layer) for layer in inspection.mosaics}
    return Look(title, alike.runs, inspection, grids, problems)
