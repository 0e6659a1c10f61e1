"""Recipes of one's own: what `--print_config` gave serves every command and study, and a broken file is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from convofconv.cli import main
from convofconv.errors import ConfigError
from convofconv.lab.recipe.comparing import plain_values
from convofconv.lab.recipe.recipe_files import FOLDER, recipe_from, recipe_of
from convofconv.lab.recipe.schema import Recipe
from convofconv.lab.training import run as fit_module

pytestmark = pytest.mark.lab

OPTIONS = [
    "--method=coc",
    "--association.grid_side=3",
    "--model.options={'channels': [8, 8, 8, 8]}",
    "--data.limit=32",
    "--training.batch=16",
    "--training.epochs=1",
    "--training.warmup_steps=0",
    "--machine.accelerator=cpu",
]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["fit", "digits-resnet18", *OPTIONS, "--print_config"])
    Path("my.yaml").write_text(capsys.readouterr().out)
    return Path("my.yaml")


def test_a_saved_recipe_serves_fit_validate_and_test(saved, capsys):
    with pytest.raises(SystemExit):
        main(["fit", str(saved), "--print_config"])
    assert capsys.readouterr().out == saved.read_text()
    for command in ("fit", "validate", "test"):
        assert main([command, str(saved)]) == 0, capsys.readouterr().err
    assert Path("runs/my-coc-seed0/results.json").is_file()


def test_a_saved_recipe_serves_a_study(saved):
    settings = {"method": "coc", "association.grid_side": 3, "model.options": {"channels": [8, 8, 8, 8]}}
    settings |= {"data.limit": 32, "training.batch": 16, "training.epochs": 1, "training.warmup_steps": 0}
    settings |= {"machine.accelerator": "cpu"}
    assert recipe_from(str(saved), {}, data=Path("elsewhere")) == recipe_from("digits-resnet18", settings)


def test_a_recipe_for_coc_serves_other_methods_to_compare_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = "method: coc\npreset: released\nassociation: {grid_side: 4}\n"
    Path("mine.yaml").write_text(mine)
    Path("without.yaml").write_text(mine.replace("method: coc", "method: stnd"))
    unknown = "--training.batch=999999"  # ends both where the recipe is accepted
    assert main(["fit", "mine.yaml", "--method=stnd", unknown]) == 2
    assert "training.batch" in capsys.readouterr().err
    for refused in (["without.yaml"], ["mine.yaml", "--method=stnd", "--preset=lightweight"]):
        assert main(["fit", *refused, unknown]) == 2
        assert "preset and association are of the method coc, this is stnd" in capsys.readouterr().err


def test_the_folder_of_a_run_stands_for_what_its_recipe_was_trained_as(tmp_path, monkeypatch, capsys):
    """Also where a recipe for coc was trained with another method."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("method: coc\npreset: released\nassociation: {init: kaiming}\n")
    options = [option for option in OPTIONS if not option.startswith(("--method", "--association"))]
    assert main(["fit", "mine.yaml", *options, "--method=plain", "--out=run"]) == 0
    assert main(["test", "run"]) == 0, capsys.readouterr().err
    assert main(["fit", "run", "--resume"]) == 0, capsys.readouterr().err
    assert main(["test", "run", "--preset=lightweight"]) == 2
    assert "preset and association are of the method coc, this is plain" in capsys.readouterr().err


def test_a_dotted_key_changes_one_value(tmp_path):
    """As on the command line: the others stay, however deep it is."""
    before = recipe_from("tiny-imagenet50-resnet18-w16", {"data.root": str(tmp_path)}).model.options
    settings = {"data.root": str(tmp_path), "model.options.drop_path_rate": 0.1}
    assert recipe_from("tiny-imagenet50-resnet18-w16", settings).model.options == {**before, "drop_path_rate": 0.1}
    path = tmp_path / "dotted.yaml"
    path.write_text("data: {classes: 10}\ndata.limit: 7\nmodel.options: {channels: [8, 8, 8, 8]}\n")
    recipe = recipe_from(str(path), {"model.options.drop_path_rate": 0.1})
    assert recipe.data.limit == 7
    assert recipe.model.options == {"channels": [8, 8, 8, 8], "drop_path_rate": 0.1}
    (tmp_path / "elsewhere").mkdir()
    path.write_text("data: {name: cifar10}\ndata.root: data\n")
    assert recipe_from(str(path), {}, data=tmp_path / "elsewhere").data.root == tmp_path / "elsewhere"


BROKEN = {
    "": "a recipe has keys and values, this is a NoneType",
    "- a\n": "a recipe has keys and values, this is a list",
    "data: [b\n": "not readable as YAML (while parsing a flow sequence",
    "training: {lr: null}\n": "training.lr: null is no value there; leave it out for its default",
    "training: 3\n": "training has keys and values, got 3",
    "training: {epoch: 3}\n": "training.epoch: a recipe has no such key; did you mean training.epochs?",
    "training: {flip: true}\n": "training.flip: a recipe has no such key; did you mean data.flip?",
    "lr: 0.1\n": "lr: a recipe has no such key; did you mean training.lr?",
    "trainig: {epochs: 3}\n": "trainig: a recipe has no such key; did you mean training?",
    "5: 3\n": "5: a recipe has no such key",
    "model: {options: {a: 1}}\nmodel.options: {b: 2}\n": "model.options is given twice",
    "model.options.a: 1\nmodel.options: {b: 2}\n": "model.options is given twice",
    "training: 3\ntraining.lr: 1\n": "training.lr: training has keys and values, got 3",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items(), ids=list(BROKEN.values()))
def test_a_broken_recipe_is_named_by_commands_and_studies(text, message, tmp_path, capsys):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert main(["fit", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"coc: {path}: ")
    assert message in told
    assert told.count("\n") == 1
    with pytest.raises(ConfigError) as caught:
        recipe_from(str(path), {"training.epochs": 3})
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": 3}, "training has keys and values, got 3"),
        ({"training.lr": None}, "training.lr: null is no value"),
    ],
)
def test_impossible_settings_of_a_study_are_named(settings, message):
    with pytest.raises(ConfigError, match=f"^digits-resnet18: {message}"):
        recipe_from("digits-resnet18", settings)


def test_sections_and_a_root_without_a_value_have_their_defaults(tmp_path, monkeypatch):
    path, seen = tmp_path / "bare.yaml", []
    monkeypatch.setattr(fit_module, "run_fit", lambda recipe, *_: seen.append(recipe))
    for text in ("data:\ntraining: {epochs: 3}\n", "data: {root: null}\nassociation:\ntraining: {epochs: 3}\n"):
        path.write_text(text)
        assert main(["fit", str(path)]) == 0
        seen.append(recipe_from(str(path), {}, data=Path("elsewhere")))
    training = dataclasses.replace(Recipe().training, epochs=3)
    assert seen == [Recipe(training=training)] * 4


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    assert recipe_from("digits-resnet18", {"data.root": "~/images"}).data.root == tmp_path / "images"


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.yaml"))])
def test_every_recipe_survives_its_plain_values(name, tmp_path):
    settings = {"data.root": str(tmp_path), "association.grid_side": 3, "training.milestones": [2, 3]}
    recipe = recipe_from(name, {**settings, "method": "coc"})
    assert recipe_of(plain_values(recipe)) == recipe
