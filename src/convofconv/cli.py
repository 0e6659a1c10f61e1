"""The command line ``coc``: one parser, and a sub-command for every entry of :data:`COMMANDS`.

To add one, write a function that adds its options and one that runs it, and enter both into the table. Nothing heavy is
imported before a sub-command runs, so that ``coc --help`` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import ConvOfConvError, VerificationError
from .lab.demo_settings import DemoSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_LAB_PACKAGES = (
    "jsonargparse",
    "lightning",
    "matplotlib",
    "mlxtend",
    "pycocotools",
    "scipy",
    "statsmodels",
    "tensorboard",
    "timm",
    "torchmetrics",
    "torchvision",
    "tqdm",
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A sub-command: its line in ``coc --help``, its own help, its options and what it does with them."""

    summary: str
    description: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


@dataclasses.dataclass(frozen=True)
class Group:
    """A sub-command that has sub-commands."""

    summary: str
    description: str
    commands: Mapping[str, Command]


def _demo_options(parser: ArgumentParser) -> None:
    default = DemoSettings()

    def option(name: str, kind: type, metavar: str, text: str) -> None:
        value = getattr(default, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=value, metavar=metavar, help=text)

    option("data", Path, "DIR", "folder of pictures (default: the digits)")
    option("out", Path, "DIR", "folder for the results, made if missing (default: %(default)s)")
    parser.add_argument(
        "--methods",
        default=",".join(default.methods),
        metavar="LIST",
        help="what to compare, with commas: plain, coc, doconv, stnd, orth, norm, joined with + (default: %(default)s)",
    )
    option("seeds", int, "N", "trainings per method, with seeds 0 to N-1 (default: %(default)s)")
    option("epochs", int, "N", "passes over the training pictures (default: %(default)s)")
    option("train-images", int, "N", "most pictures to train on, as many of each class (default: %(default)s)")
    option("test-images", int, "N", "most pictures to test on, as many of each class (default: %(default)s)")
    option("size", int, "PIXELS", "side of the square that your pictures are scaled and cut to (default: %(default)s)")
    option("threads", int, "N", "CPU threads; more hardly speed so small a network up (default: %(default)s)")


def _demo(options: Namespace) -> None:
    from .lab.demo import run_demo

    methods = tuple(name.strip() for name in options.methods.split(","))
    run_demo(DemoSettings(**{**vars(options), "methods": methods}))


def _arch_options(parser: ArgumentParser, positional: bool) -> None:
    text = "timm/NAME, torchvision/NAME, or module:function of your own"
    if positional:
        parser.add_argument("arch", type=str, metavar="ARCH", help=text)
    else:
        parser.add_argument("--arch", type=str, required=True, metavar="ARCH", help=text)
    parser.add_argument(
        "--options",
        type=dict[str, Any],
        default={},
        metavar="JSON",
        help="arguments of the network: --options.num_classes 10, or as JSON (default: none)",
    )


def _summary_options(parser: ArgumentParser) -> None:
    _arch_options(parser, positional=True)
    parser.add_argument(
        "--method",
        type=str,
        default="coc",
        metavar="METHOD",
        help="coc, doconv, stnd, orth, norm, joined with + (default: coc)",
    )
    parser.add_argument(
        "--config",
        type=str,
        default="poster",
        metavar="PRESET",
        help="preset: poster, released or lightweight (default: poster)",
    )
    parser.add_argument(
        "--where",
        type=str,
        default=[],
        nargs="+",
        metavar="PATTERN",
        help="convs by name, with * for any text (default: every conv but 1×1 ones)",
    )


def _summary(options: Namespace) -> None:
    from .lab.commands import run_summary

    run_summary(**vars(options))


def _fold_options(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="state dict of a converted network")
    _arch_options(parser, positional=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to: .safetensors, .pt or .pth")


def _fold(options: Namespace) -> None:
    from .lab.commands import run_fold

    run_fold(**vars(options))


def _verify_options(parser: ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="state dict, converted or plain")
    parser.add_argument("folded", type=Path, metavar="FOLDED", help="what should compute the same")
    _arch_options(parser, positional=False)
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        default=[2, 3, 224, 224],
        metavar="N",
        help="of the random input (default: 2 3 224 224)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-5, metavar="T", help="largest relative difference (default: %(default)s)"
    )


def _verify(options: Namespace) -> None:
    from .lab.commands import run_verify

    run_verify(**vars(options))


def _run_options(parser: ArgumentParser) -> None:
    from .lab.runs.options import add_recipe_options

    add_recipe_options(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the run, runs/RECIPE-METHOD-seedN if not given"
    )


def _fit_options(parser: ArgumentParser) -> None:
    _run_options(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder, if there is one")
    parser.add_argument("--profile", action="store_true", help="measure loader and network, and train nothing")


def _fit(options: Namespace) -> None:
    from .lab.runs.fit import run_fit
    from .lab.runs.folder import default_folder
    from .lab.runs.options import build_recipe

    name, recipe = build_recipe(options)
    run_fit(recipe, options.out or default_folder(name, recipe), options.resume, options.profile)


def _evaluate(options: Namespace, split: str) -> None:
    from .lab.runs.fit import run_evaluation
    from .lab.runs.folder import default_folder
    from .lab.runs.options import build_recipe

    name, recipe = build_recipe(options)
    run_evaluation(recipe, options.out or default_folder(name, recipe), split)


def _recipes(options: Namespace) -> None:
    from .lab.runs.options import list_recipes

    print(list_recipes())


def _predict_options(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("run", type=Path, metavar="RUN", help="folder of a finished run")
    option("images", type=str, nargs="+", metavar="IMAGES", help="files, folders, or patterns in quotes")
    option("--out", type=Path, metavar="DIR", help="folder for the results, RUN/predictions if not given")
    option("--score", type=float, default=0.5, metavar="S", help="draw objects of this score or more (default: 0.5)")
    option("--top", type=int, default=5, metavar="N", help="tell so many of the likeliest classes (default: 5)")
    option("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: auto)")


def _predict(options: Namespace) -> None:
    from .lab.predict.predict import run_predict

    run_predict(**vars(options))


def _study_options(parser: ArgumentParser) -> None:
    parser.add_argument("study", type=str, metavar="STUDY", help="a name from coc study list, or a YAML file")
    parser.add_argument("--budget", type=str, default="small", metavar="NAME", help="small or full (default: small)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="for records, reports (default: results)"
    )


def _study_run_options(parser: ArgumentParser) -> None:
    _study_options(parser)
    option = parser.add_argument
    option("--data", type=Path, metavar="DIR", help="folder of the data sets (default: data)")
    option(
        "--runs", type=Path, default=Path("runs/studies"), metavar="DIR", help="for networks (default: runs/studies)"
    )
    option("--workers", type=int, default=1, metavar="N", help="runs at a time on this machine (default: 1)")
    option("--threads", type=int, default=1, metavar="N", help="CPU threads of a run (default: 1)")
    option(
        "--address",
        type=str,
        default="",
        metavar="ADDRESS",
        help="a Ray cluster, auto for the one around here (default: none)",
    )
    option("--gpus", type=float, default=0.0, metavar="N", help="GPUs of a run there, 0.5 for two on one (default: 0)")
    option(
        "--only",
        type=str,
        default=[],
        nargs="+",
        metavar="PATTERN",
        help="only runs of such names, with * (default: all)",
    )
    option("--retry-failed", action="store_true", help="run again what failed")
    option(
        "--accept-code",
        type=str,
        default="",
        metavar="REASON",
        help="why other code's records may stay (default: none)",
    )


def _study_run(options: Namespace) -> None:
    from .lab.studies.run import RunOptions, run_study
    from .lab.studies.study import read_study

    given = dict(vars(options))
    study = read_study(given.pop("study"), given.pop("budget"))
    run_study(study, RunOptions(**given))


def _study_report(options: Namespace) -> None:
    from .lab.studies.report import write_report
    from .lab.studies.run import records_of, study_folder
    from .lab.studies.study import read_study

    study = read_study(options.study, options.budget)
    folder = study_folder(study, options.results)
    write_report(study, records_of(study, options.results).read(), folder)
    print(folder / "report.md")


def _claims_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="of the studies' records (default: results)",
    )
    parser.add_argument("--out", type=Path, default=Path("claims.md"), metavar="FILE", help="(default: claims.md)")


def _study_claims(options: Namespace) -> None:
    from .lab.studies.claims import write_claims

    write_claims(options.results, options.out)
    print(options.out)


def _study_list(options: Namespace) -> None:
    from .lab.studies.study import list_studies

    print(list_studies())


#: Commands whose first argument is a recipe.
_RECIPE_COMMANDS = ("fit", "validate", "test")

COMMANDS: dict[str, Command | Group] = {
    "fit": Command(
        "train a network as a recipe says, fold it, and write everything down",
        """\
coc fit RECIPE [--method METHOD] [--SECTION.KEY VALUE ...]

Train with the recipe's settings, keep the best epoch, fold it into plain convs, check that it computes the same, and
evaluate it again. RECIPE is a name from `coc recipes` or a YAML file; every value of it can be overruled. The folder of
the run gets model.safetensors (plain convs), converted.safetensors (with kernel maps), results.json, metrics.csv,
curves.png, TensorBoard logs and the checkpoints that --resume goes on from, after a kill at any moment.

examples:
  coc fit digits-resnet18 --method coc
  coc fit scenes-fcn-resnet18 --method coc+stnd --training.epochs 20 --training.seed 1
  coc fit my-recipe.yaml --resume
  torchrun --nproc-per-node 4 -m convofconv.cli fit imagenet-resnet50 --data.root DIR""",
        _fit_options,
        _fit,
    ),
    "validate": Command(
        "evaluate the folded network of a finished run on its validation split",
        """\
coc validate RECIPE [--method METHOD] [--out DIR]

example:
  coc validate digits-resnet18 --method coc""",
        _run_options,
        functools.partial(_evaluate, split="val"),
    ),
    "test": Command(
        "evaluate the folded network of a finished run on its test split",
        """\
coc test RECIPE [--method METHOD] [--out DIR]

example:
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
        "ask the network of a finished run about pictures",
        """\
coc predict RUN IMAGES... [--out DIR]

Ask the folded network of a finished run about pictures, draw the answers, and write them down as JSON: the likeliest
classes, the class of every pixel, or the objects with their boxes and masks. The data set need not be there. IMAGES are
files, folders with all that is in and below them, and patterns like "photos/**/*.jpg". A picture that cannot be read is
told and left out; the exit code is then 2.

examples:
  coc predict runs/digits-resnet18-coc-seed0 photo.jpg
  coc predict runs/scenes-fcn-resnet18-coc-seed0 photos "more/**/*.png" --out answers --device cpu""",
        _predict_options,
        _predict,
    ),
    "study": Group(
        "run a grid of networks, methods and seeds, and report it with statistics",
        """\
coc study list | run STUDY | report STUDY | claims

A study asks one question of many runs: networks × variants × seeds, within a budget (small: an evening on a laptop;
full: the paper's scale). Every run leaves one record; what has one is not run again.

examples:
  coc study list
  coc study run what-helps --data data --workers 4
  coc study report what-helps""",
        {
            "list": Command(
                "list the studies that are built in",
                """\
List the studies that are built in, with their budgets.

example:
  coc study list""",
                lambda parser: None,
                _study_list,
            ),
            "run": Command(
                "do the runs of a study that are not done yet",
                """\
coc study run STUDY [--budget small|full] [--data DIR] [--workers N | --address ADDRESS]

Do every run that has no record yet. Stop it at any moment, by Ctrl-C or worse, and start it again: finished runs are
kept, unfinished ones go on from their last epoch, and the result is the same. A run that fails is recorded with its
reason and does not stop the others. Records of other settings or other code are not added to.

examples:
  coc study run what-helps --data data --workers 4
  coc study run classification --budget full --address auto --gpus 1
  coc study run what-helps --only "camvid/coc/*" "camvid/plain/*" --retry-failed""",
                _study_run_options,
                _study_run,
            ),
            "report": Command(
                "write tables and figures from a study's records",
                """\
coc study report STUDY [--budget small|full] [--results DIR]

Write report.md, runs.csv, comparisons.csv and figures beside the records: means with confidence intervals, comparisons
paired by seed and corrected for their number, what could have been seen, and the paper's figures. A study that is not
complete is reported as far as it is.

example:
  coc study report what-helps""",
                _study_options,
                _study_report,
            ),
            "claims": Command(
                "write the paper's claims with a verdict on each",
                """\
coc study claims [--results DIR] [--out FILE]

Write a page with every claim of the paper, how it was tested, the figures from the studies' records, and a verdict.

example:
  coc study claims --results docs/results --out docs/claims.md""",
                _claims_options,
                _study_claims,
            ),
        },
    ),
    "summary": Command(
        "show which convs of a network are converted, which are not and why",
        """\
Build a network without weights, convert it, and print a line per conv.

examples:
  coc summary timm/resnet50
  coc summary torchvision/retinanet_resnet50_fpn --method coc+stnd --config released
  coc summary timm/resnet18 --where "layer4.*" --options.num_classes 10""",
        _summary_options,
        _summary,
    ),
    "fold": Command(
        "fold a converted network's checkpoint into one of plain convs",
        """\
Read the state dict of a converted network, compute its kernels once, and write a checkpoint that loads strictly into
the plain architecture. What was converted, and how, is in the checkpoint. Files are read without executing code.

example:
  coc fold last.ckpt --arch timm/resnet50 --out model.safetensors""",
        _fold_options,
        _fold,
    ),
    "verify": Command(
        "check that two checkpoints of one architecture compute the same",
        """\
Run both networks on one random input and compare. Exit code 0 if they agree, 1 if not; then the first layer that
differs is named.

example:
  coc verify last.ckpt model.safetensors --arch timm/resnet50 --shape 2 3 224 224""",
        _verify_options,
        _verify,
    ),
    "demo": Command(
        "train, fold and compare on real digits, or on your pictures, in a few minutes",
        """\
Train a small ResNet on handwritten digits: plain, with weight standardization (stnd), with the convolution of
convolution (coc), and with both. Every method starts from the same weights and sees the same order of pictures on each
seed. Then fold each network into plain convs, check that it still computes the same, and print one table: accuracy,
parameters in training and deployed, time per training step, largest difference after folding.

Learning curves, the learnt kernels of one layer and all numbers are written to a folder.

examples:
  coc demo
  coc demo --data flowers --methods plain,coc --seeds 5

--data takes a folder with a folder of pictures per class (a fifth of each class is kept for testing), a folder with
such folders in train and val, or CIFAR-10 or CIFAR-100 as unpacked from their archives.""",
        _demo_options,
        _demo,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``coc`` with ``argv`` (by default what was typed) and return its exit code.

    0: done. 1: two networks that should agree do not. 2: a mistake of the user, told in one line on stderr. 130:
    interrupted with Ctrl-C.

    Raises:
        SystemExit: with code 0, after ``--help`` and ``--version``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] in _RECIPE_COMMANDS:
            from .lab.runs.options import recipe_first

            argv = recipe_first(argv)
        options = _parser().parse_args(argv)
        _run(COMMANDS, options)
    except KeyboardInterrupt:
        return 130
    except VerificationError as error:
        return _complain(str(error), code=1)
    except (ConvOfConvError, OSError) as error:  # OSError: a file that may not be read or written, a full disk
        return _complain(str(error))
    except argparse.ArgumentError as error:
        return _complain(f"{error} (see coc --help, coc COMMAND --help)")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _LAB_PACKAGES:
            raise
        return _complain(f"the package {missing} is missing; run: pip install 'convofconv[lab]'")
    return 0


def _run(commands: Mapping[str, Command | Group], options: Namespace) -> None:
    chosen, own = commands[options.command], options[options.command]
    if isinstance(chosen, Group):
        _run(chosen.commands, own)
    else:
        chosen.run(own)


def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class RecipeHelp(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Says types and defaults, of the values that a recipe need not give."""

    def parser(description: str, prog: str | None = None) -> ArgumentParser:
        return ArgumentParser(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            exit_on_error=False,
            allow_abbrev=False,
        )

    top = parser("Convolution of Convolution: let the kernels of a conv layer collaborate (CVPR 2022).", "coc")
    top.add_argument("--version", action="version", version=f"coc {__version__}")

    def add(to: ArgumentParser, commands: Mapping[str, Command | Group]) -> None:
        choices = to.add_subcommands(title="commands", dest="command", metavar="COMMAND")
        for name, command in commands.items():
            own = parser(command.description)
            if isinstance(command, Command):
                command.add_options(own)
            choices.add_subcommand(name, own, help=command.summary)
            if name in _RECIPE_COMMANDS:  # only now: adding a sub-command gives it its parent's formatter
                own.formatter_class = RecipeHelp
            if isinstance(command, Group):
                add(own, command.commands)

    add(top, COMMANDS)
    return top


def _complain(message: str, code: int = 2) -> int:
    # jsonargparse speaks of keys, in several lines: 'Parser key "train_images":\n  Expected a <class 'int'>. Got ...'
    message = re.sub(r'Parser key "([\w.]+)"', lambda match: "--" + match[1].replace("_", "-"), message)
    message = re.sub(r"Expected an? <class '(\w+)'>\. Got value:", r"expected \1, got", " ".join(message.split()))
    print(f"coc: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
