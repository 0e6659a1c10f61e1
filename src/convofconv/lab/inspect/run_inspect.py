"""What ``coc inspect`` does: networks in, figures, numbers and a few lines out."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ...errors import ConfigError
from ..files.atomic import new_folder, write_atomic
from ..files.run_folder import RunFolder
from ..progress import print_line, progress_bar
from .field_figure import sizes_line
from .inspection import Inspection, Topic, Wanted, inspect_networks
from .kernel_nulls import CLAIMED
from .named_networks import NamedNetworks, networks_of_architecture, networks_of_runs
from .prepared_images import prepare_images

#: Every number that was found.
NUMBERS = "inspection.json"


def run_inspect(
    networks: Sequence[Path],
    out: Path | None,
    wanted: Wanted,
    images: Sequence[str] = (),
    arch: str | None = None,
    options: Mapping[str, Any] | None = None,
    method: str | None = None,
    preset: str | None = None,
) -> None:
    """Look into networks side by side, and write figures and numbers.

    Args:
        networks: folders of runs, or checkpoints of ``arch``.
        out: folder for what is written; ``inspect`` in a single run's folder, ``runs/inspect`` otherwise.
        wanted: what is looked at.
        images: files, folders and patterns, for activation maps and gradients.
        arch: an architecture, in place of runs.
        options: arguments of its constructor.
        method: to convert it with, where there are no checkpoints.
        preset: of the association.

    Raises:
        ConfigError: a network cannot be loaded or has no such layer, an image cannot be read, or ``out`` not be written
            to; nothing is computed then.
    """
    loaded = _load(networks, arch, options or {}, method, preset)
    folder = out or (
        RunFolder(networks[0]).path / "inspect" if len(networks) == 1 and not arch else Path("runs/inspect")
    )
    with new_folder(folder):
        given = prepare_images(images, loaded.first, loaded.recipe, folder) if images else None
        with progress_bar(len(wanted.topics), "topics") as bar:

            def report(topic: Topic) -> None:
                bar.update()
                if bar.disable:
                    print_line(f"{topic}: done")

            found = inspect_networks(loaded, wanted, given, report)
        for name, figure in found.figures().items():
            write_atomic(folder / f"{name}.png", _png(figure))
        write_atomic(folder / NUMBERS, (json.dumps(found.numbers(), indent=2, allow_nan=False) + "\n").encode())
    for line in summarize(found):
        print_line(line)
    print_line(f"figures and {NUMBERS}: {folder}")


def summarize(found: Inspection) -> list[str]:
    """What was found, in lines."""
    lines = [
        f"{name}: {layer}: {sizes_line(one).replace(chr(10), ', ')}"
        for name, by in found.fields.items()
        for layer, one in by.items()
    ]
    for name, layers in found.groups.items():
        for layer, groups in layers.items():
            tests = {
                measure: (groups.tests[measure].effect_size, groups.tests[measure].p_value(claimed))
                for measure, claimed in CLAIMED.items()
                if measure in groups.tests
            }
            tests |= {measure: (tests[measure][0], p) for measure, p in groups.over_seeds.items()}
            if said := [
                f"{measure.replace('_', ' ')} z {z:+.1f} (p {p:.2g})"
                for measure, (z, p) in tests.items()
                if z is not None and p is not None
            ]:
                over = ", p over seeds" if groups.over_seeds else ""
                lines.append(f"{name}: {layer}: groups against permuted kernels{over}: {', '.join(said)}")
    for name, shares in found.shares.items():
        means = [one.mean for one in shares if one.mean is not None]
        if means:
            mean = 100 * sum(means) / len(means)
            lines.append(f"{name}: {mean:.1f} % of the kernels' gradients come through their neighbours")
    for name, health in found.health.items():
        problems = [f"{layer.layer}: {layer.problem}" for layer in health.layers if layer.problem]
        lines += [f"{name}: {problem}" for problem in problems] or [f"{name}: all associations are healthy"]
    return [*lines, *found.remarks]


def _load(
    networks: Sequence[Path], arch: str | None, options: Mapping[str, Any], method: str | None, preset: str | None
) -> NamedNetworks:
    if arch is not None:
        return networks_of_architecture(arch, options, networks, method, preset)
    if not networks:
        raise ConfigError("name the folders of runs, or an architecture: coc inspect --arch timm/resnet50")
    if options or method or preset:
        raise ConfigError("--options, --method and --preset are for --arch; runs say themselves what they are")
    if files := [path for path in networks if path.is_file()]:
        raise ConfigError(f"{files[0]} is a file: of which architecture? Give --arch, timm/resnet50 for example")
    return networks_of_runs(networks)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
