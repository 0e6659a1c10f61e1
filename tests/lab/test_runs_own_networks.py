"""Runs of networks of one's own: `--model.backbone module:function`."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from tiny_runs import CLASSIFY, DETECT, SEGMENT, fit, results

from convofconv.cli import main

pytestmark = pytest.mark.lab

CODE = """
from torch import nn
import timm

class Net(nn.Module):
    def __init__(self, num_classes=10, width=8, answer="logits"):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)
        self.answer = answer

    def forward(self, x):
        logits = self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))
        if self.answer == "dict":
            return {"logits": logits}
        return (logits, logits) if self.answer == "auxiliary" and self.training else logits

def seven():
    return Net(7)

def features(**options):
    return timm.create_model("resnet18", channels=[8, 8, 8, 8], **options)

def others(features_only=False, out_indices=None, output_stride=32):
    return Net()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def test_a_network_of_one_s_own_is_trained_evaluated_and_folded(own, capsys, monkeypatch):
    options = ["--model.backbone=mine:Net", "--model.options.width=16", "--method=coc", "--training.epochs=1"]
    assert fit([*CLASSIFY, *options], "run") == 0
    assert results("run")["recipe"]["model"]["backbone"] == "mine:Net"
    capsys.readouterr()
    assert main(["test", "run"]) == 0
    assert f"test top1: {results('run')['test']['folded']['top1']:.2f}" in capsys.readouterr().out
    assert main(["summary", "run"]) == 0
    assert "1 of 1 convs converted" in capsys.readouterr().out
    assert main(["verify", "run"]) == 0
    again = [option for option in options if "method" not in option]
    assert fit([*CLASSIFY, *again, "--model.weights=run"], "again") == 0
    capsys.readouterr()
    assert fit([*CLASSIFY, "--model.backbone=mine:seven", "--model.weights=run"], "other") == 2
    assert "the run in run has the backbone mine:Net, not mine:seven" in capsys.readouterr().err
    (own / "elsewhere").mkdir()
    monkeypatch.chdir(own / "elsewhere")
    monkeypatch.delitem(sys.modules, "mine")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(own)])
    assert main(["verify", "../run"]) == 2
    assert "mine:Net cannot be imported: No module named 'mine'; put the folder of mine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--model.backbone=mine:seven"], "a tensor of shape (2, 7)"),
        (["--model.backbone=mine:Net", "--model.options.answer=dict"], "a dict"),
        (["--model.backbone=mine:Net", "--model.options.answer=auxiliary"], "a tuple in training"),
    ],
)
def test_answers_of_another_kind_are_refused_before_training(own, capsys, options, found):
    assert fit([*CLASSIFY, *options], "run") == 2
    error = capsys.readouterr().err
    assert f"{options[0].partition('=')[2]} gives {found}" in error
    assert "(batch, 10)" in error
    assert not (own / "run" / "recipe.json").exists()


@pytest.mark.parametrize("task", [SEGMENT, DETECT], ids=["segmentation", "detection"])
def test_other_tasks_take_a_function_that_gives_feature_maps_as_timm_does(own, capsys, task):
    task = [option for option in task if "model.options" not in option]
    assert fit([*task, "--model.backbone=mine:features", "--training.epochs=1"], "run") == 0
    for name, reason in (("Net", "unexpected keyword argument 'features_only'"), ("others", "no feature_info")):
        capsys.readouterr()
        assert fit([*task, f"--model.backbone=mine:{name}"], name) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert "as timm.create_model is, with features_only=True" in error
