"""The network of a finished run, folded or with its super kernels: `coc.lab.load_run`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("lightning", reason="needs the extra [lab]")

from tiny_runs import CLASSIFY, fit

import convofconv as coc
from convofconv.lab.found_by_name import find_task
from convofconv.lab.models.network import build_network
from convofconv.lab.predict.finished_run import FinishedRun

pytestmark = pytest.mark.lab

RUN = [*CLASSIFY, "--method=coc", "--training.epochs=1", "--training.ema=0.5", "--preset=released"]


@pytest.fixture
def run(trained, tmp_path):
    return trained(RUN, tmp_path / "run")


def agree(one: FinishedRun, other: FinishedRun) -> float:
    task = find_task(one.recipe.task)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return coc.verify(task.compared(one.network), task.compared(other.network), task.noise(images))


def test_both_networks_of_a_run_compute_the_same(run):
    """Of the moving average, which is what a run keeps; one has kernel maps, the other has none."""
    folded, converted = coc.lab.load_run(run), coc.lab.load_run(str(run), folded=False)
    assert agree(converted, folded) <= 1e-5
    assert not coc.summary(folded.network).converted
    assert len(coc.summary(converted.network).converted) > 5
    for one in (folded, converted):
        assert one.classes == tuple("0123456789")
        assert (one.recipe.method, one.recipe.preset, one.recipe.training.ema) == ("coc", "released", 0.5)
        assert not any(module.training for module in one.network.modules())


def test_without_its_checkpoints_the_weights_beside_them_are_read(run):
    with_checkpoint = coc.lab.load_run(run, folded=False)
    for name in ("best.ckpt", "last.ckpt"):
        (run / name).unlink()
    assert agree(coc.lab.load_run(run, folded=False), with_checkpoint) == 0


def test_a_plain_run_has_one_network(trained, tmp_path):
    plain = trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "plain")
    converted = coc.lab.load_run(plain, folded=False)
    assert agree(converted, coc.lab.load_run(plain)) == 0
    assert not coc.summary(converted.network).converted


def test_a_network_of_coc_layers_is_folded_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "made_of_layers.py").write_text("""
import convofconv as coc
from torch import nn

def net(num_classes):
    norm, pool = nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(coc.CoC2d(3, 8, 3, config="released"), norm, pool, nn.Flatten(), nn.Linear(8, num_classes))
""")
    own = ["--model.backbone=made_of_layers:net", "--training.epochs=1"]
    assert fit([*CLASSIFY, *own], tmp_path / "run") == 0
    folded, converted = coc.lab.load_run("run"), coc.lab.load_run("run", folded=False)
    assert agree(converted, folded) <= 1e-5
    assert (len(coc.summary(folded.network).converted), len(coc.summary(converted.network).converted)) == (0, 1)


def test_random_numbers_go_on_as_if_nothing_had_been_built(run):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    coc.lab.load_run(run)
    coc.lab.load_run(run, folded=False)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("folded", [True, False])
def test_no_run(folded, tmp_path):
    with pytest.raises(coc.ConfigError, match=r"holds no finished run, there is no results\.json.*; give the folder"):
        coc.lab.load_run(tmp_path / "nowhere", folded=folded)


@pytest.mark.parametrize("folded", [True, False])
def test_an_unfinished_run(folded, run):
    (run / "results.json").unlink()
    with pytest.raises(coc.ConfigError, match=r"there is no results\.json; .* finish the run: coc fit .* --resume"):
        coc.lab.load_run(run, folded=folded)


def test_no_checkpoint(run):
    for name in ("best.ckpt", "last.ckpt", "converted.safetensors"):
        (run / name).unlink()
    coc.lab.load_run(run)
    with pytest.raises(coc.ConfigError, match=r"there is no best\.ckpt, converted\.safetensors, last\.ckpt"):
        coc.lab.load_run(run, folded=False)


def test_results_of_another_run(run):
    results = json.loads((run / "results.json").read_text())
    results["recipe"]["model"]["backbone"] = "resnet18"
    (run / "results.json").write_text(json.dumps(results))
    for folded, file in ((True, "model.safetensors"), (False, "best.ckpt")):
        with pytest.raises(coc.ConfigError, match=rf"{file}: "):
            coc.lab.load_run(run, folded=folded)


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_devices_that_are_not_there(device, run):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(coc.ConfigError, match="device"):
        coc.lab.load_run(run, device=device)


def test_it_is_found_without_importing_anything_before():
    code = """
import sys
import convofconv as coc
assert "torch" not in sys.modules and "convofconv.lab" not in sys.modules
lab = coc.lab
assert "torch" not in sys.modules
assert lab.load_run.__name__ == "load_run"
try:
    lab.nothing
except AttributeError:
    print("done")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "done\n"


def test_the_network_is_that_of_the_recipe(run):
    """Layer by layer, whatever the seed was."""
    loaded = coc.lab.load_run(run, folded=False)
    built = build_network(loaded.recipe, len(loaded.classes))
    assert loaded.network.state_dict().keys() == built.state_dict().keys()
