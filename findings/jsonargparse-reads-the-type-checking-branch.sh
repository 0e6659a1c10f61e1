#!/usr/bin/env bash
# jsonargparse 4.53.0: a type that differs between `if TYPE_CHECKING` and its `else` is the checker's, not the run's,
# as soon as the file has `from __future__ import annotations`.
#
# A common way to make choices at run time (names of models or data sets that are found in a folder) is
#     if TYPE_CHECKING: Name = str
#     else:             Name = Literal["a", "b"]
# Guess before: the parser takes the run's type, Literal, with and without the future import; --name=c is refused.
# Seen: with the import it takes `str`: every value passes, and the help lists no choices. Nothing is said.
#
# Output seen:
#   without the import: refused
#   with the import:    accepted, Namespace(name='c')
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'jsonargparse[signatures]==4.53.0'
cd "$work"
cat > without.py <<'PYTHON'
import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    Name = str
else:
    Name = Literal["a", "b"]


@dataclasses.dataclass
class Options:
    name: Name = "a"
PYTHON
(echo 'from __future__ import annotations'; cat without.py) > with_import.py
"$work/venv/bin/python" - <<'PYTHON'
import importlib

from jsonargparse import ArgumentError, ArgumentParser

found = {}
for module in ("without", "with_import"):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(importlib.import_module(module).Options)
    try:
        found[module] = f"accepted, {parser.parse_args(['--name=c'])}"
    except ArgumentError:
        found[module] = "refused"
print(f"without the import: {found['without']}\nwith the import:    {found['with_import']}")
assert found == {"without": "refused", "with_import": "accepted, Namespace(name='c')"}, "it behaves otherwise now"
PYTHON
