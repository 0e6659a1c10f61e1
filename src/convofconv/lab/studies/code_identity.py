"""Which code a result comes from: a short identity of everything that can change one."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
#: Files and folders that decide no result. Everything else counts, so that a new file is not forgotten.
_BESIDE = (
    "cli",
    "model_summary.py",
    "verification.py",
    "lab/checkpoint_tools.py",
    "lab/demo",
    "lab/drawing",
    "lab/files/atomic.py",
    "lab/inspect",
    "lab/predict",
    "lab/progress.py",
    "lab/recipe/options.py",  # what a run takes from a recipe's file is in its record
    "lab/recipe/recipe_files.py",
    "lab/report",
    "lab/studies",
    "lab/training/profile.py",
)


@functools.cache
def code_identity() -> str:
    """Identity of the code that decides results; comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        name = path.relative_to(_PACKAGE).as_posix()
        if not name.startswith(_BESIDE):
            digest.update(name.encode() + b"\0" + bare(path.read_text(encoding="utf-8")).encode() + b"\0")
    return digest.hexdigest()[:12]


def bare(source: str) -> str:
    """What source code does, without comments, docstrings and layout, in the words of the running Python.

    Examples:
        >>> bare("x=1  # one")
        'x = 1'
    """
    tree = ast.parse(source)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
