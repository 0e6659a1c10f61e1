"""The command line ``coc``: one parser for all of :data:`COMMANDS`, and what a mistake looks like."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import ConvOfConvError, VerificationError
from .commands import COMMANDS, Command, Group
from .explanations import explain

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

#: Commands whose first argument is a recipe.
_RECIPE_COMMANDS = ("fit", "validate", "test")
#: What is no command without another behind it.
_GROUPS = {(), *((name,) for name, command in COMMANDS.items() if isinstance(command, Group))}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``coc`` with ``argv`` (by default what was typed) and return its exit code.

    0: done. 1: two networks that should agree do not. 2: a mistake of the user, told in one line on stderr. 130:
    interrupted with Ctrl-C.

    Raises:
        SystemExit: with code 0, after ``--help`` and ``--version``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    options: list[str] = []
    try:
        if argv and argv[0] in _RECIPE_COMMANDS:
            from ..lab.recipe.options import recipe_first

            argv = recipe_first(argv)
        parser, parts = _parser()
        if tuple(argv) in _GROUPS:
            parts[tuple(argv)].print_help()
            return 0
        options = _options(parts, argv)
        _run(COMMANDS, parser.parse_args(argv))
    except KeyboardInterrupt:
        return 130
    except VerificationError as error:
        return _complain(str(error), code=1)
    except (ConvOfConvError, OSError) as error:  # OSError: a file that may not be read or written, a full disk
        return _complain(explain(str(error)))
    except argparse.ArgumentError as error:
        return _complain(f"{explain(str(error), options)} (see coc --help, coc COMMAND --help)")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == __package__.partition(".")[0]:  # a mistake of ours
            raise
        return _complain(f"the package {missing} is missing; in a clone, run: pip install '.[lab]'")
    return 0


def _run(commands: Mapping[str, Command | Group], options: Namespace) -> None:
    chosen, own = commands[options.command], options[options.command]
    if isinstance(chosen, Group):
        _run(chosen.commands, own)
    else:
        chosen.run(own)


def _options(parts: Mapping[tuple[str, ...], ArgumentParser], argv: Sequence[str]) -> list[str]:
    """The options of the command that ``argv`` asks for."""
    path = max((path for path in parts if tuple(argv[: len(path)]) == path), key=len)
    return [option for action in parts[path]._actions for option in action.option_strings]


def _parser() -> tuple[ArgumentParser, dict[tuple[str, ...], ArgumentParser]]:
    """The parser of all, and those of every command and group by its path."""
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

    parts: dict[tuple[str, ...], ArgumentParser] = {(): top}

    def add(path: tuple[str, ...], commands: Mapping[str, Command | Group]) -> None:
        to = parts[path]
        choices = to.add_subcommands(title="commands", dest="command", metavar="COMMAND")
        for name, command in commands.items():
            below = (*path, name)
            own = parts[below] = parser(command.description)
            if isinstance(command, Command):
                command.add_options(own)
            choices.add_subcommand(name, own, help=command.summary)
            if name in _RECIPE_COMMANDS:  # only now: adding a sub-command gives it its parent's formatter
                own.formatter_class = RecipeHelp
                own.usage = argparse.SUPPRESS  # of a hundred options; the description has one of a line
            if isinstance(command, Group):
                add(below, command.commands)

    add((), COMMANDS)
    return top, parts


def _complain(message: str, code: int = 2) -> int:
    print(f"coc: {' '.join(message.split())}", file=sys.stderr)
    return code
