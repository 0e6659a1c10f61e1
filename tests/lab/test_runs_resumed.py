"""Runs that are killed, interrupted or fail, and what is resumed, and from where."""

import os
import random
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_runs import CLASSIFY, INSTANCES, SEGMENT, command, fit, results

from convofconv.cli import main
from convofconv.lab.training.module import Training
from convofconv.lab.training.run_checkpoints import AtomicCheckpoints


def kill_at(arguments, out, moment):
    """Start or resume a run, and kill it when ``moment()`` is true."""
    process = subprocess.Popen(
        [*command(arguments, out), "--resume"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and not moment():
        assert time.monotonic() < deadline, "the run never came to that moment"
        time.sleep(0.001)
    ended = process.poll()
    assert ended is None, f"the run ended before it was killed:\n{process.stdout.read()}"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def resumable(recipe, batch):
    """Three epochs of six steps, a checkpoint after each, and everything that a checkpoint must have kept."""
    arguments = [*recipe, "--method=coc", "--training.epochs=3", "--training.checkpoint_steps=1"]
    arguments += ["--data.flip=true", "--training.ema=0.9", f"--data.limit={6 * batch}", f"--training.batch={batch}"]
    return arguments


def assert_same_runs(one, other):
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    for name in ("model.safetensors", "converted.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert results(one) == results(other)
    assert not list(one.glob(".*.part")), "left by what ended it"


@pytest.mark.parametrize("recipe", [INSTANCES, SEGMENT], ids=["instance_segmentation", "segmentation"])
def test_interrupted_twice_and_resumed_equals_never_interrupted(recipe, tmp_path, monkeypatch):
    """In mid-epoch after a random step; the signal and the processes are those of the next test."""
    arguments = resumable(recipe, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    honest, left = Training.training_step, []

    def step(*arguments):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return honest(*arguments)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Training, "training_step", step)
        for steps in (random.randint(2, 5), random.randint(2, 8)):
            print("interrupted after", steps)
            left[:] = [None] * steps
            assert fit([*arguments, "--resume"], broken) == 130
    assert fit([*arguments, "--resume"], broken) == 0
    assert fit(arguments, whole) == 0
    assert_same_runs(broken, whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_killed_three_times_and_resumed_equals_never_killed(tmp_path, monkeypatch):
    """In mid-epoch after a random step, while a checkpoint is being written, and after an epoch."""
    arguments = resumable([*CLASSIFY, "--model.dropout=0.2", "--training.accumulate=2"], 16)
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def written(name, times=1):
        path = broken / name
        seen = {"mtime": path.stat().st_mtime_ns if path.exists() else 0, "count": 0}

        def moment():
            now = path.stat().st_mtime_ns if path.exists() else 0
            if now != seen["mtime"]:
                seen.update(mtime=now, count=seen["count"] + 1)
            return seen["count"] >= times

        return moment

    checkpoints = random.randint(2, 4)
    print("killed after checkpoint", checkpoints)
    kill_at(arguments, broken, written("last.ckpt", checkpoints))
    left = set(broken.glob(".last.ckpt.*.part"))
    kill_at(arguments, broken, lambda: set(broken.glob(".last.ckpt.*.part")) - left)
    kill_at(arguments, broken, written("metrics.csv"))
    honest, steps = Training.training_step, []
    monkeypatch.setattr(Training, "training_step", lambda *step: steps.append(1) or honest(*step))
    reached = torch.load(broken / "last.ckpt", weights_only=True)["global_step"]
    assert reached >= 5
    assert fit([*arguments, "--resume"], broken) == 0
    assert len(steps) // 2 == 18 - reached, "nothing that was done is done again"
    assert fit(arguments, whole) == 0
    assert_same_runs(broken, whole)


def test_no_checkpoint_is_between_gradients_that_are_accumulated(tmp_path, monkeypatch):
    """Gradients are in no checkpoint: a run that goes on from there would lose some."""
    honest, batches = AtomicCheckpoints.save_checkpoint, []

    def save(self, checkpoint, path, storage_options=None):
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        batches.append((progress["processed"], checkpoint["global_step"]))
        honest(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpoints, "save_checkpoint", save)
    options = ["--data.limit=96", "--training.batch=32", "--training.accumulate=2", "--training.checkpoint_steps=1"]
    assert fit([*CLASSIFY, *options], tmp_path / "run") == 0
    inside = [(batch, step) for batch, step in batches if batch % 6]
    assert inside == [(2, 1), (4, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("method", ["plain", "coc"])
def test_a_run_goes_on_without_the_one_that_its_weights_are_from(method, tmp_path, trained):
    """Converted like the one before, or plain, all of its weights are in its own checkpoint."""
    trained([*CLASSIFY, "--method=coc", "--training.epochs=1"], tmp_path / "before")
    options = [*CLASSIFY, f"--method={method}", f"--model.weights={tmp_path / 'before'}", "--training.lr=0.01"]
    assert fit(options, tmp_path / "whole") == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for name in ("model.safetensors", "results.json"):
        (tmp_path / "broken" / name).unlink()
    shutil.rmtree(tmp_path / "before")
    assert fit([*options, "--resume"], tmp_path / "broken") == 0
    assert results(tmp_path / "broken") == results(tmp_path / "whole")


def test_ctrl_c_is_one_in_evaluation_too(tmp_path, monkeypatch, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "validation_step", interrupted)
    monkeypatch.setattr(Training, "test_step", interrupted)
    capsys.readouterr()
    assert main(["test", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.endswith("precision: 32-true\ninterrupted\n")


def test_ctrl_c_says_how_to_go_on(tmp_path):
    log = tmp_path / "run" / "metrics.csv"
    long = [*CLASSIFY, "--training.epochs=500"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells have what they put aside ignore it
    process = subprocess.Popen(command(long, tmp_path / "run"), stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"interrupted; coc fit {tmp_path / 'run'} --resume goes on from its last checkpoint" in told
    assert "Traceback" not in told


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path, capsys, monkeypatch):
    honest = Training.loss
    steps = []

    def loss(self, logits, target):
        steps.append(1)
        return honest(self, logits, target) * (float("nan") if len(steps) == 9 else 1)

    monkeypatch.setattr(Training, "loss", loss)
    assert fit(CLASSIFY, tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "the loss is nan at batch 3 of epoch 2 (step 8). The last checkpoint is kept" in message
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path, capsys, monkeypatch):
    from convofconv.lab.training import run_checkpoints as checkpoints

    honest, saves = torch.save, []

    def save(content, path):
        saves.append(1)
        if len(saves) > 2:  # the first epoch writes its best and its last
            Path(path).write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        honest(content, path)

    monkeypatch.setattr(checkpoints.torch, "save", save)
    assert fit(CLASSIFY, tmp_path / "run") == 2
    assert "the checkpoint cannot be written ([Errno 28] No space left on device); the one before" in (
        capsys.readouterr().err
    )
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_damaged_checkpoint_is_named(tmp_path, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").write_bytes(b"half a file")
    assert fit([*CLASSIFY, "--training.epochs=1", "--resume"], tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert "last.ckpt: not a readable checkpoint" in told
    assert "copy best.ckpt over it" in told
