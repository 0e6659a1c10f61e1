"""The command line ``coc``: one parser for all of :data:`COMMANDS`, and what a mistake looks like."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import ConvOfConvError, VerificationError
from .commands import COMMANDS, Command, Group
from .explanations import explain

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

#: Commands whose first argument is a recipe.
_RECIPE_COMMANDS = ("fit", "validate", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``coc`` with ``argv`` (by default what was typed) and return its exit code.

    0: done. 1: two networks that should agree do not. 2: a mistake of the user, reported in one line on stderr. 130:
    interrupted with Ctrl-C.

    Raises:
        SystemExit: with code 0, after ``--help`` and ``--version``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        commands = _commands()
        parsers = _parsers(commands)
        path = max((path for path in parsers if tuple(argv[: len(path)]) == path), key=len)
        command = commands.get(path)
        if isinstance(command, Command):
            command.add_options(parsers[path])  # of no other: a recipe's take a while
        elif tuple(argv) == path:
            parsers[path].print_help()
            return 0
        if path and path[0] in _RECIPE_COMMANDS:
            from ..lab.recipe.options import recipe_first

            argv = recipe_first(argv)
        options = parsers[()].parse_args(argv)
        assert isinstance(command, Command), "the parsers know no others"
        for name in path:
            options = options[name]
        command.run(options)
    except KeyboardInterrupt:
        return 130
    except VerificationError as error:
        return _complain(str(error), code=1)
    except (ConvOfConvError, OSError) as error:  # OSError: a file that may not be read or written, a full disk
        return _complain(explain(str(error)))
    except argparse.ArgumentError as error:
        known = [option for action in parsers[path]._actions for option in action.option_strings]
        return _complain(f"{explain(str(error), known)} (see coc --help, coc COMMAND --help)")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == __package__.partition(".")[0]:  # a mistake of ours
            raise
        return _complain(f"the package {missing} is missing; in a clone, run: pip install '.[lab]'")
    return 0


def _commands() -> dict[tuple[str, ...], Command | Group]:
    """All commands and groups by their paths, ``("study", "run")`` for example; groups come before what is in them."""
    found: dict[tuple[str, ...], Command | Group] = {}
    for name, command in COMMANDS.items():
        found[name,] = command
        found |= {(name, below): own for below, own in command.commands.items()} if isinstance(command, Group) else {}
    return found


def _parsers(commands: Mapping[tuple[str, ...], Command | Group]) -> dict[tuple[str, ...], ArgumentParser]:
    """A parser for all, and one for every command and group by its path, which has no options yet."""
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

    parsers: dict[tuple[str, ...], ArgumentParser] = {(): top}
    choices: dict[tuple[str, ...], Any] = {}
    for path, command in commands.items():
        above, name = path[:-1], path[-1]
        if above not in choices:
            choices[above] = parsers[above].add_subcommands(title="commands", dest="command", metavar="COMMAND")
        own = parsers[path] = parser(command.description)
        choices[above].add_subcommand(name, own, help=command.summary)
        if name in _RECIPE_COMMANDS:  # only now: adding a sub-command gives it its parent's formatter
            own.formatter_class = RecipeHelp
            own.usage = argparse.SUPPRESS  # of a hundred options; the description has one of a line
    return parsers


def _complain(message: str, code: int = 2) -> int:
    print(f"coc: {' '.join(message.split())}", file=sys.stderr)
    return code
