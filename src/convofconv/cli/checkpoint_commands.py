"""``coc summary``, ``fold`` and ``verify``: networks and checkpoints of any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..maps import method_list, method_names
from .command import Command, Group

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _arch_options(parser: ArgumentParser, positional: bool) -> None:
    text = "timm/NAME, torchvision/NAME, or module:function of your own"
    if positional:
        parser.add_argument("arch", type=str, metavar="ARCH", help=f"{text}; or RUN, the folder of a run")
    else:
        parser.add_argument(
            "--arch", type=str, metavar="ARCH", help=f"{text} (default: the network of the run that CHECKPOINT is of)"
        )
    parser.add_argument(
        "--options",
        type=dict[str, Any],
        default={},
        metavar="JSON",
        help="arguments of the network: --options.num_classes 10, or as JSON (default: none)",
    )


def _weights_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        choices=("average", "raw"),
        default="average",
        help="of a checkpoint that holds both: the moving average, or the raw weights (default: average)",
    )


def _summary_options(parser: ArgumentParser) -> None:
    _arch_options(parser, positional=True)
    parser.add_argument(
        "--method",
        type=str,
        metavar="METHOD",
        help=f"{method_names()}, joined with + (default: coc, or that of the run)",
    )
    parser.add_argument(
        "--preset",
        "--config",
        type=str,
        metavar="PRESET",
        help="poster, released or lightweight (default: poster, or that of the run)",
    )
    parser.add_argument(
        "--where",
        type=str,
        default=[],
        nargs="+",
        metavar="PATTERN",
        help="convs by name, of any kind, with * for any text (default: every conv but 1×1 ones)",
    )


def _summary(options: Namespace) -> None:
    from ..lab.checkpoint_tools import run_summary

    run_summary(**vars(options))


def _fold_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="of a converted network, or RUN, the folder of a run"
    )
    _arch_options(parser, positional=False)
    _weights_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to: .safetensors, .pt or .pth")


def _fold(options: Namespace) -> None:
    from ..lab.checkpoint_tools import run_fold

    run_fold(**vars(options))


def _verify_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="converted or plain, or RUN, the folder of a run"
    )
    parser.add_argument(
        "folded",
        type=Path,
        nargs="?",
        metavar="FOLDED",
        help="what should compute the same (RUN: its folded network)",
    )
    _arch_options(parser, positional=False)
    _weights_option(parser)
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        metavar="N",
        help="of the random input (default: 2 3 224 224, or two images of the size that the run was trained on)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-5, metavar="T", help="largest relative difference (default: %(default)s)"
    )


def _verify(options: Namespace) -> None:
    from ..lab.checkpoint_tools import run_verify

    run_verify(**vars(options))


COMMANDS: dict[str, Command | Group] = {
    "summary": Command(
        "show which convs of a network are converted, which are not and why",
        f"""\
Build a network without weights, convert it, and print a line per conv. Of a run, RUN is the folder, and its network is
converted as it was.

methods:
{method_list()}

examples:
  coc summary timm/resnet50
  coc summary runs/digits-resnet18-coc-seed0
  coc summary torchvision/retinanet_resnet50_fpn --method coc+stnd --preset released
  coc summary timm/resnet18 --where "layer4.*" --options.num_classes 10""",
        _summary_options,
        _summary,
    ),
    "fold": Command(
        "fold a converted network's checkpoint into one of plain convs",
        """\
Read the state dict of a converted network, compute its kernels once, and write a checkpoint that loads strictly into
the plain architecture. What was converted, and how, is in the checkpoint. Files are read without executing code. Where
one also holds a moving average of the weights (EMA), that is folded. Of a run, RUN is the folder, or CHECKPOINT a file
in it: its network is known, and of the folder the best epoch is folded.

examples:
  coc fold last.ckpt --arch timm/resnet50 --out model.safetensors
  coc fold runs/digits-resnet18-coc-seed0 --weights raw --out raw.safetensors
  coc fold runs/digits-resnet18-coc-seed0/last.ckpt --out last.safetensors""",
        _fold_options,
        _fold,
    ),
    "verify": Command(
        "check that two checkpoints of one architecture compute the same",
        """\
Run both networks on one random input and compare. Exit code 0 if they agree, 1 if not; then the first layer that
differs is named. Of a run, RUN is the folder: its best network as it was trained is compared with FOLDED, or with the
network that it was folded into.

examples:
  coc verify last.ckpt model.safetensors --arch timm/resnet50 --shape 2 3 224 224
  coc verify runs/digits-resnet18-coc-seed0""",
        _verify_options,
        _verify,
    ),
}
