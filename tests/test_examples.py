"""The examples run as they stand, and a converted one differs from the plain one by four lines."""

from __future__ import annotations

import difflib
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
PAIRS = sorted(path.name.removesuffix("_plain.py") for path in EXAMPLES.glob("*_plain.py"))
NEEDS = {"lightning": "lightning", "timm": "timm"}


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> float:
    """The accuracy that an example prints, in per cent."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return float(re.search(r"accuracy: ([\d.]+) %", capsys.readouterr().out)[1])  # type: ignore[index]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_both_learn_and_leave_the_same_keys(pair, tmp_path, monkeypatch, capsys):
    if pair in NEEDS:
        pytest.importorskip(NEEDS[pair])
    keys = []
    for name in (f"{pair}_plain", f"{pair}_converted"):
        assert run(name, tmp_path, monkeypatch, capsys) > 50  # one of eight by chance
        state_dict = torch.load(tmp_path / "model.pt", weights_only=True)
        keys.append([(key, value.shape) for key, value in state_dict.items()])
    assert keys[0] == keys[1]


@pytest.mark.parametrize("pair", PAIRS)
def test_four_lines_more(pair):
    plain, converted = (
        (EXAMPLES / f"{pair}_{which}.py").read_text(encoding="utf-8").splitlines()[1:]  # behind the docstring
        for which in ("plain", "converted")
    )
    changes = [line for line in difflib.ndiff(plain, converted) if line[0] in "+-" and line[1:].strip()]
    assert len(changes) == 4
    assert all(line.startswith("+") and "# CoC" in line for line in changes)


def test_the_list_has_all_of_them():
    listed = set(re.findall(r"`(\w+\.py)`", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}
