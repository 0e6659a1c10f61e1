"""Every example in a docstring runs and gives what it says; every public object has a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convofconv as coc

PACKAGE = Path(coc.__file__).parent
WITH_EXAMPLES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


def _example(path):
    of_lab = PACKAGE / "lab" in path.parents
    return pytest.param(path, id=path.relative_to(PACKAGE).as_posix(), marks=[pytest.mark.slow] if of_lab else [])


@pytest.mark.parametrize("path", [_example(path) for path in WITH_EXAMPLES])
def test_docstring_examples(path):
    if PACKAGE / "lab" in path.parents:
        pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
    dotted = ".".join(["convofconv", *path.relative_to(PACKAGE).with_suffix("").parts])
    module = importlib.import_module(dotted.removesuffix(".__init__"))
    result = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


def test_the_public_face_is_complete_documented_and_has_examples():
    assert set(coc.__all__) <= set(dir(coc))
    for name in coc.__all__:
        public = getattr(coc, name)
        if not inspect.isclass(public) and not callable(public):
            continue
        assert inspect.getdoc(public), name
        small = inspect.isclass(public) and (issubclass(public, Exception) or name in ("Summary", "ConvReport"))
        if not small:
            assert ">>>" in inspect.getdoc(public), f"{name} has no example"
    with pytest.raises(AttributeError, match="no attribute 'converts'"):
        coc.converts  # noqa: B018


@pytest.mark.slow
def test_importing_the_package_imports_neither_torch_nor_the_lab():
    code = (
        "import convofconv, sys; print([m for m in ('torch', 'torchvision', 'timm', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.slow
def test_the_core_imports_torch_alone():
    code = (
        "import sys, torch; before = set(sys.modules); import convofconv as coc;"
        "[getattr(coc, name) for name in coc.__all__];"
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names);"
        "print(sorted(new))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "['convofconv']"
