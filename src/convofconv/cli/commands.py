"""The sub-commands of ``coc``, one file for those that belong together.

To add one, write a function that adds its options and one that runs it, and put a :class:`Command` of both into the
``COMMANDS`` of one of these files. Nothing heavy is imported before a sub-command runs, so that ``coc --help`` answers
at once.
"""

from . import checkpoint_commands, demo_command, inspect_command, run_commands, study_commands
from .command import Command, Group

__all__ = ["COMMANDS", "Command", "Group"]

#: In the order of ``coc --help``.
COMMANDS: dict[str, Command | Group] = {
    **run_commands.COMMANDS,
    **inspect_command.COMMANDS,
    **study_commands.COMMANDS,
    **checkpoint_commands.COMMANDS,
    **demo_command.COMMANDS,
}
