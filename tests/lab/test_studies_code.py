"""Code and settings of runs: what is told apart, refused, or done anew."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from tiny_study import options_in, tiny_study

from convofconv.errors import ConfigError
from convofconv.lab.recipe.comparing import plain_values
from convofconv.lab.studies import code_identity as code
from convofconv.lab.studies import execution as run_module
from convofconv.lab.studies.code_identity import bare, code_identity
from convofconv.lab.studies.execution import records_of, run_study
from convofconv.lab.studies.plan import plan
from convofconv.lab.studies.worker import outcome, run_job, write_job

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("inside")]


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


def test_records_of_other_settings_or_code_are_refused(tmp_path, monkeypatch):
    study = tiny_study(tmp_path, variants={"plain": {}})
    run_study(study, options_in(tmp_path))
    changed = tiny_study(tmp_path, variants={"plain": {}}, set={"training.lr": 0.3})
    with pytest.raises(ConfigError, match=r"digits/plain/seed0 .*training.lr=0.1 there, 0.3 here"):
        run_study(changed, options_in(tmp_path))
    monkeypatch.setattr(run_module, "code_identity", lambda: "another")
    with pytest.raises(ConfigError, match=r"run by other code .*--accept-code"):
        run_study(study, options_in(tmp_path))
    run_study(study, options_in(tmp_path, accept_code="a comment changed"))
    run_study(study, options_in(tmp_path))  # once accepted is accepted
    accept = records_of(study, tmp_path / "results").read()[-1]
    assert accept == {"kind": "accept", "code": code_identity(), "beside": "another", "reason": "a comment changed"}


def test_a_begun_run_of_other_code_is_refused_and_stays_until_it_is_accepted(tmp_path):
    """Before any record is there, which is what most refusals go by."""
    study, records = tiny_study(tmp_path), tmp_path / "results/tiny-small/records.jsonl"
    run_study(study, options_in(tmp_path, workers=2))
    honest = records.read_bytes()
    plain, coc = (tmp_path / f"runs/tiny-small/digits/{variant}/seed0" for variant in ("plain", "coc"))
    for folder in (plain, coc):
        job = json.loads((folder / "job.json").read_text())
        (folder / "job.json").write_text(json.dumps({**job, "code": "older"}))
        records.unlink(missing_ok=True)
    (plain / "results.json").unlink()  # killed behind its last epoch
    kept = {path: path.read_bytes() for path in (plain / "last.ckpt", coc / "results.json")}
    with pytest.raises(ConfigError, match=r"plain/seed0 holds a run of other code \(older, .*--accept-code"):
        run_study(study, options_in(tmp_path))
    assert {path: path.read_bytes() for path in kept} == kept
    run_study(study, options_in(tmp_path, accept_code="a message changed"))
    done = [json.loads(line) for line in records.read_text().splitlines()]
    assert [record["code"] for record in done] == ["older"] * 3
    assert done[0] == {"kind": "accept", "code": "older", "beside": code_identity(), "reason": "a message changed"}
    assert [r["test"] for r in sorted(done[1:], key=lambda r: r["run"])] == [
        json.loads(line)["test"] for line in sorted(honest.decode().splitlines(), key=lambda line: '"coc"' not in line)
    ]


def test_what_is_refused_is_refused_before_anything_is_written(tmp_path):
    study = tiny_study(tmp_path)
    jobs = {job.variant: job for job in plan(study, [])}
    folders = {variant: job.folder(tmp_path / "runs") for variant, job in jobs.items()}
    for folder in folders.values():
        folder.mkdir(parents=True)
    (folders["plain"] / "job.json").write_text("planned")
    other = {**plain_values(jobs["coc"].build_recipe(tmp_path / "runs")), "method": "stnd"}
    (folders["coc"] / "job.json").write_text(json.dumps({"recipe": other, "code": code_identity()}))
    (folders["coc"] / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds a run of other settings: method='stnd' there, 'coc' here; choose"):
        run_study(study, options_in(tmp_path))
    assert (folders["plain"] / "job.json").read_text() == "planned"


def test_a_failed_run_begins_anew_with_code_that_was_mended(tmp_path, monkeypatch):
    """Not where it failed, and without a word on the other code's results: there are none."""
    study = tiny_study(tmp_path)
    run_study(study, options_in(tmp_path, only=["*/plain/*"]))
    folder = tmp_path / "runs/tiny-small/digits/plain/seed0"
    (folder / "results.json").unlink()
    (folder / "failure.json").write_text(json.dumps({"reason": "a mistake in the code"}))
    job = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**job, "code": "older"}))
    planned = tmp_path / "runs/tiny-small/digits/coc/seed0"
    planned.mkdir(parents=True)
    (planned / "job.json").write_text(json.dumps({"recipe": {}, "code": "oldest"}))
    records = records_of(study, tmp_path / "results")
    records.path.write_text("")
    run_study(study, options_in(tmp_path, retry_failed=True))
    assert [(record["status"], record["code"]) for record in records.read()] == [("done", code_identity())] * 2
    (folder / "failure.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run of other code"):
        write_job(folder, plan(study, [])[0].build_recipe(tmp_path / "runs"), "newer", ())
    assert (folder / "results.json").is_file()


def test_code_is_accepted_only_where_it_has_come_to_something(tmp_path):
    study = tiny_study(tmp_path, variants={"plain": {}})
    folder = tmp_path / "runs/tiny-small/digits/plain/seed0"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"recipe": {}, "code": "oldest"}))
    run_study(study, options_in(tmp_path, accept_code="nothing changed"))
    assert [record["kind"] for record in records_of(study, tmp_path / "results").read()] == ["run"]


def test_a_run_of_other_code_that_came_to_no_checkpoint_begins_anew(tmp_path):
    study = tiny_study(tmp_path, variants={"plain": {}})
    folder = tmp_path / "runs/tiny-small/digits/plain/seed0"
    folder.mkdir(parents=True)
    recipe = plan(study, [])[0].build_recipe(tmp_path / "runs")
    (folder / "job.json").write_text(json.dumps({"recipe": plain_values(recipe), "code": "older"}))
    (folder / "recipe.json").write_text("would be compared with")
    (folder / "tensorboard").mkdir()
    run_study(study, options_in(tmp_path))
    (record,) = records_of(study, tmp_path / "results").read()
    assert record["status"] == "done"
    assert record["code"] == code_identity()


def test_a_run_that_was_only_planned_is_recorded_under_the_code_that_does_it(tmp_path):
    recipe = plan(tiny_study(tmp_path), [])[0].build_recipe(tmp_path / "runs")
    assert write_job(tmp_path / "run", recipe, "older", ()) == "older"
    (tmp_path / "run/recipe.json").write_text("{}")  # it was killed before its first checkpoint
    assert write_job(tmp_path / "run", recipe, "newer", ["older"]) == "newer"
    assert not (tmp_path / "run/recipe.json").exists()
    (tmp_path / "run/last.ckpt").touch()
    assert write_job(tmp_path / "run", recipe, "newest", ["newer"]) == "newer"
    assert (tmp_path / "run/last.ckpt").exists()
    with pytest.raises(ConfigError, match=r"other code \(newer, this is newest\)"):
        write_job(tmp_path / "run", recipe, "newest", ())
    assert (tmp_path / "run/last.ckpt").exists()


def test_a_worker_with_other_code_than_the_study_refuses(tmp_path):
    recipe = plan(tiny_study(tmp_path), [])[0].build_recipe(tmp_path / "runs")
    write_job(tmp_path / "run", recipe, "another", ())
    run_job(tmp_path / "run")
    assert re.search("started with code another, here is .*install the same", outcome(tmp_path / "run")["reason"])
