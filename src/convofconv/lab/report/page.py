"""What ``coc report`` does: finished runs in, one HTML page and its numbers as JSON out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ... import __version__
from ...errors import ConfigError, listing
from ..files.atomic import new_folder, write_atomic
from ..files.run_folder import RunFolder
from ..found_by_name import find
from ..predict.image_files import image_paths
from .looks import Inside, look_inside
from .parts.line_chart import CHART
from .parts.rendering import as_it_is, json_able, render
from .parts.section import Section
from .reported_runs import ReportedRun, by_task, read_runs

#: Sections on what is inside of the networks.
INSIDE = (
    *("looked_into", "kernels", "kernel_groups", "receptive_fields", "compared_maps", "gradients"),
    "association_state",
)
#: The page from top to bottom: files of ``sections/``. A new section is a file there and its name here; those of
#: :data:`INSIDE` are given what was found inside, the others the runs.
SECTIONS = (
    *("configuration", "learning_curves", "final_scores", "training_cost", "folding_check"),
    *INSIDE,
    "origin",
)


def run_report(
    runs: Sequence[Path],
    out: Path,
    json_file: Path | None = None,
    inspection: bool = True,
    images: Sequence[str] = (),
) -> None:
    """Report finished runs on one page that opens from disk and needs no network.

    Args:
        runs: their folders.
        out: the page, which ends in ``.html``.
        json_file: every number of it; beside the page if not given.
        inspection: whether the networks are looked into.
        images: files, folders and patterns of images that activation maps are drawn of.

    Raises:
        ConfigError: a folder holds no finished run or is given twice, a file cannot be written there, or an image not
            be read.
    """
    if images and not inspection:
        raise ConfigError("--images: activation maps look into networks; leave out --no-inspection")
    if images:
        image_paths(images, out)
    numbers_file = json_file or out.with_suffix(".json")
    read = read_runs(runs)
    _check_files(out, numbers_file, read)
    with contextlib.ExitStack() as folders:
        for file in (out, numbers_file):
            folders.enter_context(new_folder(file.parent))
        page, numbers = build_page(read, look_inside(read, images, out) if inspection else None)
        write_atomic(numbers_file, (json.dumps(numbers, indent=2, allow_nan=False) + "\n").encode())
        write_atomic(out, page.encode())
    print(f"{out} (numbers: {numbers_file})")


def build_page(runs: Sequence[ReportedRun], inside: Inside | None = None) -> tuple[str, dict[str, Any]]:
    """The page and its numbers; the same runs give the same bytes.

    Args:
        runs: that are reported.
        inside: what was found in their networks; the sections on it are left out if not given.
    """
    names = [name for name in SECTIONS if inside is not None or name not in INSIDE]
    found = {
        name.replace("_", "-"): find("report.sections", name).section(inside if name in INSIDE else runs)
        for name in names
    }
    sections: dict[str, Section] = {name: one for name, one in found.items() if one is not None}
    numbers = {
        "convofconv": __version__,
        "runs": {
            run.name: {
                "folder": str(run.folder.path),
                "task": run.task,
                "variant": run.variant,
                "seed": run.seed,
                "metric": run.metric,
            }
            for run in runs
        },
        "sections": {name: json_able(one.numbers) for name, one in sections.items()},
    }
    return assemble(_title(runs), _lead(runs), sections, numbers), numbers


def assemble(title: str, lead: Sequence[str], sections: Mapping[str, Section], numbers: Mapping[str, Any]) -> str:
    """Sections to one page, with styles, scripts and, where there are charts, the plotting library in it.

    Args:
        title: of the page.
        lead: lines below it.
        sections: by their ids.
        numbers: to be put into the page.
    """
    charts = any(CHART in section.body for section in sections.values())
    page = render(
        "page.html",
        title=title,
        lead=lead,
        version=__version__,
        sections=sections,
        numbers=numbers,
        style=as_it_is("page.css"),
        library=Markup(get_plotlyjs() if charts else ""),
        script=as_it_is("page.js"),
    )
    return str(page)


def _title(runs: Sequence[ReportedRun]) -> str:
    names = listing((run.name for run in runs), 4)
    return f"Run {names}" if len(runs) == 1 else f"{len(runs)} runs: {names}"


def _lead(runs: Sequence[ReportedRun]) -> list[str]:
    """A line per task: on what which networks were trained."""
    lines = []
    for task, those in by_task(runs).items():
        data = ", ".join(dict.fromkeys(str(run.recipe["data"]["name"]) for run in those))
        backbones = ", ".join(dict.fromkeys(str(run.recipe["model"]["backbone"]) for run in those))
        variants = ", ".join(dict.fromkeys(run.variant for run in those))
        lines.append(f"{task.replace('_', ' ').capitalize()} on {data} with {backbones}: {variants}.")
    return lines


def _check_files(out: Path, numbers_file: Path, runs: Sequence[ReportedRun]) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out: a report is an HTML page, give a file that ends in .html, not {out}")
    if out.resolve() == numbers_file.resolve():
        raise ConfigError(f"--json: {numbers_file} is the page itself; give another file")
    for option, file in (("--out", out), ("--json", numbers_file)):
        if file.is_dir():
            raise ConfigError(f"{option}: {file} is a folder; give a file in it")
        for run in runs:
            if file.resolve() in {path.resolve() for path in _files_of(run.folder)}:
                raise ConfigError(f"{option}: {file} is a file of the run itself; give another one")


def _files_of(folder: RunFolder) -> list[Path]:
    """What a run has written, which a report must not take the place of."""
    return [folder.recipe, folder.results, folder.last, folder.best, folder.model, folder.converted, folder.log]
