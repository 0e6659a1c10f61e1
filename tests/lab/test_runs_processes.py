"""Runs of several processes, by torchrun and by SLURM."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import CLASSIFY, DETECT, command, fit, results
from torch.utils.data import Subset

from convofconv import ConfigError
from convofconv.cli import main
from convofconv.lab.found_by_name import find_task
from convofconv.lab.recipe.schema import DataRecipe, Recipe
from convofconv.lab.training import run as run_module
from convofconv.lab.training.run_data import RunData

_WITHOUT_NORM = [
    *CLASSIFY,
    "--model.backbone=resnet18",
    "--model.options={'channels': [32, 32, 32, 32], 'norm_layer': 'groupnorm'}",
]


# A process group that is left to the end of Python aborts a run now and then.
_PARTED = """
import torch.distributed
from convofconv.cli import main

code = main()
assert not torch.distributed.is_initialized(), "still bound to the other process"
raise SystemExit(code)
"""


# Ends all processes behind the first checkpoint.
_KILLED = """
import os
from lightning.pytorch import Trainer
from convofconv.cli import main

honest = Trainer.save_checkpoint

def save(*arguments, **options):
    honest(*arguments, **options)
    os._exit(9)

Trainer.save_checkpoint = save
main()
"""


def by_torchrun(arguments, out, code=_PARTED):
    return torchrun(command(arguments, out)[3:], out.parent, code)


def torchrun(words, folder, code=_PARTED):
    """The command line in two processes."""
    script = folder / "parted.py"
    script.write_text(code)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    return subprocess.run([*launcher, *words], capture_output=True, text=True, timeout=300)


def by_slurm(arguments, out, places=(None, None)):
    """What srun does: two processes that know each other by SLURM's variables alone, each in its own place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    common |= {"SLURM_JOB_NAME": "coc", "SLURM_JOB_ID": "1", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command(arguments, out),
            cwd=places[rank],
            env={**os.environ, **common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that waits for another that failed
    codes = [process.returncode for process in processes]
    return subprocess.CompletedProcess([], max(codes, key=abs), stderr="".join(told))


@pytest.mark.parametrize(
    ("recipe", "limit", "launch"),
    [
        ([*_WITHOUT_NORM, "--training.ema=0.9"], 95, by_torchrun),
        (_WITHOUT_NORM, 95, by_slurm),
        (DETECT, 63, by_torchrun),
    ],
    ids=["classification", "slurm", "detection"],
)
def test_two_processes_train_as_one_does(recipe, limit, launch, squares, tmp_path, capsys):
    """With the same global batch and without batch norm: only the order of sums differs.

    An odd number of images, that a sampler which pads would round up. Mask R-CNN draws the boxes that it learns from
    at random in every process, so its two cannot equal one.
    """
    # So many steps let rounding grow, and a box may cross a threshold of overlap.
    more = [*squares, "--training.warmup_steps=2"]
    data, rounding, slack = (more, 1e-3, 2) if recipe == DETECT else ([], 1e-4, 0)
    arguments = [*recipe, *data, "--method=coc", "--training.epochs=1", f"--data.limit={limit}"]
    assert fit(arguments, tmp_path / "one") == 0
    done = launch(arguments, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    if launch is by_torchrun:  # SLURM's processes write into files of their own
        assert done.stdout.count("epoch 1 of 1: loss ") == done.stdout.count("run:  ") == 1, "the first process prints"
        assert "processes: 2" in done.stdout
    one, both = (load_file(tmp_path / name / "converted.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        assert (both[key].double() - value.double()).abs().max() <= rounding * value.double().abs().max() + 1e-6, key
    for kind, found in results(tmp_path / "two")["test"].items():
        assert found == pytest.approx(results(tmp_path / "one")["test"][kind], abs=slack)
        assert recipe != DETECT or found["AP50"] > 10
    losses = [[epoch["loss"] for epoch in results(tmp_path / name)["history"]] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=10 * rounding)
    assert results(tmp_path / "two")["recipe"]["machine"]["devices"] == 2
    capsys.readouterr()
    assert main(["test", str(tmp_path / "two")]) == 0, "one process evaluates it too"
    metric, value = next(iter(results(tmp_path / "two")["test"]["folded"].items()))
    told = capsys.readouterr().out
    assert f"test {metric}: {value:.2f}" in told
    if launch is by_torchrun and recipe != DETECT:  # and two what one has trained
        evaluated = torchrun(["test", str(tmp_path / "two")], tmp_path)
        assert evaluated.stdout == told, evaluated.stderr


def test_losses_of_all_processes_survive_a_kill_in_mid_epoch(tmp_path):
    arguments = [*_WITHOUT_NORM, "--training.epochs=1", "--training.checkpoint_steps=2", "--resume"]
    assert by_torchrun(arguments, tmp_path / "whole").returncode == 0
    assert by_torchrun(arguments, tmp_path / "broken", _KILLED).returncode != 0
    checkpoint = torch.load(tmp_path / "broken" / "last.ckpt", weights_only=True)
    assert (checkpoint["global_step"], checkpoint["losses"][1]) == (2, 4)
    assert by_torchrun(arguments, tmp_path / "broken").returncode == 0
    whole, broken = (results(tmp_path / name)["history"] for name in ("whole", "broken"))
    assert broken == [pytest.approx(epoch, rel=1e-9) for epoch in whole]


@pytest.mark.parametrize(
    ("variables", "leads"),
    [
        ({}, (True, True)),
        ({"NODE_RANK": "1"}, (True, False)),
        ({"LOCAL_RANK": "1"}, (False, False)),
        ({"NODE_RANK": "0"}, (True, True)),
    ],
)
def test_of_all_processes_of_all_machines_one_leads(variables, leads, monkeypatch, capsys):
    for name in ("NODE_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(run_module, "profile", lambda *_: "only the process that leads prints")
    printed = []
    for nodes in (1, 2):
        assert fit([*CLASSIFY, f"--machine.nodes={nodes}", "--profile"], "nowhere") == 0
        printed.append(bool(capsys.readouterr().out))
    assert tuple(printed) == leads


@pytest.mark.parametrize(("asked", "taken"), [(1, 4), (4, 4), (2, None)])
def test_what_slurm_starts_is_taken_and_must_not_contradict(asked, taken, monkeypatch, capsys):
    started = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "coc"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_PROCID", "0")
    seen = []
    monkeypatch.setattr(run_module, "profile", lambda training, _: seen.append(training.recipe.machine))
    code = fit([*CLASSIFY, f"--machine.devices={asked}", "--profile"], "nowhere")
    if taken:
        assert code == 0
        assert [(machine.devices, machine.nodes) for machine in seen] == [(taken, 2)]
    else:
        assert code == 2
        assert "machine.devices is 2, but SLURM started 4 on each machine" in capsys.readouterr().err


def test_machines_that_share_no_folder_are_told_before_they_train(tmp_path):
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    done = by_slurm([*CLASSIFY, "--training.epochs=1"], "run", places)
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("coc: ")]
    assert len(told) == 2
    assert all(line.startswith("coc: --out must be a folder that all processes share") for line in told)
    assert not (places[0] / "run").exists()


def test_slurm_must_say_how_many_processes_a_machine_has(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_JOB_NAME", "coc")
    assert main(command(CLASSIFY, tmp_path / "run")[3:]) == 2
    told = capsys.readouterr().err
    assert told.startswith("coc: SLURM: You set `--ntasks=8`")
    assert told.endswith("For one process in a job of several tasks: srun --ntasks=1\n")


@pytest.mark.parametrize("split", ["val", "test"])
def test_more_processes_than_images_are_refused_before_training(split):
    recipe = Recipe(data=DataRecipe(limit=20))
    data = RunData(recipe, find_task(recipe.task).build_data(recipe.data, 0))
    data.trainer = SimpleNamespace(global_rank=0, world_size=20)
    data.setup("fit")
    part = getattr(data.sets, split)
    part.split = Subset(part.split, range(19))
    with pytest.raises(ConfigError, match="19 images are too few to be evaluated by 20 processes"):
        data.setup("fit")
