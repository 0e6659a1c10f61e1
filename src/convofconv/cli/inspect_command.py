"""``coc inspect``: kernels, receptive fields, activation maps and gradients of trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import Command, Group

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_TOPICS = "kernels, groups, fields, maps, gradients, health"


def _inspect_options(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("networks", type=Path, nargs="*", metavar="RUN", help="folders of runs, or checkpoints of --arch")
    option("--arch", type=str, metavar="ARCH", help="timm/NAME, torchvision/NAME, or module:function, in place of runs")
    option(
        "--options",
        type=dict[str, Any],
        default={},
        metavar="JSON",
        help="arguments of the network: --options.pretrained true, or as JSON (default: none)",
    )
    option("--method", type=str, metavar="METHOD", help="also ARCH converted in this way (default: none)")
    option("--preset", type=str, metavar="PRESET", help="of the association (default: poster)")
    option(
        "--layer",
        type=str,
        nargs="+",
        default=[],
        metavar="LAYER",
        help="whose kernels, field and map (default: see above)",
    )
    option("--images", type=str, nargs="+", default=[], metavar="IMAGE", help="for activation maps (default: none)")
    option("--only", type=str, nargs="+", default=[], metavar="TOPIC", help=f"some of {_TOPICS} (default: all)")
    option("--maps", type=str, default="grad-cam", metavar="METHOD", help="of activation maps (default: grad-cam)")
    option("--groups", type=int, default=8, metavar="N", help="of kernels that are drawn at most (default: 8)")
    option("--noise", type=int, default=8, metavar="N", help="images of noise for receptive fields (default: 8)")
    option("--draws", type=int, default=39, metavar="N", help="of permuted kernels, for p-values (default: 39)")
    option("--out", type=Path, metavar="DIR", help="for figures and numbers (default: RUN/inspect, or runs/inspect)")


def _inspect(options: Namespace) -> None:
    from ..lab.inspect.inspection import TOPICS, Wanted
    from ..lab.inspect.run_inspect import run_inspect

    wanted = Wanted(
        tuple(options.only) or TOPICS, tuple(options.layer), options.maps, options.noise, options.groups, options.draws
    )
    run_inspect(
        options.networks,
        options.out,
        wanted,
        options.images,
        options.arch,
        options.options,
        options.method,
        options.preset,
    )


COMMANDS: dict[str, Command | Group] = {
    "inspect": Command(
        "look inside of networks: kernels, receptive fields, activation maps, gradients",
        """\
coc inspect RUN [RUN ...] [--layer LAYER ...] [--images IMAGES ...] [--out DIR]
coc inspect [CHECKPOINT ...] --arch ARCH [--method METHOD] [...]

Draw and measure what is inside of trained networks, side by side: kernels in their groups beside their super kernels,
whether those of a group are alike, effective receptive fields, activation maps with the fields drawn in, gradients that
come through neighbours, and the health of every association. Runs that differ in their seed alone count as one network.
Where no layers are named, kernels are those of the first and the middle conv that is associated, fields and maps those
of the backbone's last stage.

examples:
  coc inspect runs/digits-resnet18-plain-seed0 runs/digits-resnet18-coc-seed0 --images photos
  coc inspect runs/digits-resnet18-coc-seed0 --layer layer2.0.conv1 --only kernels groups
  coc inspect --arch timm/resnet50 --options.pretrained true --method coc --only fields""",
        _inspect_options,
        _inspect,
    )
}
