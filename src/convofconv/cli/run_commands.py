"""``coc fit``, ``validate``, ``test``, ``recipes``, ``predict`` and ``report``: training runs and their use."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from .command import Command, Group

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _run_options(parser: ArgumentParser) -> None:
    from ..lab.recipe.options import add_recipe_options

    add_recipe_options(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the run, runs/RECIPE-METHOD-seedN if not given"
    )


def _fit_options(parser: ArgumentParser) -> None:
    _run_options(parser)
    parser.add_argument("--resume", action="store_true", help="resume the run in the folder, if there is one")
    parser.add_argument("--profile", action="store_true", help="measure loader and network, and train nothing")


def _fit(options: Namespace) -> None:
    from ..lab.recipe.options import build_recipe
    from ..lab.training.begin import default_folder
    from ..lab.training.run import run_fit, run_profile

    name, recipe = build_recipe(options)
    if options.profile:
        run_profile(recipe)
    else:
        run_fit(recipe, options.out or default_folder(name, recipe), options.resume)


def _evaluate(options: Namespace, split: str) -> None:
    from ..lab.recipe.options import build_recipe
    from ..lab.training.begin import default_folder
    from ..lab.training.run import run_evaluation

    name, recipe = build_recipe(options)
    run_evaluation(recipe, options.out or default_folder(name, recipe), split)


def _recipes(options: Namespace) -> None:
    from ..lab.recipe.recipe_files import list_recipes

    print(list_recipes())


def _predict_options(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("run", type=Path, metavar="RUN", help="folder of a finished run")
    option("images", type=str, nargs="+", metavar="IMAGES", help="files, folders, or patterns in quotes")
    option("--out", type=Path, metavar="DIR", help="folder for the results, RUN/predictions if not given")
    least = "draw and print objects of this score or more (default: 0.5)"
    option("--score", type=float, default=0.5, metavar="S", help=least)
    option("--top", type=int, default=5, metavar="N", help="print so many of the likeliest classes (default: 5)")
    option("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: auto)")


def _predict(options: Namespace) -> None:
    from ..lab.predict.prediction import run_predict

    run_predict(**vars(options))


def _report_options(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs")
    out = "the page (default: report.html)"
    option("--out", type=Path, default=Path("report.html"), metavar="FILE", help=out)
    numbers = "every number of the page (default: beside the page, report.json)"
    option("--json", type=Path, metavar="FILE", help=numbers)
    images = "draw activation maps of these: files, folders, or patterns in quotes (default: none)"
    option("--images", type=str, nargs="+", default=[], metavar="IMAGES", help=images)
    option("--no-inspection", action="store_true", help="do not look into the networks, which takes seconds each")


def _report(options: Namespace) -> None:
    from ..lab.report.page import run_report

    run_report(options.runs, options.out, options.json, not options.no_inspection, options.images)


COMMANDS: dict[str, Command | Group] = {
    "fit": Command(
        "train a network as a recipe says, fold it, and write everything down",
        """\
coc fit RECIPE [--method METHOD] [--SECTION.KEY VALUE ...]
coc fit RUN --resume

Train with the recipe's settings, keep the best epoch, fold it into plain convs, check that it computes the same, and
evaluate it again. RECIPE is a name from `coc recipes` or a YAML file; every value of it can be overridden. The folder
of the run gets model.safetensors (plain convs), converted.safetensors (with kernel maps), results.json, metrics.csv,
curves.png, log.txt (what is printed), TensorBoard logs and the checkpoints that --resume starts from, after a kill at
any moment. The folder of a run, RUN, in place of a recipe stands for the recipe that it was started with, overridden
values included.

examples:
  coc fit digits-resnet18 --method coc
  coc fit scenes-fcn-resnet18 --method coc+stnd --training.epochs 20 --training.seed 1
  coc fit my-recipe.yaml
  coc fit runs/my-recipe-plain-seed0 --resume
  torchrun --nproc-per-node 4 -m convofconv.cli fit imagenet-resnet50 --data.root DIR""",
        _fit_options,
        _fit,
    ),
    "validate": Command(
        "evaluate the folded network of a finished run on its validation split",
        """\
coc validate RUN [--data.root DIR] [--machine.KEY VALUE ...]
coc validate RECIPE [--method METHOD] [--SECTION.KEY VALUE ...] [--out DIR]

RUN is the folder of a finished run. A recipe with the method and all values that were overridden finds the same run.

examples:
  coc validate runs/digits-resnet18-coc-seed0
  coc validate digits-resnet18 --method coc""",
        _run_options,
        functools.partial(_evaluate, split="val"),
    ),
    "test": Command(
        "evaluate the folded network of a finished run on its test split",
        """\
coc test RUN [--data.root DIR] [--machine.KEY VALUE ...]
coc test RECIPE [--method METHOD] [--SECTION.KEY VALUE ...] [--out DIR]

RUN is the folder of a finished run. A recipe with the method and all values that were overridden finds the same run.

examples:
  coc test runs/digits-resnet18-coc-seed0
  coc test digits-resnet18 --method coc""",
        _run_options,
        functools.partial(_evaluate, split="test"),
    ),
    "recipes": Command(
        "list the recipes that are built in",
        """\
List the recipes that are built in, with a line on each.

example:
  coc recipes""",
        lambda parser: None,
        _recipes,
    ),
    "predict": Command(
        "ask the network of a finished run about images",
        """\
coc predict RUN IMAGES... [--out DIR]

Ask the folded network of a finished run about images, print and draw the answers, and write them down as JSON: the
likeliest classes, the class of every pixel, or the objects with their boxes and masks. The data set need not be there.
IMAGES are files, folders with all that is in and below them, and patterns like "photos/**/*.jpg". An image that cannot
be read is reported and left out; the exit code is then 2.

examples:
  coc predict runs/digits-resnet18-coc-seed0 photo.jpg
  coc predict runs/scenes-fcn-resnet18-coc-seed0 photos "more/**/*.png" --out answers --device cpu""",
        _predict_options,
        _predict,
    ),
    "report": Command(
        "report finished runs on one HTML page",
        """\
coc report RUN [RUN ...] [--images IMAGES ...] [--no-inspection] [--out FILE] [--json FILE]

Write one HTML page about finished runs, side by side: what differs between their recipes, learning curves, scores with
their spread over seeds and by class, times, parameters, and the check of the folded networks. Then it looks into the
networks: kernels beside their super kernels, whether those of a group are alike, receptive fields, activation maps of
IMAGES, gradients through neighbours, and the health of the associations. The page is one file, opens from disk and
needs no network. Every number in it is written as JSON too. Runs of several tasks get separate tables.

examples:
  coc report runs/digits-resnet18-plain-seed0 runs/digits-resnet18-coc-seed0 --images photos
  coc report runs/digits-resnet18-* --out digits.html --no-inspection""",
        _report_options,
        _report,
    ),
}
