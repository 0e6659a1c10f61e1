"""``coc demo``: the first thing to try."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..lab.demo.settings import DemoSettings
from ..maps import method_names
from .command import Command, Group

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _demo_options(parser: ArgumentParser) -> None:
    default = DemoSettings()

    def option(name: str, kind: type, metavar: str, text: str) -> None:
        value = getattr(default, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=value, metavar=metavar, help=text)

    option("data", Path, "DIR", "folder of images (default: the digits)")
    option("out", Path, "DIR", "folder for the results, made if missing (default: %(default)s)")
    parser.add_argument(
        "--methods",
        default=",".join(default.methods),
        metavar="LIST",
        help=f"what to compare, with commas: plain, {method_names()}, joined with + (default: %(default)s)",
    )
    option("seeds", int, "N", "trainings per method, with seeds 0 to N-1 (default: %(default)s)")
    option("epochs", int, "N", "passes over the training images (default: %(default)s)")
    option("train-images", int, "N", "most images to train on, as many of each class (default: %(default)s)")
    option("test-images", int, "N", "most images to test on, as many of each class (default: %(default)s)")
    option("size", int, "PIXELS", "side of the square that your images are scaled and cut to (default: %(default)s)")
    option("threads", int, "N", "CPU threads; more hardly speed so small a network up (default: %(default)s)")


def _demo(options: Namespace) -> None:
    from ..lab.demo.comparison import run_demo

    methods = tuple(name.strip() for name in options.methods.split(","))
    run_demo(DemoSettings(**{**vars(options), "methods": methods}))


COMMANDS: dict[str, Command | Group] = {
    "demo": Command(
        "train, fold and compare on real digits, or on your images, in a few minutes",
        """\
Train a small ResNet on handwritten digits: plain, with weight standardization (stnd), with the convolution of
convolution (coc), and with both. Every method starts from the same weights and sees the same order of images on each
seed. Then fold each network into plain convs, check that it still computes the same, and print one table: accuracy
after the last epoch, parameters in training and deployed, time per training step, largest difference after folding.

Learning curves, scores, the learnt kernels of one layer and all numbers are written to a folder. After an interruption
the same command resumes.

examples:
  coc demo
  coc demo --data flowers --methods plain,coc --seeds 5

--data takes a folder with a folder of images per class (a fifth of each class is kept for testing), a folder with
such folders in train and val, or CIFAR-10 or CIFAR-100 as unpacked from their archives.""",
        _demo_options,
        _demo,
    ),
}
