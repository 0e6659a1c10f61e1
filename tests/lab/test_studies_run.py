"""Studies: what is planned, recorded, refused, and survives a kill; by local workers and by a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("lightning", reason="needs the extra [lab]")

from convofconv.errors import ConfigError
from convofconv.lab.recipe import Recipe
from convofconv.lab.runs.folder import different_keys, plain_values
from convofconv.lab.runs.options import recipe_from
from convofconv.lab.studies import code, worker
from convofconv.lab.studies import run as run_module
from convofconv.lab.studies.code import bare, code_identity
from convofconv.lab.studies.local import one_gpu
from convofconv.lab.studies.plan import choose_settings, names_of_runs, plan
from convofconv.lab.studies.records import Records, runs
from convofconv.lab.studies.report import write_report
from convofconv.lab.studies.run import RunOptions, records_of, run_study
from convofconv.lab.studies.study import FOLDER, Study, list_studies, read_study
from convofconv.lab.studies.worker import outcome, run_job, write_job

pytestmark = pytest.mark.lab

_TINY = {
    "data.limit": 40,
    "training.epochs": 2,
    "training.batch": 20,
    "model.options": {"channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4},
}
#: What differs between two times of the same run.
_TIMES = ("seconds", "cpu_seconds", "versions")


def _write(folder: Path, **changes: Any) -> Path:
    """A study of two variants on a handful of digits."""
    budget = {
        "about": "A test.",
        "seeds": 1,
        "set": {**_TINY, **changes.pop("set", {})},
        "networks": {"digits": {"recipe": "digits-resnet18"}},
        **changes.pop("budget", {}),
    }
    values = {
        "title": "Tiny",
        "question": "Does it run?",
        "variants": {"plain": {}, "coc": {"method": "coc"}},
        "budgets": {"small": budget},
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _study(folder: Path, **changes: Any) -> Study:
    return read_study(str(_write(folder, **changes)), "small")


def _options(folder: Path, **changes: Any) -> RunOptions:
    return RunOptions(results=folder / "results", runs=folder / "runs", **changes)


def _timeless(records: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {k: v for k, v in record.items() if k not in _TIMES} for name, record in records.items()}


def _wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def _epochs(log: Path) -> int:
    return log.read_bytes().count(b"\n") - 1 if log.exists() else 0


def test_failures_are_recorded_and_do_not_stop_the_others(tmp_path, capsys):
    variants = {
        "plain": {},
        "nonsense": {"method": "nonsense"},  # refused when planned
        "diverges": {"training.lr": 1e12},  # fails in the middle
        "nothing": {"method": "coc", "model.backbone": "torchvision/alexnett"},  # fails when built
    }
    study = _study(tmp_path, variants=variants)
    with pytest.raises(ConfigError, match="3 of its runs failed"):
        run_study(study, _options(tmp_path, workers=2))
    done = runs(records_of(study, tmp_path / "results").read())
    status = {record["variant"]: record["status"] for record in done.values()}
    assert status == {"plain": "done", "nonsense": "failed", "diverges": "failed", "nothing": "failed"}
    assert "no method is called 'nonsense'" in done["digits/nonsense/seed0"]["reason"]
    assert "the loss is" in done["digits/diverges/seed0"]["reason"]
    assert "alexnett" in done["digits/nothing/seed0"]["reason"]
    assert "1 of 4 runs done, 3 failed" in capsys.readouterr().out
    output = (tmp_path / "runs/tiny-small/digits/nothing/seed0/output.txt").read_text()
    assert "Traceback" in output
    assert "alexnett" in output
    # What is done is skipped, what failed is tried again on request only.
    before = records_of(study, tmp_path / "results").path.read_bytes()
    for options in (_options(tmp_path), _options(tmp_path, retry_failed=True, dry_run=True)):
        with contextlib.suppress(ConfigError):
            run_study(study, options)
        assert records_of(study, tmp_path / "results").path.read_bytes() == before
    with pytest.raises(ConfigError, match="failed"):
        run_study(study, _options(tmp_path, retry_failed=True, only=["*/diverges/*", "*/nonsense/*"]))
    assert len(records_of(study, tmp_path / "results").read()) == 6


def test_results_that_are_no_numbers_are_a_failed_run_and_do_not_stop_the_others(tmp_path, capsys):
    """However often the study is started: the run's folder keeps them."""
    study = _study(tmp_path)
    run_study(study, _options(tmp_path, only=["*/coc/*"]))
    file = tmp_path / "runs/tiny-small/digits/coc/seed0/results.json"
    results = json.loads(file.read_text())
    results["test"]["folded"]["top1"] = results["history"][0]["top5"] = results["history"][1]["top5"] = float("nan")
    file.write_text(json.dumps(results))
    records_of(study, tmp_path / "results").path.unlink()
    for _ in range(2):
        with pytest.raises(ConfigError, match="1 of its runs failed"):
            run_study(study, _options(tmp_path, retry_failed=True))
        done = runs(records_of(study, tmp_path / "results").read())
        assert {name: record["status"] for name, record in done.items()} == {
            "digits/plain/seed0": "done",
            "digits/coc/seed0": "failed",
        }
    reason = "no numbers in its results: test.folded.top1, history.top5; remove {} to run it again"
    # The record is published, what is told is for this machine.
    assert done["digits/coc/seed0"]["reason"] == reason.format("{runs}/tiny-small/digits/coc/seed0")
    assert f"coc/seed0: {reason.format(file.parent)}" in capsys.readouterr().out


def test_a_mistake_in_a_variant_is_told_at_once_and_done_when_it_is_mended(tmp_path, capsys):
    wrong = _study(tmp_path, variants={"plain": {}, "coc": {"method": "cocc"}})
    run_study(wrong, _options(tmp_path, dry_run=True))
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("impossible: digits/coc/seed0: digits-resnet18: method: no method is called 'cocc'")
    assert told[1].startswith("digits/plain/seed0  ")
    with pytest.raises(ConfigError, match="1 of its runs failed"):
        run_study(wrong, _options(tmp_path))
    run_study(wrong, _options(tmp_path, only=["*/plain/*"]))  # is done, whatever became of the others
    mended = _study(tmp_path)
    run_study(mended, _options(tmp_path))
    done = runs(records_of(mended, tmp_path / "results").read())
    assert {name: record["status"] for name, record in done.items()} == {
        "digits/plain/seed0": "done",
        "digits/coc/seed0": "done",
    }


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_record_names_no_folder_of_the_machine(tmp_path, through_a_link):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    data = tmp_path / ("link" if through_a_link else "there")
    variants = {"plain": {}, "no-folder": {"data.name": "image_folder", "data.root": "data/pictures"}}
    study = _study(tmp_path, variants=variants)
    with pytest.raises(ConfigError, match="1 of its runs failed"):
        run_study(study, _options(tmp_path, data=data))
    (record,) = [one for one in records_of(study, tmp_path / "results").read() if one["status"] == "failed"]
    assert "{data}/pictures" in record["reason"]
    assert str(tmp_path) not in record["reason"]


def test_no_possible_run_is_refused_before_anything_is_written(tmp_path):
    study = _study(tmp_path, variants={"plain": {"training.epoch": 3}})
    with pytest.raises(ConfigError, match=r"tiny: no run is possible. digits/plain/seed0: .*epoch"):
        run_study(study, _options(tmp_path))
    assert not records_of(study, tmp_path / "results").path.exists()


def test_a_killed_study_resumes_to_the_records_of_an_uninterrupted_one(tmp_path):
    long = {"training.epochs": 12}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
        _write(folder, set=long)
    command = [sys.executable, "-m", "convofconv.cli", "study", "run", "tiny.yaml", "--workers", "2"]
    subprocess.run(command, cwd=whole, check=True, capture_output=True)
    log = parts / "runs/studies/tiny-small/digits/coc/seed0/metrics.csv"
    driver = subprocess.Popen(command, cwd=parts, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(lambda: _epochs(log) >= 3)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(1.5)  # its workers see that it is gone
    reached = _epochs(log)
    time.sleep(0.5)
    assert _epochs(log) == reached < 12
    subprocess.run(command, cwd=parts, check=True, capture_output=True)
    file = Path("results/tiny-small/records.jsonl")
    interrupted, uninterrupted = (runs(Records(folder / file).read()) for folder in (parts, whole))
    assert _timeless(interrupted) == _timeless(uninterrupted)
    assert len(Records(parts / file).read()) == 2


def test_a_killed_worker_is_replaced_and_its_run_counted_once(tmp_path, monkeypatch):
    study = _study(tmp_path, set={"training.epochs": 12}, variants={"plain": {}})
    log = tmp_path / "runs/tiny-small/digits/plain/seed0/metrics.csv"
    kills = []

    class Killing(run_module.LocalWorkers):
        def run(self, folders, tick):
            def look():
                if not kills and _epochs(log) >= 3:
                    (process,) = self._processes
                    os.kill(process.pid, signal.SIGKILL)
                    kills.append(_epochs(log))
                tick()

            return super().run(folders, look)

    monkeypatch.setattr(run_module, "LocalWorkers", Killing)
    run_study(study, _options(tmp_path))
    assert kills
    (record,) = records_of(study, tmp_path / "results").read()
    assert record["status"] == "done"
    assert [epoch["epoch"] for epoch in record["history"]] == list(range(1, 13))


def test_a_worker_that_always_dies_is_a_failed_run(tmp_path, monkeypatch):
    killer = tmp_path / "killer"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    study = _study(tmp_path, variants={"plain": {}})
    with pytest.raises(ConfigError, match="1 of its runs failed"):
        run_study(study, _options(tmp_path))
    (record,) = records_of(study, tmp_path / "results").read()
    assert record["status"] == "failed"
    assert "ended 3 times" in record["reason"]
    assert "signal 9" in record["reason"]


def test_records_of_other_settings_or_code_are_refused(tmp_path, monkeypatch):
    study = _study(tmp_path, variants={"plain": {}})
    run_study(study, _options(tmp_path))
    changed = _study(tmp_path, variants={"plain": {}}, set={"training.lr": 0.3})
    with pytest.raises(ConfigError, match=r"digits/plain/seed0 .*training.lr=0.1 there, 0.3 here"):
        run_study(changed, _options(tmp_path))
    monkeypatch.setattr(run_module, "code_identity", lambda: "another")
    with pytest.raises(ConfigError, match=r"run by other code .*--accept-code"):
        run_study(study, _options(tmp_path))
    run_study(study, _options(tmp_path, accept_code="a comment changed"))
    run_study(study, _options(tmp_path))  # once accepted is accepted
    accept = records_of(study, tmp_path / "results").read()[-1]
    assert accept == {"kind": "accept", "code": code_identity(), "beside": "another", "reason": "a comment changed"}


def test_an_unfinished_run_of_other_code_begins_anew(tmp_path, monkeypatch):
    study = _study(tmp_path, variants={"plain": {}})
    folder = tmp_path / "runs/tiny-small/digits/plain/seed0"
    folder.mkdir(parents=True)
    recipe = plan(study, [])[0].build_recipe(tmp_path / "runs")
    (folder / "job.json").write_text(json.dumps({"recipe": plain_values(recipe), "code": "older"}))
    (folder / "last.ckpt").write_text("would be gone on with")
    (folder / "tensorboard").mkdir()
    (folder / "results.json").write_text("{}")  # would be taken for the result
    with pytest.raises(ConfigError, match=r"holds a finished run of other settings or code \(older, .*another --runs"):
        run_study(study, _options(tmp_path))
    (folder / "results.json").unlink()
    run_study(study, _options(tmp_path))
    (record,) = records_of(study, tmp_path / "results").read()
    assert record["status"] == "done"
    assert record["code"] == code_identity()


def test_a_run_that_was_only_planned_is_recorded_under_the_code_that_does_it(tmp_path):
    recipe = plan(_study(tmp_path), [])[0].build_recipe(tmp_path / "runs")
    assert write_job(tmp_path / "run", recipe, "older", ()) == "older"
    (tmp_path / "run/recipe.json").write_text("{}")  # it was killed before its first checkpoint
    assert write_job(tmp_path / "run", recipe, "newer", ["older"]) == "newer"
    assert not (tmp_path / "run/recipe.json").exists()
    (tmp_path / "run/last.ckpt").touch()
    assert write_job(tmp_path / "run", recipe, "newest", ["newer"]) == "newer"
    assert (tmp_path / "run/last.ckpt").exists()
    assert write_job(tmp_path / "run", recipe, "newest", ()) == "newest"
    assert not (tmp_path / "run/last.ckpt").exists()


def test_a_worker_with_other_code_than_the_study_refuses(tmp_path):
    recipe = plan(_study(tmp_path), [])[0].build_recipe(tmp_path / "runs")
    write_job(tmp_path / "run", recipe, "another", ())
    run_job(tmp_path / "run")
    assert re.search("started with code another, here is .*install the same", outcome(tmp_path / "run")["reason"])


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
    recipe = plan(_study(folder), [])[0].build_recipe(folder / "runs")
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


def test_the_machine_is_not_the_recipes(tmp_path):
    (job, *_) = plan(_study(tmp_path), [])
    recipe = job.build_recipe(tmp_path, machine=RunOptions(threads=2, data_workers=3).machine)
    assert (recipe.machine.threads, recipe.data.workers) == (2, 3)
    own = job.build_recipe(tmp_path, machine=RunOptions().machine)
    assert own.data.workers == job.build_recipe(tmp_path).data.workers
    assert not different_keys(plain_values(own), plain_values(recipe))
    with pytest.raises(ConfigError, match="--data-workers must be at least 0, got -1"):
        RunOptions(data_workers=-1)


def test_patterns_that_match_no_run_are_named(tmp_path, capsys):
    study = _study(tmp_path)
    with pytest.raises(ConfigError, match=r"no run is called like digits/cok/\*; digits/plain/seed0 is one"):
        run_study(study, _options(tmp_path, only=["digits/cok/*", "digits/coc/*"]))
    run_study(study, _options(tmp_path, only=["digits/coc/*"], dry_run=True))
    assert capsys.readouterr().out == f"digits/coc/seed0  {tmp_path / 'runs/tiny-small/digits/coc/seed0'}\n"
    assert not records_of(study, tmp_path / "results").path.exists()


def test_two_drivers_do_not_write_to_one_file(tmp_path):
    study = _study(tmp_path)
    with (
        records_of(study, tmp_path / "results").locked(),
        pytest.raises(ConfigError, match="another coc study is writing"),
    ):
        run_study(study, _options(tmp_path))


def test_a_record_cut_short_is_dropped_and_a_damaged_one_named(tmp_path):
    records = Records(tmp_path / "records.jsonl")
    records.append({"kind": "run", "run": "a", "status": "done"})
    with records.path.open("ab") as file:
        file.write(b'{"kind": "run", "run": "b", "sta')
    assert [record["run"] for record in records.read()] == ["a"]
    records.append({"kind": "run", "run": "c", "status": "done"})
    assert [record["run"] for record in records.read()] == ["a", "c"]
    whole = records.path.read_bytes()
    for damaged in (b"{}\n", b'{"kind": "run"}\n', b"[]\n"):
        records.path.write_bytes(damaged + whole)
        with pytest.raises(ConfigError, match="line 1: not a record"):
            records.read()


def _tuned(tmp_path: Path) -> Study:
    tune = {"grid": {"training.lr": [0.1, 0.2]}, "seeds": [100, 101], "set": {"training.epochs": 1}}
    return _study(tmp_path, budget={"tune": tune, "seeds": 2})


def test_tuning_chooses_by_validation_before_anything_is_compared(tmp_path):
    study = _tuned(tmp_path)
    jobs = plan(study, [])
    assert [job.stage for job in jobs] == ["tuning"] * 8
    assert len(names_of_runs(study)) == 12
    assert jobs[1].name == "digits/plain/lr=0.2/seed100"
    assert jobs[1].settings["training.epochs"] == 1

    def record(job, score, status="done"):
        values = {"kind": "run", "run": job.name, "status": status, "metric": "top1"}
        # The test score must not count.
        return {**values, "validation": {"top1": score}, "test": {"folded": {"top1": 100 - score}}}

    scores = {("plain", 0.1): (60, 50), ("plain", 0.2): (40, 60), ("coc", 0.1): (50, 50), ("coc", 0.2): (99, None)}
    read = []
    for job in jobs:
        score = scores[job.variant, job.tuned["training.lr"]][job.seed - 100]
        read.append(record(job, score or 0, "failed" if score is None else "done"))
    assert choose_settings(study, read[:-1]) == {("digits", "plain"): {"training.lr": 0.1}}  # coc is not complete
    # coc's second rate has the best score, but diverged on a seed.
    assert choose_settings(study, read)["digits", "coc"] == {"training.lr": 0.1}
    final = [job for job in plan(study, read) if job.stage == "final"]
    assert [job.name for job in final[:2]] == ["digits/plain/seed0", "digits/coc/seed0"]
    assert final[0].settings["training.lr"] == 0.1
    assert final[0].settings["training.epochs"] == 2
    failed = [{**one, "status": "failed"} if one["run"].startswith("digits/plain") else one for one in read]
    assert list(choose_settings(study, failed)) == [("digits", "coc")]
    assert {job.variant for job in plan(study, failed) if job.stage == "final"} == {"coc"}
    # What runs were compared with stays.
    again = {"kind": "run", "run": "digits/coc/seed0", "status": "done", "recipe": {"training": {"lr": 0.2}}}
    assert choose_settings(study, [*read, again])["digits", "coc"] == {"training.lr": 0.2}


def test_a_tuned_study_runs_to_its_end(tmp_path):
    study = _study(
        tmp_path,
        variants={"plain": {}},
        budget={"tune": {"grid": {"training.lr": [0.1]}, "seeds": [9], "set": {"training.epochs": 1}}},
    )
    run_study(study, _options(tmp_path))
    records = records_of(study, tmp_path / "results").read()
    assert [record["stage"] for record in records] == ["tuning", "final"]


def test_a_network_starts_from_the_run_of_another_study(tmp_path):
    first = _study(tmp_path)
    run_study(first, _options(tmp_path, workers=2))
    weights = "{runs}/tiny-small/digits/{variant}/seed{seed}"
    (tmp_path / "second").mkdir()
    second = _study(tmp_path / "second", set={"model.weights": weights, "training.lr": 1e-6})
    options = RunOptions(results=tmp_path / "second", runs=tmp_path / "runs")
    # Under the same name it would be the same run: a name of its own.
    second = read_study(str(_rename(tmp_path / "second/tiny.yaml", "second.yaml")), "small")
    run_study(second, options)
    begun, gone_on = (
        runs(records_of(s, o).read()) for s, o in ((first, tmp_path / "results"), (second, options.results))
    )
    for name, record in gone_on.items():
        assert record["recipe"]["model"]["weights"] == weights.format(
            runs="{runs}", variant=record["variant"], seed=record["seed"]
        )
        assert record["history"][0]["loss"] < begun[name]["history"][0]["loss"]
        assert record["start_code"] == begun[name]["code"] == code_identity()
    write_report(second, list(gone_on.values()), tmp_path / "report")
    assert f"- started from networks of code `{code_identity()}`: 2 runs" in (tmp_path / "report/report.md").read_text()
    missing = RunOptions(results=tmp_path / "third", runs=tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"starts from the run in .*elsewhere.*run its study first"):
        run_study(second, missing)


def _rename(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "variants: expected keys with values, got {}"),
        ({"variants": ["plain", "coc"]}, "variants: expected keys with values, got"),
        ({"against": "plain"}, "against: expected a list, got 'plain'"),
        ({"variants": {"plain": {}, False: {}}}, "a name is False to YAML; put it in quotes"),
        ({"variants": {"plain": {}, "../up": {}}}, r"'\.\./up' cannot be a name"),
        ({"budget": {"networks": {"..": {"recipe": "digits-resnet18"}}}}, r"'\.\.' cannot be a name"),
        ({"question": ""}, "question: expected a text, got ''"),
        ({"curves": {"a": {1: "cok"}}}, "curves and paper: cok is none of plain, coc"),
        ({"paper": {"digits": {"cok": {"top1": 1.0}}}}, "curves and paper: cok is none of plain, coc"),
        ({"variants": {"plain": 3}}, "variants.plain: expected settings by key, or nothing, got 3"),
        ({"budget": {"networks": [1]}}, r"budgets.small.networks: expected keys with values, got \[1\]"),
        ({"budget": {"networks": {"a": None}}}, "networks.a: expected keys with values, got None"),
        ({"budget": {"seeds": [0, 1]}}, "seeds: expected a number, or numbers by variant, got"),
        ({"budget": {"tune": {"grid": {"training.optimizer": "sgd"}, "seeds": [9]}}}, "optimizer: expected a list"),
        ({"budget": {"tune": {"grid": {"training.lr": [1]}, "seeds": 9}}}, "tune.seeds: expected a list, got 9"),
        ({"budgets": {"small": None}}, "budgets.small: expected keys with values, got None"),
        ({"against": ["stnd"]}, "against: stnd is none"),
        ({"colour": "red"}, "colour is no key of a study"),
        ({"budget": {"seeds": {"others": 0}}}, "budgets.small.seeds: plain needs a number of seeds"),
        ({"budget": {"seeds": {"plain": 2}}}, "seeds: coc needs a number"),
        ({"budget": {"seeds": {"others": 2, "cok": 1}}}, "seeds: cok is none"),
        ({"budget": {"variants": ["cok"]}}, "budgets.small.variants: cok is none"),
        ({"budget": {"networks": {"a": {"training.lr": 1}}}}, r"networks.a.recipe is missing"),
        ({"budget": {"networks": {"a": {"recipe": "x", "variants": ["y"]}}}}, "networks.a.variants: y is none"),
        ({"budget": {"tune": {"grid": {"training.lr": [1]}, "seeds": [0]}}}, "tune.seeds must not be among"),
        ({"budget": {"tune": {"seeds": [9]}}}, "tune.grid is missing"),
        ({"budget": {"spread": "common"}}, "budgets.small.spread must be own or pooled, got 'common'"),
    ],
)
def test_mistakes_in_a_study_are_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        _study(tmp_path, **changes)


def test_a_variant_that_stands_there_twice_is_named(tmp_path):
    path = _write(tmp_path)
    path.write_text(path.read_text().replace("  coc:", "  plain: {method: stnd}\n  coc:"))
    with pytest.raises(ConfigError, match=r"tiny\.yaml: not readable as YAML \(plain stands there twice"):
        read_study(str(path), "small")


def test_a_study_of_ones_own_knows_its_file(tmp_path):
    assert _study(tmp_path).file == (tmp_path / "tiny.yaml").as_posix()


def test_unknown_studies_and_budgets_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no study is called what-help; there are what-helps"):
        read_study("what-help", "small")
    with pytest.raises(ConfigError, match="there is no budget huge; it has small"):
        read_study("what-helps", "huge")
    (tmp_path / "x.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="a study has keys"):
        read_study(str(tmp_path / "x.yaml"), "small")
    (tmp_path / "y.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        read_study(str(tmp_path / "y.yaml"), "small")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_built_in_study_has_possible_recipes(path, tmp_path, monkeypatch):
    """Every cell of every budget is a recipe that can be built, but for data and backbones that are not here."""
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    written = yaml.safe_load(path.read_text())
    for budget in written["budgets"]:
        study = read_study(path.stem, budget)
        assert (study.name in list_studies(), study.file) == (True, "")
        for network in study.networks:
            for variant in study.variants_of(network):
                settings = study.settings(network, variant)
                settings.pop("model.weights", None)
                assert isinstance(recipe_from(study.networks[network]["recipe"], settings), Recipe)
        for rows in study.paper.values():
            assert set(rows) <= set(written["variants"])
        for points in study.curves.values():
            assert set(points.values()) <= set(study.variants)


def test_what_is_left_out_of_the_code_identity_is_there():
    package = Path(code.__file__).parents[2]
    names = [path.relative_to(package).as_posix() for path in package.rglob("*")]
    assert [beside for beside in code._BESIDE if not any(name.startswith(beside) for name in names)] == []


def test_code_identity_ignores_what_says_nothing_to_python():
    one = '"""About."""\n\ndef f(x):\n    """Add."""\n    return x + 1  # one\n'
    other = "def f(x):\n    # more\n    return x+1\n"
    assert bare(one) == bare(other)
    assert bare(other) != bare(other.replace("1", "2"))
    assert bare('x = "# no comment"') != bare('x = "#nocomment"')
    inside, outside = ("for i in x:\n    g(i)\n" + line for line in ("    h(i)\n", "h(i)\n"))
    assert bare(inside) != bare(outside)


def test_ray_cluster_of_two_machines_loses_a_worker_and_no_run(tmp_path):
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    if not Path("/proc").is_dir():
        pytest.skip("finds the worker to kill in /proc")
    study = _write(tmp_path, set={"training.epochs": 12}, budget={"seeds": 2})
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
    assert sorted(record["run"] for record in records) == sorted(
        f"digits/{variant}/seed{seed}" for variant in ("plain", "coc") for seed in (0, 1)
    )
    assert all(record["status"] == "done" for record in records)
    assert all([e["epoch"] for e in record["history"]] == list(range(1, 13)) for record in records)


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
    while not log.exists() or log.read_bytes().count(b"\\n") < 4:
        time.sleep(0.05)
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if process.read_bytes().startswith(b"ray::_run"):
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
