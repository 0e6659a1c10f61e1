"""Workers: killed ones, dying ones, those of a Ray cluster, and what a run in one of them sees and tells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="needs the extra [lab]")

from tiny_study import epochs_done, options_in, timeless, tiny_study, wait_for, write_study

from convofconv.errors import ConfigError
from convofconv.lab.files.run_folder import RunFolder
from convofconv.lab.studies import execution as run_module
from convofconv.lab.studies import worker
from convofconv.lab.studies.code_identity import code_identity
from convofconv.lab.studies.execution import RunOptions, records_of, run_study
from convofconv.lab.studies.local_workers import one_gpu
from convofconv.lab.studies.plan import plan
from convofconv.lab.studies.records import Records, runs
from convofconv.lab.studies.worker import outcome, run_job, write_job

pytestmark = pytest.mark.lab


@pytest.mark.usefixtures("inside")
def test_a_killed_study_resumes_to_the_records_of_an_uninterrupted_one(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    study = tiny_study(parts, set={"training.epochs": 12})
    command = [sys.executable, "-m", "convofconv.cli", "study", "run", "tiny.yaml", "--workers", "2", "--runs", "runs"]
    folder = parts / "runs/tiny-small/digits/coc/seed0"
    log = folder / "metrics.csv"
    driver = subprocess.Popen(command, cwd=parts, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: epochs_done(log) >= 2)  # behind the first one's checkpoint
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(1.5)  # its workers see that it is gone
    reached = epochs_done(log)
    time.sleep(0.5)
    assert epochs_done(log) == reached < 12
    kept = folder / "kept"
    kept.touch()  # a run that is begun anew empties its folder
    for folder in (parts, whole):
        run_study(study, options_in(folder))
    assert kept.exists()
    interrupted, uninterrupted = (runs(records_of(study, folder / "results").read()) for folder in (parts, whole))
    assert timeless(interrupted) == timeless(uninterrupted)
    assert len(records_of(study, parts / "results").read()) == 2


def test_ctrl_c_ends_a_study_and_its_workers_and_it_goes_on(tmp_path):
    tiny_study(tmp_path, set={"training.epochs": 500}, variants={"plain": {}})
    command = [sys.executable, "-m", "convofconv.cli", "study", "run", "tiny.yaml", "--runs", "runs"]
    log = tmp_path / "runs/tiny-small/digits/plain/seed0/metrics.csv"
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells have what they put aside ignore it
    driver = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    wait_for(lambda: epochs_done(log) >= 2)
    driver.send_signal(signal.SIGINT)
    _, told = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "Traceback" not in told
    reached = epochs_done(log)
    time.sleep(1)
    assert epochs_done(log) == reached < 500, "its worker is gone too"
    assert not (tmp_path / "results/tiny-small/records.jsonl").exists()
    with RunFolder(log.parent).at_work(timeout=0):
        assert (log.parent / "last.ckpt").exists()


def test_a_killed_worker_is_replaced_and_its_run_counted_once(tmp_path, monkeypatch):
    study = tiny_study(tmp_path, set={"training.epochs": 6}, variants={"plain": {}})
    log = tmp_path / "runs/tiny-small/digits/plain/seed0/metrics.csv"
    kills = []

    class Killing(run_module.LocalWorkers):
        def run(self, folders, tick):
            def look():
                if not kills and epochs_done(log) >= 1:
                    (process,) = self.processes
                    os.kill(process.pid, signal.SIGKILL)
                    kills.append(epochs_done(log))
                tick()

            return super().run(folders, look)

    monkeypatch.setattr(run_module, "LocalWorkers", Killing)
    run_study(study, options_in(tmp_path))
    assert kills
    (record,) = records_of(study, tmp_path / "results").read()
    assert record["status"] == "done"
    assert [epoch["epoch"] for epoch in record["history"]] == list(range(1, 7))


def test_a_worker_that_always_dies_is_a_failed_run(tmp_path, monkeypatch):
    killer = tmp_path / "killer"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    study = tiny_study(tmp_path, variants={"plain": {}})
    with pytest.raises(ConfigError, match="1 of its runs failed"):
        run_study(study, options_in(tmp_path))
    (record,) = records_of(study, tmp_path / "results").read()
    assert record["status"] == "failed"
    assert "ended 3 times" in record["reason"]
    assert "signal 9" in record["reason"]


def test_the_reason_of_an_earlier_failure_is_not_taken_for_that_of_a_retry(tmp_path, monkeypatch):
    _stub_run(tmp_path, monkeypatch, RuntimeError("no"))
    run_job(tmp_path / "run")
    (tmp_path / "run/last.ckpt").touch()  # it had come far, so that it is resumed
    write_job(tmp_path / "run", plan(tiny_study(tmp_path), [])[0].build_recipe(tmp_path / "runs"), code_identity(), ())
    assert outcome(tmp_path / "run") is None


def test_a_folder_that_is_not_shared_is_named(tmp_path):
    with pytest.raises(ConfigError, match="a folder that all machines share"):
        run_job(tmp_path / "run")


@pytest.mark.parametrize(("error", "reason"), [(MemoryError(), "MemoryError"), (TypeError("no"), "TypeError: no")])
def test_every_failure_has_a_reason_and_a_traceback(tmp_path, monkeypatch, error, reason):
    _stub_run(tmp_path, monkeypatch, error)
    run_job(tmp_path / "run")
    assert outcome(tmp_path / "run") == {"status": "failed", "reason": reason}
    assert "Traceback" in (tmp_path / "run/output.txt").read_text()


def test_what_ends_a_process_is_no_failure_of_its_run(tmp_path, monkeypatch):
    """Lightning makes a SystemExit of the signal that ends a job."""
    _stub_run(tmp_path, monkeypatch, SystemExit())
    with pytest.raises(SystemExit):
        run_job(tmp_path / "run")
    assert outcome(tmp_path / "run") is None


def test_a_run_is_one_process_whatever_launched_the_study(tmp_path, monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_NNODES", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "2")
    seen = _stub_run(tmp_path, monkeypatch, KeyError())
    run_job(tmp_path / "run")
    assert not any(name.startswith(("SLURM", "WORLD", "TORCHELASTIC")) for name in seen)


def _stub_run(folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    """A job whose run only raises; gives the names in its environment."""
    recipe = plan(tiny_study(folder), [])[0].build_recipe(folder / "runs")
    write_job(folder / "run", recipe, code_identity(), ())
    seen: list[str] = []

    def fail(*_: Any, **__: Any) -> None:
        seen.extend(os.environ)
        raise error

    monkeypatch.setattr(worker, "run_fit", fail)
    return seen


def test_workers_share_the_gpus_that_are_seen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [one_gpu(slot) for slot in range(3)] == [{"CUDA_VISIBLE_DEVICES": number} for number in "010"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [one_gpu(slot) for slot in range(3)] == [{"CUDA_VISIBLE_DEVICES": number} for number in "353"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert one_gpu(0) == {}
    with pytest.raises(ConfigError, match="--gpus is for a cluster"):
        RunOptions(gpus=1)


def test_ray_cluster_of_two_machines_loses_a_worker_and_no_run(tmp_path):
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    if not Path("/proc").is_dir():
        pytest.skip("finds the worker to kill in /proc")
    study = write_study(tmp_path, set={"training.epochs": 6})
    script = tmp_path / "two_nodes.py"
    script.write_text(_TWO_NODES)
    environment = {**os.environ, "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    result = subprocess.run(
        [sys.executable, str(script), study.name], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    nodes, killed = json.loads(result.stdout.splitlines()[-1])
    assert nodes == 2
    assert killed
    records = Records(tmp_path / "results/tiny-small/records.jsonl").read()
    assert sorted(record["run"] for record in records) == ["digits/coc/seed0", "digits/plain/seed0"]
    assert all(record["status"] == "done" for record in records)
    assert all([e["epoch"] for e in record["history"]] == list(range(1, 7)) for record in records)


#: A cluster of two machines on this one; a worker is killed while it is in the middle of a run.
_TWO_NODES = """
import contextlib, json, os, signal, sys, threading, time
from pathlib import Path

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
killed = []


def kill_one():
    log = Path("runs/studies/tiny-small/digits/coc/seed0/metrics.csv")
    while not log.exists() or log.read_bytes().count(b"\\n") < 2:
        time.sleep(0.05)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            ours = os.readlink(process.with_name("cwd")) == os.getcwd()
            if ours and process.read_bytes().startswith(b"ray::_run"):
                os.kill(int(process.parent.name), signal.SIGKILL)
                killed.append(process.parent.name)
                return


threading.Thread(target=kill_one, daemon=True).start()
from convofconv.cli import main

code = main(["study", "run", sys.argv[1], "--address", cluster.address])
import ray

nodes = sum(node["Alive"] for node in ray.nodes())
ray.shutdown()
cluster.shutdown()
print(json.dumps([nodes, killed]))
sys.exit(code)
"""
