"""A data source is one file, found by its name: everything else follows from what it says of itself."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from PIL import Image
from tiny_runs import CLASSIFY, fit, results

from convofconv.cli import main
from convofconv.errors import ConfigError
from convofconv.lab.data import sources
from convofconv.lab.found_by_name import names_in
from convofconv.lab.recipe import schema
from convofconv.lab.recipe.schema import DataRecipe, Recipe, find_source, sources_of

pytestmark = pytest.mark.lab


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a recipe for the toy's layout, whose file is put beside the others."""
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(Path(__file__).parent / "toy_source")])
    monkeypatch.setattr(schema, "DataName", Literal[names_in("data.sources")])  # as a new process has it
    for split, count in (("train", 8), ("val", 4)):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            for number in range(count):
                name, shade = f"{split}{number}.png", number % 2
                Image.new("L", (28, 28), 255 * shade).save(tmp_path / name)
                csv.writer(file).writerow([name, ("black", "white")[shade]])
    return [*CLASSIFY, "--data.name=labels_csv", f"--data.root={tmp_path}", "--data.classes=2", "--training.batch=4"]


def test_a_data_layout_is_one_new_file(toy, tmp_path, capsys):
    assert fit([*toy, "--training.epochs=1"], tmp_path / "run") == 0, capsys.readouterr().err
    found = results(tmp_path / "run")
    assert found["classes"] == ["black", "white"]
    assert found["recipe"]["data"]["name"] == "labels_csv"
    assert main(["test", str(tmp_path / "run")]) == 0
    assert "4 images of labels_csv, split val; 2 classes; cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.download=true"], "data.download says nothing to labels_csv; leave it out"),
        (["--data.root=null"], "data.root is missing: the folder of the data set labels_csv"),
        (["--data.val_split=dev"], "dev.csv: no such file; a split is a CSV file"),
        (["--data.classes=3"], "data.classes must be 2, the number of classes of labels_csv (black, white); got 3"),
        (["--data.name=labels_cvs"], "did you mean labels_csv?"),
    ],
)
def test_what_does_not_fit_a_new_layout_is_refused_as_with_any_other(options, message, toy, tmp_path, capsys):
    assert fit([*toy, *options], tmp_path / "run") == 2
    assert message in capsys.readouterr().err


def test_every_source_serves_a_task_and_every_task_has_one_that_is_built_in():
    served = {task: sources_of(task) for task in names_in("tasks")}
    assert {name for names in served.values() for name in names} == set(names_in("data.sources"))
    for task, names in served.items():
        assert "root" not in find_source(names[0]).keys, task
        assert any(find_source(name).layout for name in names), f"advice to whoever has data of their own for {task}"


def test_sources_know_only_keys_that_recipes_have():
    keys = {field.name for field in dataclasses.fields(DataRecipe)}
    for name in names_in("data.sources"):
        assert set(find_source(name).keys) <= set(schema.KEYS_OF_SOURCES) <= keys


def test_a_source_that_does_not_exist_or_fit_the_task_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^data\.name must be one of .*digits.*, got 'digit'$"):
        DataRecipe("digit")
    assert {"digit_scenes", "voc"} <= set(sources_of("segmentation"))
    assert "digits" not in sources_of("segmentation")
    with pytest.raises(ConfigError, match=r"must be one of digit_scenes, .*voc.* for segmentation, got 'digits'$"):
        Recipe("segmentation")
    with pytest.raises(ConfigError, match=r"must be one of digits, .*image_folder.* for classification, got 'coco'$"):
        Recipe(data=DataRecipe("coco", tmp_path))
