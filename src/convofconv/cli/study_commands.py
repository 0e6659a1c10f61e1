"""``coc study``: grids of runs, their reports, and the claims they decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .command import Command, Group

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _study_options(parser: ArgumentParser) -> None:
    parser.add_argument("study", type=str, metavar="STUDY", help="a name from coc study list, or a YAML file")
    parser.add_argument(
        "--budget", type=str, default="small", metavar="NAME", help="one that coc study list names (default: small)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="for records, reports (default: results)"
    )


def _study_run_options(parser: ArgumentParser) -> None:
    _study_options(parser)
    option = parser.add_argument
    option("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data sets (default: data)")
    option(
        "--runs", type=Path, default=Path("runs/studies"), metavar="DIR", help="for networks (default: runs/studies)"
    )
    option("--workers", type=int, default=1, metavar="N", help="runs at a time on this machine (default: 1)")
    option("--threads", type=int, default=1, metavar="N", help="CPU threads of a run (default: 1)")
    option("--data-workers", type=int, metavar="N", help="processes of a run that read images (default: the recipe's)")
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
    option("--dry-run", action="store_true", help="only report which runs would be done")
    option("--retry-failed", action="store_true", help="run again what failed")
    option(
        "--accept-code",
        type=str,
        default="",
        metavar="REASON",
        help="why other code's records may stay (default: none)",
    )


def _study_run(options: Namespace) -> None:
    from ..lab.studies.execution import RunOptions, run_study
    from ..lab.studies.study import read_study

    given = dict(vars(options))
    study = read_study(given.pop("study"), given.pop("budget"))
    run_study(study, RunOptions(**given))


def _study_inspect_options(parser: ArgumentParser) -> None:
    _study_options(parser)
    option = parser.add_argument
    option("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the data sets (default: data)")
    option("--runs", type=Path, default=Path("runs/studies"), metavar="DIR", help="of networks (default: runs/studies)")
    option("--threads", type=int, default=0, metavar="N", help="CPU threads (default: torch's choice)")


def _study_inspect(options: Namespace) -> None:
    from ..lab.studies.inspect_runs import inspect_study
    from ..lab.studies.study import read_study

    study = read_study(options.study, options.budget)
    inspect_study(study, options.results, options.runs, options.data, options.threads)


def _study_report(options: Namespace) -> None:
    from ..errors import ConfigError
    from ..lab.studies.execution import records_of, study_folder
    from ..lab.studies.report import write_report
    from ..lab.studies.study import read_study

    study = read_study(options.study, options.budget)
    folder = study_folder(study, options.results)
    records = records_of(study, options.results)
    if not records.path.is_file():
        run = f"coc study run {options.study} --budget {options.budget}"
        raise ConfigError(f"{records.path}: no records; {run} makes them, --results says where")
    write_report(study, records.read(), folder)
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
    from ..lab.studies.claims import write_claims

    write_claims(options.results, options.out)
    print(options.out)


def _study_list(options: Namespace) -> None:
    from ..lab.studies.study import list_studies

    print(list_studies())


COMMANDS: dict[str, Command | Group] = {
    "study": Group(
        "run a grid of networks, methods and seeds, and report it with statistics",
        """\
coc study list | run STUDY | inspect STUDY | report STUDY | claims

A study asks one question of many runs: networks × variants × seeds, within a budget (small: hours on a laptop;
full: the paper's scale). Every run leaves one record; what has one is not run again. The study digits needs no data and
takes minutes.

examples:
  coc study list
  coc study run digits --workers 2
  coc study report digits""",
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
            "inspect": Command(
                "look into the networks of a study's finished runs",
                """\
coc study inspect STUDY [--budget small|full] [--runs DIR] [--data DIR]

Measure the kernels, effective receptive fields and activation maps of every finished run whose network the study says
to look into, and add a record for each. What has one is not looked into again; stop it at any moment.

example:
  coc study inspect looking-inside --data data""",
                _study_inspect_options,
                _study_inspect,
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

Write a page with every claim of the paper, how it was tested, the figures from the studies' records, and a verdict. It
begins with what each method adds on every network; the figure of that, overview.png, goes beside the records.

example:
  coc study claims --results docs/results --out docs/claims.md""",
                _claims_options,
                _study_claims,
            ),
        },
    ),
}
