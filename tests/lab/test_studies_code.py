"""Code and settings of runs: what is told apart, refused, or done anew."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from tiny_study import options_in, tiny_study

from convofconv.errors import ConfigError
from convofconv.lab.runs.folder import plain_values
from convofconv.lab.studies import code
from convofconv.lab.studies import run as run_module
from convofconv.lab.studies.code import bare, code_identity
from convofconv.lab.studies.plan import plan
from convofconv.lab.studies.run import records_of, run_study
from convofconv.lab.studies.worker import outcome, run_job, write_job

pytestmark = pytest.mark.lab


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


def test_an_unfinished_run_of_other_code_begins_anew(tmp_path, monkeypatch):
    study = tiny_study(tmp_path, variants={"plain": {}})
    folder = tmp_path / "runs/tiny-small/digits/plain/seed0"
    folder.mkdir(parents=True)
    recipe = plan(study, [])[0].build_recipe(tmp_path / "runs")
    (folder / "job.json").write_text(json.dumps({"recipe": plain_values(recipe), "code": "older"}))
    (folder / "last.ckpt").write_text("would be gone on with")
    (folder / "tensorboard").mkdir()
    (folder / "results.json").write_text("{}")  # would be taken for the result
    with pytest.raises(ConfigError, match=r"holds a finished run of other settings or code \(older, .*another --runs"):
        run_study(study, options_in(tmp_path))
    (folder / "results.json").unlink()
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
    assert write_job(tmp_path / "run", recipe, "newest", ()) == "newest"
    assert not (tmp_path / "run/last.ckpt").exists()


def test_a_worker_with_other_code_than_the_study_refuses(tmp_path):
    recipe = plan(tiny_study(tmp_path), [])[0].build_recipe(tmp_path / "runs")
    write_job(tmp_path / "run", recipe, "another", ())
    run_job(tmp_path / "run")
    assert re.search("started with code another, here is .*install the same", outcome(tmp_path / "run")["reason"])
