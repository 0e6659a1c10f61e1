"""Runs of several processes, by torchrun and by SLURM."""

import os
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from tiny_runs import CLASSIFY, DETECT, command, results

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


def by_torchrun(arguments, out):
    script = out.parent / "parted.py"
    script.write_text(_PARTED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    return subprocess.run([*launcher, *command(arguments, out)[3:]], capture_output=True, text=True, timeout=300)


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
    told = [process.communicate(timeout=300)[1] for process in processes]
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
def test_two_processes_train_as_one_does(recipe, limit, launch, squares, tmp_path):
    """With the same global batch and without batch norm: only the order of sums differs.

    An odd number of pictures, that a sampler which pads would round up. Mask R-CNN draws the boxes that it learns from
    at random in every process, so its two cannot equal one.
    """
    # So many steps let rounding grow, and a box may cross a threshold of overlap.
    data, rounding, slack = (squares, 1e-3, 2) if recipe == DETECT else ([], 1e-4, 0)
    arguments = [*recipe, *data, "--method=coc", "--training.epochs=1", f"--data.limit={limit}"]
    alone = subprocess.run(command(arguments, tmp_path / "one"), capture_output=True, text=True, timeout=300)
    for done in (alone, launch(arguments, tmp_path / "two")):
        assert done.returncode == 0, done.stderr
    one, both = (load_file(tmp_path / name / "converted.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        assert (both[key].double() - value.double()).abs().max() <= rounding * value.double().abs().max() + 1e-6, key
    for kind, found in results(tmp_path / "two")["test"].items():
        assert found == pytest.approx(results(tmp_path / "one")["test"][kind], abs=slack)
        assert recipe != DETECT or found["AP50"] > 10
    assert results(tmp_path / "two")["recipe"]["machine"]["devices"] == 2


def test_machines_that_share_no_folder_are_told_before_they_train(tmp_path):
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    done = by_slurm([*CLASSIFY, "--training.epochs=1"], "run", places)
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("coc: ")]
    assert len(told) == 2
    assert all(line.startswith("coc: --out must be a folder that all processes share") for line in told)
    assert not (places[0] / "run" / "last.ckpt").exists()
