"""Every part of the benchmarks, one after the other, then the report.

python -m benchmarks                   # on the CPU
python -m benchmarks --device cuda     # whole steps in float32 and bfloat16, eager and compiled
"""

from __future__ import annotations

import argparse
import subprocess
import sys

CPU = (
    "association",
    "folding",
    "floors",
    "memory",
    "receptive_field",
    "train_step",
    "train_step --networks ResNet-18 --layouts contiguous --compile --only-ours",
)
CUDA = (
    "association",
    "folding",
    "floors",
    "memory",
    *(
        f"train_step --only-ours {precision} {mode} {size}".strip()
        for size in ("--networks ResNet-50 --batch 128", "--networks HRNet-w18 FCN-r50-d8 RetinaNet-r50 --batch 32")
        for precision in ("", "--autocast bfloat16")
        for mode in ("", "--compile", "--compile --compile-mode reduce-overhead")
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--again", action="store_true", help="measure rows anew that have a record")
    arguments = parser.parse_args()
    # Every part has a process of its own, so that none inherits another's heap.
    for part in CPU if arguments.device == "cpu" else CUDA:
        command = [sys.executable, "-m", *f"benchmarks.{part}".split(), "--device", arguments.device]
        subprocess.run(command + ["--again"] * arguments.again, check=True)
    subprocess.run([sys.executable, "-m", "benchmarks.report"], check=True)


if __name__ == "__main__":
    main()
