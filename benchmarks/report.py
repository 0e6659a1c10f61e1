"""Tables and plots of all records: writes ``benchmarks/RESULTS.md`` and ``benchmarks/figures``.

python -m benchmarks.report
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from .association import LAYERS, PEERS, SIDES, WIDTHS
from .contenders import CONTENDERS
from .records import read_records

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
Record = dict[str, Any]
PARTS = ("association", "floors", "train_step", "memory", "folding", "receptive_field")

WHY_NOT_LESS = """### What is not reached, and why

The aims are the project's own; where a row misses its aim, this is what stands between it and the floor on a CPU.

- A weight lies in memory as (co, ci, k²), a product wants the input channels behind: five transpositions per step, as
  long together as half of the products. Channels-last weights need none.
- Products with 36×36 matrices run below the rate of a large product, and so do all operations on the narrow layers of
  an HRNet, although those are computed together.
- An operator is launched from Python, with caches that the convolutions have just filled with something else.
- The kernels and their gradient are written to fresh memory, which the operating system hands out page by page.

Standardization, the cheapest map there is (a mean, a deviation, one pass each way), is measured beside it: that is
what computing kernels by a handful of torch's operations costs at least. Tried without gain: splitting a dilated super
kernel into its phases (a quarter of the products for two gathers more), adding the skip inside the matrix, multiplying
in the weight's own layout, norms over a few channels at a time, huge pages."""

ON_GPUS = """A layer alone is a matter of launching operations from Python here, whatever its size and whatever changes
its kernels. So in a network layers of one geometry are computed in one batch (`convofconv.runtime.batched`), and the
steps below cost less than the sum of their layers."""

INTRODUCTION = """# Speed

Measured by ratio: the contenders of a row take turns in one run, and its ratios are medians over turns, with their
quartiles in brackets. Times are medians in milliseconds and say little on a machine that others use too. Everything is
float32 and the `poster` configuration unless the row says otherwise. Records are in `results/`; repeat everything with
`python -m benchmarks` (an idle machine, about half an hour; a run that was stopped goes on where it was), add a GPU's
rows with `python -m benchmarks --device cuda`.
"""


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    sections = [INTRODUCTION]
    parts = {part: read_records(part) for part in PARTS}
    machines = list(dict.fromkeys(record["machine"] for records in parts.values() for record in records))
    for number, machine in enumerate(machines):
        mine = {part: [r for r in records if r["machine"] == machine] for part, records in parts.items()}
        sections += [f"# {machine}", origin([record for records in mine.values() for record in records])]
        if mine["association"]:
            sections += alone(mine["association"], number)
            sections += [] if has_no_gpu(machine) else [ON_GPUS]
        if mine["train_step"]:
            sections += steps(mine["train_step"], _floors(mine), number)
        if mine["memory"]:
            sections += memory(mine["memory"])
        if mine["folding"]:
            sections += folding(mine["folding"])
        if mine["receptive_field"]:
            sections += receptive_fields(mine["receptive_field"])
    text = "\n\n".join(section.strip() for section in sections) + "\n"
    (HERE / "RESULTS.md").write_text(text, encoding="utf-8")


def origin(records: list[Record]) -> str:
    """Which code was measured."""
    commits = dict.fromkeys(record.get("commit", "") for record in records)
    told = [f"at commit {name}" if name else "of code that the records do not name yet" for name in commits]
    return f"Measured {', and '.join(told)}."


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def ratio(timing: Record) -> str:
    return f"{timing['ratio']:.3g} ({timing['low']:.3g} to {timing['high']:.3g})"


def floor(record: Record) -> float:
    return max(record["floor_bytes_ms"], record["floor_products_ms"])


def alone(records: list[Record], number: int) -> list[str]:
    by_row = {tuple(r["settings"][key] for key in ("co", "ci", "k", "side")): r for r in records}
    layers = [by_row[row] for row in [(*layer, 2) for layer in LAYERS] if row in by_row]
    rows = []
    for record in layers:
        times, settings = record["times"], record["settings"]
        ours, last, poster = times["ours"], times["ours, channels-last"], times["poster's way"]
        rows.append(
            (
                "{co}×{ci}×{k}×{k}".format(**settings),
                f"{poster['milliseconds']:.2f}",
                f"{ours['milliseconds']:.2f}",
                ratio(poster) + "×",
                f"{last['milliseconds']:.2f}",
                f"{poster['ratio'] / last['ratio']:.3g}×",
                f"{floor(record):.2f}",
                f"{ours['milliseconds'] / floor(record):.2f} / {last['milliseconds'] / floor(record):.2f}",
            )
        )
    header = ["layer", "poster's way, ms", "ours, ms", "faster", "channels-last, ms", "faster", "floor, ms"]
    machine = layers[0]
    text = [
        "## The association alone, forward and backward",
        table([*header, "ours / floor"], rows),
        "The floor is the larger of five passes over the weight's bytes, cold, at the measured "
        f"{machine['bytes_per_second'] / 1e9:.1f} GB/s and the arithmetic at the measured "
        f"{machine['products_per_second'] / 1e9:.0f} GFLOP/s of a large matrix product. Layers that compute directly "
        "(the 7×7 stem) do far fewer operations than that floor assumes.",
    ]
    wide = [by_row[row] for row in [(*layer, 2) for layer in PEERS] if row in by_row]
    if wide:
        names = sorted({name for r in wide for name in r["times"]}, key=lambda name: wide[0]["times"][name]["ratio"])
        peers = [(name, *(ratio(r["times"][name]) if name in r["times"] else "" for r in wide)) for name in names]
        layers_of = ("{co}×{ci}×{k}×{k}".format(**r["settings"]) for r in wide)
        text += ["### Everything that changes a kernel, ours = 1", table(["kernel map", *layers_of], peers)]
    widths = [by_row[row] for row in [(w, w, 3, 2) for w in WIDTHS] if row in by_row]
    sides = [by_row[row] for row in [(256, 256, 3, s) for s in SIDES] if row in by_row]
    if widths and sides:
        name = f"association-{number}.png"
        draw_scaling(widths, sides, FIGURES / name)
        text += ["### Wider layers, larger grids", f"![time of the association](figures/{name})"]
    return text


def draw_scaling(widths: list[Record], sides: list[Record], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    panels = (
        (axes[0], widths, "co", "width of a 3×3 layer"),
        (axes[1], sides, "side", "side of the grid, 256×256×3×3"),
    )
    for axis, records, key, label in panels:
        at = [r["settings"][key] for r in records]
        for name in ("poster's way", "ours", "ours, channels-last"):
            axis.plot(at, [r["times"][name]["milliseconds"] for r in records], marker="o", label=name)
        axis.plot(at, [floor(r) for r in records], color="black", linestyle=":", label="floor")
        axis.set(xlabel=label, ylabel="forward and backward, ms", yscale="log")
        axis.set_xscale("log", base=2)
        axis.set_xticks(at, [str(value) for value in at], minor=False)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _run(record: Record) -> tuple[bool, str, str]:
    """What sets of rows differ in; eager ones first."""
    autocast, compiled = record["settings"]["autocast"], record["settings"]["compiled"]
    return compiled != "eager", autocast, compiled


def _floors(parts: dict[str, list[Record]]) -> dict[str, float]:
    """Milliseconds that associating each network's kernels takes at least, where this machine's speed is known."""
    if not parts["association"]:
        return {}
    speed = parts["association"][0]
    bandwidth, rate = speed["bytes_per_second"], speed["products_per_second"]
    return {
        r["settings"]["network"]: 1e3 * max(r["bytes"] / bandwidth, r["operations"] / rate) for r in parts["floors"]
    }


def steps(records: list[Record], floors: dict[str, float], number: int) -> list[str]:
    on_cpu = has_no_gpu(records[0]["machine"])  # the aims are for two of its cores
    text = ["## A whole training step: SGD with momentum, every conv with k ≠ 1 converted, heads included"]
    for (is_compiled, autocast, compiled), group in groupby(sorted(records, key=_run), key=_run):
        run = list(group)
        rows = []
        for record in run:
            ours = record["times"]["ours"]
            own = record["settings"]["batch"], record["settings"]["layout"]
            plain = record["times"]["plain"]["milliseconds"]
            least = floors.get(record["settings"]["network"])
            rows.append(
                (
                    f"{record['settings']['network']}, {record['pixels']} px",
                    *own,
                    f"{plain:.0f}",
                    ratio(ours),
                    f"{record['target']:.2f}" if on_cpu else "",
                    f"{1 + least / plain:.3f}" if least and autocast == "float32" else "",
                )
            )
        header = ["network", "batch", "memory format", "plain, ms", "ours / plain", "aim", "floor"]
        name = f"steps-{number}-{autocast}-{compiled}.png"
        draw_steps(run, FIGURES / name)
        text += [
            f"### {autocast}, {f'compiled ({compiled})' if is_compiled else compiled}",
            table(header, rows),
            "The floor is what remains if the kernels cost nothing but the larger of moving their bytes five times at "
            "the measured bandwidth and their matrix products at the rate of a large one.",
            f"![ratio of a training step to plain](figures/{name})",
        ]
        broad = [record for record in run if len(record["times"]) > 2]
        if broad:
            names = [name for name in CONTENDERS if any(name in record["times"] for record in broad)]
            body = [
                (name, *(ratio(r["times"][name]) if name in r["times"] else "" for r in broad))
                for name in names
                if name != "plain"
            ]
            text.append(
                table(["step / plain", *(f"{r['settings']['network']}, {r['pixels']} px" for r in broad)], body)
            )
    return [*text, WHY_NOT_LESS] if on_cpu else text


def has_no_gpu(machine: str) -> bool:
    """Whether figures are of a CPU, whose threads are told."""
    return " threads, " in machine


def draw_steps(records: list[Record], path: Path) -> None:
    aims = has_no_gpu(records[0]["machine"])
    figure, axis = plt.subplots(figsize=(8, 0.35 * len(records) + 1.2), layout="constrained")
    for at, record in enumerate(records):
        timing = record["times"]["ours"]
        spread = [[timing["ratio"] - timing["low"]], [timing["high"] - timing["ratio"]]]
        last = record["settings"]["layout"] == "channels-last"
        axis.errorbar(timing["ratio"], at, xerr=spread, marker="s" if last else "o", color="C1" if last else "C0")
        if aims:
            axis.plot(record["target"], at, marker="|", markersize=14, color="black")
    axis.axvline(1, color="grey", linewidth=0.8)
    names = [f"{r['settings']['network']}, {r['pixels']} px, {r['settings']['layout']}" for r in records]
    axis.set_yticks(range(len(records)), names)
    axis.set_ylim(len(records) - 0.5, -0.5)
    axis.set(xlabel="step of the converted network / plain, quartiles" + ("; black: aim" if aims else ""))
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def memory(records: list[Record]) -> list[str]:
    rows = []
    for r in records:
        extra, kernels = r["ours_peak_bytes"] - r["plain_peak_bytes"], r["kernel_bytes"]
        own = r["settings"]["network"], r["settings"]["layout"], f"{kernels / 1e6:.2f}"
        rows.append((*own, f"{r['plain_peak_bytes'] / 1e6:.0f}", f"{extra / 1e6:.1f}", f"{extra / kernels:.2g}×"))
    header = ["network", "memory format", "converted kernels, MB", "plain step, MB", "more, MB", "per kernel"]
    beyond = "weights and momentum" if all("code" in r for r in records) else "weights, momentum and gradients"
    return [
        "## Peak memory of a training step",
        table(header, rows),
        f"The peak of a plain step beyond {beyond}, and what the converted one takes more. A group's matrix has "
        "(sa² k²)² numbers, so with depthwise kernels, of a single input channel, it is far larger than the kernels, "
        "and both are a small part of the step.",
    ]


def folding(records: list[Record]) -> list[str]:
    rows = [
        (
            r["settings"]["network"],
            f"{1e3 * r['convert_s']:.0f}",
            f"{1e3 * r['reparameterize_s']:.0f}",
            "yes" if r["graphs_equal"] else "**no**",
            ratio(r["times"]["folded"]),
        )
        for r in records
    ]
    header = ["network", "convert, ms", "reparameterize, ms", "same graph as plain", "inference: folded / plain"]
    return [
        "## Surgery, and inference after folding",
        table(header, rows),
        "The exported graphs of the folded and the plain network are compared operation by operation; where they are "
        "equal, what the last column differs from 1 is the noise of this machine.",
    ]


def receptive_fields(records: list[Record]) -> list[str]:
    rows = []
    for r in records:
        settings, times = r["settings"], r["times"]
        rows.append(
            (
                f"{settings['network']}, {settings['layer']}",
                f"{times['plain']['milliseconds'] / 1e3:.1f}",
                f"{times['effective field']['milliseconds'] / 1e3:.1f}",
                ratio(times["effective field"]),
                ratio(times["both fields"]),
                f"{r['target']:.2f}",
            )
        )
    header = ["layer", "plain passes, s", "effective field, s", "effective / plain", "both fields / plain", "aim"]
    pixels, images = records[0]["settings"]["pixels"], records[0]["settings"]["images"]
    return [
        f"## The receptive fields of a layer, {images} images of {pixels} px",
        table(header, rows),
        "A plain pass is one forward and backward with the gradients of all parameters, in batches of the same size. "
        "The effective field needs the gradients of the images alone, of layers up to the one that is looked at. The "
        "theoretical one does not depend on the images: it costs the same for one.",
    ]


if __name__ == "__main__":
    main()
