"""What a run prints while it trains, to a terminal and to anything else."""

import json
import os
import re
import select
import subprocess
import sys
import time

import pytest
from tiny_runs import CLASSIFY, DETECT, command, fit, results
from tiny_study import epochs_done

from convofconv.cli import main
from convofconv.lab import progress
from convofconv.lab.training.module import Training


def test_a_run_prints_what_it_is_and_a_line_per_epoch_and_keeps_both(tmp_path, capsys):
    run = tmp_path / "run"
    assert fit([*CLASSIFY, "--method=coc", "--data.test_split=train"], run) == 0
    *heading, first, second, folding, end = capsys.readouterr().out.splitlines()
    found = results(run)
    convs = sum(key.endswith("parametrizations.weight.original") for key in _keys(run / "converted.safetensors"))
    parameters = found["parameters"]["folded"]
    added = found["parameters"]["as_trained"] - parameters
    assert [line.split(":")[0] for line in heading] == ["run", "device", "data", "network", "training"]
    assert heading[0].endswith(f"  {run}")
    assert heading[1].endswith("  cpu, threads: 1, precision: 32-true")
    assert heading[2].endswith("  digits, 96 images to train on, 96 to validate on, 96 to test on; 10 classes")
    assert (
        f"mobilenetv3_small_050, coc: {parameters:,} parameters and {added:,} added for training, {convs} of "
        in heading[3]
    )
    assert heading[4].endswith("  epochs: 2, steps per epoch: 6, images per step: 16")
    for number, line in enumerate((first, second), 1):
        epoch = found["history"][number - 1]
        numbers = f"loss {epoch['loss']:.4f}, top1 {epoch['top1']:.2f} %, lr {epoch['lr']:.3g}"
        assert re.fullmatch(rf"epoch {number} of 2: {re.escape(numbers)}, (\d+ s left|trained in \d+ s)", line), line
    assert (" left" in first, "trained in" in second) == (True, True)
    assert folding == f"the best epoch, {found['best_epoch']}, is folded and evaluated"
    score = f"top1 {found['test']['folded']['top1']:.2f} %"
    assert end == f"{score} (folded; best epoch {found['best_epoch']} of 2): {run / 'results.json'}"
    kept = [line.split("  ", 1) for line in (run / "log.txt").read_text().splitlines()]
    assert [line for _, line in kept] == [*heading, first, second, folding, end]
    assert all(time.strptime(when, "%Y-%m-%d %H:%M:%S") for when, _ in kept)


def _keys(file):
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def test_a_detector_without_kernel_maps_prints_its_own_metric(tmp_path, capsys):
    assert fit([*DETECT, "--training.epochs=1", "--training.warmup_steps=0"], tmp_path / "run") == 0
    told = capsys.readouterr().out
    assert re.search(r"network:   resnet18, plain: [\d,]+ parameters$", told, re.M)
    assert re.search(r"16 to validate on, the same to test on; 11 classes$", told, re.M)
    assert re.search(r"^epoch 1 of 1: loss [\d.]+, AP [\d.]+ %, lr 0\.", told, re.M)


def test_a_resumed_run_says_where(tmp_path, monkeypatch, capsys):
    honest, steps = Training.training_step, []

    def step(self, *arguments):
        steps.append(1)
        if len(steps) == 9:
            raise KeyboardInterrupt
        return honest(self, *arguments)

    monkeypatch.setattr(Training, "training_step", step)
    arguments = [*CLASSIFY, "--training.checkpoint_steps=1"]
    assert fit(arguments, tmp_path / "run") == 130
    capsys.readouterr()
    assert fit([*arguments, "--resume"], tmp_path / "run") == 0
    *_, resumed, second, _, _ = capsys.readouterr().out.splitlines()
    assert resumed == "resumed in epoch 2 of 2, after step 8 of 12"
    assert second.startswith("epoch 2 of 2: ")
    epochs = [line.split("  ")[1][:12] for line in (tmp_path / "run/log.txt").read_text().splitlines()]
    assert [line for line in epochs if line.startswith(("epoch", "resumed"))] == [
        "epoch 1 of 2",
        "resumed in e",
        "epoch 2 of 2",
    ]


def test_lines_go_through_a_pipe_while_the_run_goes_on(tmp_path):
    arguments = command([*CLASSIFY, "--training.epochs=500"], tmp_path / "run")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": buffered}
    with subprocess.Popen(arguments, **pipe) as process:
        lines = []
        while not lines or not lines[-1].startswith("epoch   2 of 500: loss"):
            assert process.poll() is None
            lines.append(process.stdout.readline())
        done = epochs_done(tmp_path / "run/metrics.csv")
        process.kill()
    assert lines[-1].endswith(" left\n")
    assert 2 <= done < 20, "a buffer has some hundred lines"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals on this system")
def test_the_bar_on_a_terminal_has_loss_and_metric_and_counts_from_one(tmp_path):
    shown = _on_a_terminal(command(CLASSIFY, tmp_path / "run"))
    assert "\repoch 1 of 2: loss " in shown, "the lines are there too"
    found = results(tmp_path / "run")["history"]
    bars = re.findall(
        r"epoch (\d) of 2: +\d+%\|[^|]*\| (\d+)/6 \[[^,]*, [^,\]]*(?:, loss=([\d.]+))?(?:, top1=([\d.]+) %)?\]", shown
    )
    assert ("1", "6", f"{found[0]['loss']:.4f}", f"{found[0]['top1']:.2f}") in bars
    assert ("2", "6", f"{found[1]['loss']:.4f}", f"{found[1]['top1']:.2f}") in bars
    assert any(epoch == "1" and loss and not metric for epoch, _, loss, metric in bars), "a loss from the first step on"
    for nonsense in ("v_num", "Epoch", "epoch 0", "DataLoader"):
        assert nonsense not in shown


def _on_a_terminal(words):
    """What a command shows on a terminal of 120 columns."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    shown, until = b"", time.monotonic() + 300
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        while time.monotonic() < until and (process.poll() is None or select.select([ours], [], [], 0)[0]):
            try:
                shown += os.read(ours, 65536) if select.select([ours], [], [], 0.2)[0] else b""
            except OSError:  # how Linux says that nobody is there any more
                break
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode().replace("\r\n", "\n")


def test_an_evaluation_says_of_what_beside_its_figures(tmp_path, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    capsys.readouterr()
    assert main(["validate", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    said = "96 images of digits, split val; 10 classes; cpu, threads: 1, precision: 32-true"
    assert told.err == f"{tmp_path / 'run'}: {said}\n"
    assert [line.split(": ")[0] for line in told.out.splitlines()] == ["val top1", "val top5"]


def test_the_time_that_is_left_follows_from_what_was_done_since_the_start(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    remaining = progress.Remaining(total=20, done=10)
    now[0] += 12
    assert remaining.seconds(10) is None
    assert remaining.seconds(14) == pytest.approx(18)
    assert remaining.seconds(20) == 0
    assert json.dumps(remaining.elapsed) == "12.0"
