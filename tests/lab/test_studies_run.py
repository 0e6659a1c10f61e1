"""Studies: what is planned, chosen, recorded and refused."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from tiny_study import options_in, tiny_study

from convofconv.errors import ConfigError
from convofconv.lab.recipe.comparing import different_keys, plain_values
from convofconv.lab.studies import execution as run_module
from convofconv.lab.studies.code_identity import code_identity
from convofconv.lab.studies.execution import RunOptions, records_of, run_study
from convofconv.lab.studies.local_workers import LocalWorkers
from convofconv.lab.studies.plan import choose_settings, names_of_runs, plan
from convofconv.lab.studies.records import Records, runs
from convofconv.lab.studies.report import write_report
from convofconv.lab.studies.study import Study, read_study

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("inside")]


def test_failures_are_recorded_and_do_not_stop_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_module, "LocalWorkers", LocalWorkers)  # processes of their own
    variants = {
        "plain": {},
        "nonsense": {"method": "nonsense"},  # refused when planned
        "diverges": {"training.lr": 1e12},  # fails in the middle
        "nothing": {"method": "coc", "model.backbone": "torchvision/alexnett"},  # fails when built
    }
    study = tiny_study(tmp_path, variants=variants)
    with pytest.raises(ConfigError, match="3 of its runs failed"):
        run_study(study, options_in(tmp_path, workers=2))
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
    for options in (options_in(tmp_path), options_in(tmp_path, retry_failed=True, dry_run=True)):
        with contextlib.suppress(ConfigError):
            run_study(study, options)
        assert records_of(study, tmp_path / "results").path.read_bytes() == before
    with pytest.raises(ConfigError, match="failed"):
        run_study(study, options_in(tmp_path, retry_failed=True, only=["*/diverges/*", "*/nonsense/*"]))
    assert len(records_of(study, tmp_path / "results").read()) == 6


def test_a_line_says_which_run_begins_and_ends_how_many_there_are_and_how_long_they_take(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_module, "LocalWorkers", LocalWorkers)  # processes of their own
    run_study(tiny_study(tmp_path, budget={"seeds": 2}, variants={"plain": {}}), options_in(tmp_path))
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading == "tiny, small: 2 of 2 runs to do, 1 at a time"
    expected = [
        r"digits/plain/seed0 begins, 1 of 2(; .* left)?",  # if it has an epoch when it is seen
        r"\[1/2\] digits/plain/seed0: top1 [\d.]+ % in \d+ s; (\d+ min )?\d+ s left",
        r"digits/plain/seed1 begins, 2 of 2(; .* left)?",  # nothing is left if its two epochs are over by then
        r"\[2/2\] digits/plain/seed1: top1 [\d.]+ % in \d+ s",
        r"2 of 2 runs done, 0 failed: .*",
    ]
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    printed = (tmp_path / "runs/tiny-small/digits/plain/seed0/output.txt").read_text()
    assert "epoch 2 of 2: loss" in printed


def test_a_study_that_is_refused_leaves_no_folder(tmp_path):
    study = tiny_study(tmp_path, variants={"plain": {"training.epoch": 3}})
    with pytest.raises(ConfigError, match="no run is possible"):
        run_study(study, options_in(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_results_that_are_no_numbers_are_a_failed_run_and_do_not_stop_the_others(tmp_path, capsys):
    """However often the study is started: the run's folder keeps them."""
    study = tiny_study(tmp_path)
    run_study(study, options_in(tmp_path, only=["*/coc/*"]))
    file = tmp_path / "runs/tiny-small/digits/coc/seed0/results.json"
    results = json.loads(file.read_text())
    results["test"]["folded"]["top1"] = results["history"][0]["top5"] = results["history"][1]["top5"] = float("nan")
    file.write_text(json.dumps(results))
    records_of(study, tmp_path / "results").path.unlink()
    for _ in range(2):
        with pytest.raises(ConfigError, match="1 of its runs failed"):
            run_study(study, options_in(tmp_path, retry_failed=True))
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
    wrong = tiny_study(tmp_path, variants={"plain": {}, "coc": {"method": "cocc"}})
    run_study(wrong, options_in(tmp_path, dry_run=True))
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("impossible: digits/coc/seed0: digits-resnet18: method: no method is called 'cocc'")
    assert told[1].startswith("digits/plain/seed0  ")
    with pytest.raises(ConfigError, match="1 of its runs failed"):
        run_study(wrong, options_in(tmp_path))
    run_study(wrong, options_in(tmp_path, only=["*/plain/*"]))  # is done, whatever became of the others
    mended = tiny_study(tmp_path)
    run_study(mended, options_in(tmp_path))
    done = runs(records_of(mended, tmp_path / "results").read())
    assert {name: record["status"] for name, record in done.items()} == {
        "digits/plain/seed0": "done",
        "digits/coc/seed0": "done",
    }


def test_a_run_that_failed_is_done_when_its_settings_are_mended(tmp_path, capsys):
    """Without a flag, and the good runs beside it stay."""
    wrong = tiny_study(tmp_path, variants={"plain": {}, "coc": {"method": "coc", "training.batch": 4000}})
    with pytest.raises(ConfigError, match="1 of its runs failed"):
        run_study(wrong, options_in(tmp_path))
    before = records_of(wrong, tmp_path / "results").read()
    assert {record["variant"]: bool(record["recipe"]) for record in before} == {"plain": True, "coc": True}
    mended = tiny_study(tmp_path)
    run_study(mended, options_in(tmp_path))
    after = records_of(mended, tmp_path / "results").read()
    assert after[:2] == before
    assert [(record["variant"], record["status"]) for record in after[2:]] == [("coc", "done")]
    other = tiny_study(tmp_path, variants={"plain": {}, "coc": {"method": "coc", "training.batch": 10}})
    with pytest.raises(ConfigError, match=r"digits/coc/seed0 was run with other settings: training.batch=20 there, 10"):
        run_study(other, options_in(tmp_path))


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_record_names_no_folder_of_the_machine(tmp_path, through_a_link):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    data = tmp_path / ("link" if through_a_link else "there")
    variants = {"plain": {}, "no-folder": {"data.name": "image_folder", "data.root": "data/images"}}
    study = tiny_study(tmp_path, variants=variants)
    with pytest.raises(ConfigError, match="1 of its runs failed"):
        run_study(study, options_in(tmp_path, data=data))
    (record,) = [one for one in records_of(study, tmp_path / "results").read() if one["status"] == "failed"]
    assert "{data}/images" in record["reason"]
    assert str(tmp_path) not in record["reason"]


def test_no_possible_run_is_refused_before_anything_is_written(tmp_path):
    study = tiny_study(tmp_path, variants={"plain": {"training.epoch": 3}})
    with pytest.raises(ConfigError, match=r"tiny: no run is possible. digits/plain/seed0: .*epoch"):
        run_study(study, options_in(tmp_path))
    assert not records_of(study, tmp_path / "results").path.exists()


def test_the_machine_is_not_the_recipes(tmp_path):
    (job, *_) = plan(tiny_study(tmp_path), [])
    recipe = job.build_recipe(tmp_path, machine=RunOptions(threads=2, data_workers=3).machine)
    assert (recipe.machine.threads, recipe.data.workers) == (2, 3)
    own = job.build_recipe(tmp_path, machine=RunOptions().machine)
    assert own.data.workers == job.build_recipe(tmp_path).data.workers
    assert not different_keys(plain_values(own), plain_values(recipe))
    with pytest.raises(ConfigError, match="--data-workers must be at least 0, got -1"):
        RunOptions(data_workers=-1)


def test_the_data_is_where_the_study_was_started(tmp_path, monkeypatch):
    """Workers of a cluster may have been started elsewhere."""
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    for root, found in (("data/images", "data/images"), ("own", "own")):
        study = tiny_study(tmp_path, set={"data.name": "image_folder", "data.root": root})
        recipe = plan(study, [])[0].build_recipe(tmp_path / "runs", RunOptions().data)
        assert recipe.data.root == (tmp_path / found).resolve()


def test_runs_that_a_study_no_longer_has_are_not_counted(tmp_path, capsys):
    run_study(tiny_study(tmp_path), options_in(tmp_path, workers=2))
    capsys.readouterr()
    run_study(tiny_study(tmp_path, variants={"plain": {}}), options_in(tmp_path))
    assert capsys.readouterr().out.startswith("1 of 1 runs done, 0 failed: ")


def test_weights_that_are_not_there_are_told_before_anything_is_run(tmp_path, capsys):
    variants = {"plain": {}, "further": {"model.weights": "runs/typo"}}
    run_study(tiny_study(tmp_path, variants=variants), options_in(tmp_path, dry_run=True))
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("impossible: digits/further/seed0: model.weights must be empty, ")
    assert told[1].startswith("digits/plain/seed0  ")


def test_patterns_that_match_no_run_are_named(tmp_path, capsys):
    study = tiny_study(tmp_path)
    with pytest.raises(ConfigError, match=r"no run is called like digits/cok/\*; digits/plain/seed0 is one"):
        run_study(study, options_in(tmp_path, only=["digits/cok/*", "digits/coc/*"]))
    run_study(study, options_in(tmp_path, only=["digits/coc/*"], dry_run=True))
    assert capsys.readouterr().out == f"digits/coc/seed0  {tmp_path / 'runs/tiny-small/digits/coc/seed0'}\n"
    assert not records_of(study, tmp_path / "results").path.exists()


def test_two_drivers_do_not_write_to_one_file(tmp_path):
    study = tiny_study(tmp_path)
    with (
        records_of(study, tmp_path / "results").locked(),
        pytest.raises(ConfigError, match="another coc study is writing"),
    ):
        run_study(study, options_in(tmp_path))


def test_what_is_left_can_be_asked_while_a_study_runs(tmp_path, capsys):
    study = tiny_study(tmp_path)
    with records_of(study, tmp_path / "results").locked():
        run_study(study, options_in(tmp_path, dry_run=True))
    assert "digits/coc/seed0" in capsys.readouterr().out
    run_study(study, options_in(tmp_path / "elsewhere", dry_run=True))
    assert not (tmp_path / "elsewhere").exists()


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
    return tiny_study(tmp_path, budget={"tune": tune, "seeds": 2})


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
    study = tiny_study(
        tmp_path,
        variants={"plain": {}},
        budget={"tune": {"grid": {"training.lr": [0.1]}, "seeds": [9], "set": {"training.epochs": 1}}},
    )
    run_study(study, options_in(tmp_path))
    records = records_of(study, tmp_path / "results").read()
    assert [record["stage"] for record in records] == ["tuning", "final"]


def test_a_network_starts_from_the_run_of_another_study(tmp_path):
    first = tiny_study(tmp_path)
    run_study(first, options_in(tmp_path, workers=2))
    weights = "{runs}/tiny-small/digits/{variant}/seed{seed}"
    (tmp_path / "second").mkdir()
    second = tiny_study(tmp_path / "second", set={"model.weights": weights, "training.lr": 1e-6})
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
