"""The least that associating a network's kernels can cost: bytes to move and operations to do, per training step.

    python -m benchmarks.floors

Counted, not measured; ``benchmarks/report.py`` divides by the measured bandwidth and rate of the machine.
"""

from __future__ import annotations

import argparse

import convofconv as coc

from .contenders import EVERYTHING
from .networks import NETWORKS
from .records import add_common_arguments, has_record, write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser, turns=1)
    arguments = parser.parse_args()
    for network in NETWORKS:
        settings = {"network": network.name}
        if has_record("floors", settings, arguments):
            continue
        model = coc.convert(network.build(), where=EVERYTHING)
        layers = moved = operations = 0
        for module in model.modules():
            for association in coc.kernel_maps(module):
                weight = module.parametrizations.weight.original
                layers += 1
                moved += 5 * weight.nbytes
                # Forward, and in backward the products for W and for S; directly, one per tap and number.
                per_number = association.grid.taps if association.way == "direct" else association.grid.positions
                operations += 3 * 2 * per_number * weight.numel()
        write_record("floors", settings, {"layers": layers, "bytes": moved, "operations": operations}, arguments)


if __name__ == "__main__":
    main()
