"""The files of studies: what they may say, and that those of the package can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("lightning", reason="needs the extra [lab]")

from data_files import SHARED
from tiny_study import Inside, tiny_study, write_study

from convofconv.cli import main
from convofconv.errors import ConfigError
from convofconv.lab.found_by_name import find_task
from convofconv.lab.recipe.recipe_files import recipe_from
from convofconv.lab.recipe.schema import Recipe
from convofconv.lab.studies import execution as run
from convofconv.lab.studies.study import FOLDER, list_studies, read_study

pytestmark = pytest.mark.lab


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
        ({"paper": {"digits": {"plain": 70.1}}}, r"paper\.digits\.plain: expected keys with values, got 70.1"),
        ({"paper": {"digits": {"plain": {"top1": "70.1"}}}}, r"paper\.digits\.plain: expected numbers by metric"),
        ({"budget": {"networks": {"a": {"recipe": "x", "variants": None}}}}, "networks.a.variants: expected a list"),
        ({"colour": "red"}, "colour is no key here; there are against, budgets, "),
        ({"spread": "pooled"}, r"spread is no key here \(it belongs into a budget\); there are against, "),
        ({"budget": {"colour": "red"}}, "budgets.small.colour is no key here; there are about, "),
        ({"budget": {"networks": {"a": {"recipe": "x", "floor": "low"}}}}, "networks.a.floor must be a score in %"),
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
        tiny_study(tmp_path, **changes)


def test_a_variant_that_stands_there_twice_is_named(tmp_path):
    path = write_study(tmp_path)
    path.write_text(path.read_text().replace("  coc:", "  plain: {method: stnd}\n  coc:"))
    with pytest.raises(ConfigError, match=r"tiny\.yaml: not readable as YAML \(plain stands there twice"):
        read_study(str(path), "small")


def test_variants_may_look_like_numbers(tmp_path):
    variants = {"plain": {}, 221: {"method": "coc"}, 121: {"method": "coc"}}
    budget = {"seeds": {"others": 1, 221: 2}, "variants": ["plain", 221]}
    budget["networks"] = {"digits": {"recipe": "digits-resnet18", "variants": ["plain", 221]}}
    budget["networks"]["digits"]["paper"] = 18
    paper, curves = {18: {"plain": {"top1": 1.0}, 221: {"top1": 2.0}}}, {"side": {2: 221}}
    study = tiny_study(tmp_path, variants=variants, budget=budget, paper=paper, curves=curves, against=["plain", 221])
    assert study.variants_of("digits") == ("plain", "221") == study.against
    assert study.seeds == {"plain": (0,), "221": (0, 1)}
    assert study.paper_of("digits")["221"] == {"top1": 2.0}
    assert study.curves == {"side": {"2": "221"}}


def test_numbers_may_be_written_without_a_point(tmp_path):
    path = write_study(tmp_path)
    tune = "tune: {grid: {training.lr: [1e-3, 2E-2, .5e+1, 0.1], method: [coc, e3]}, seeds: [9]}\n    about:"
    path.write_text(path.read_text().replace("about:", tune).replace("  coc:", "  1e-3: {}\n  coc:"))
    study = read_study(str(path), "small")
    assert study.tuning.grid == {"training.lr": [0.001, 0.02, 5.0, 0.1], "method": ["coc", "e3"]}
    assert list(study.variants) == ["plain", "1e-3", "coc"]


def test_a_study_of_ones_own_knows_its_file(tmp_path):
    assert tiny_study(tmp_path).file == (tmp_path / "tiny.yaml").as_posix()


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets of ../shared/data")
def test_the_same_answer_everywhere_scores_what_the_studies_say():
    """Its class is right wherever that is the truth, and the IoU of every other class that occurs is zero."""
    found, said = {}, 0
    for path in FOLDER.glob("*.yaml"):
        study = read_study(path.stem, "small")
        for network in [network for network in study.networks if study.floor_of(network)]:
            settings = {key: value for key, value in study.settings(network, "plain").items() if "weights" not in key}
            recipe = recipe_from(study.networks[network]["recipe"], settings, SHARED)
            if (key := str(recipe.data)) not in found:
                data = find_task(recipe.task).build_evaluation(
                    recipe.data, recipe.data.test_split or recipe.data.val_split
                )
                targets = [torch.as_tensor(data.images[index][1]).flatten() for index in range(len(data.images))]
                counts = torch.bincount(torch.cat(targets))[: len(data.classes)]  # void is behind them
                occurring = counts.count_nonzero() if recipe.task == "segmentation" else 1
                found[key] = float(100 * counts.max() / counts.sum() / occurring)
            assert study.floor_of(network) == pytest.approx(found[key], abs=0.005), (path.stem, network)
            said += 1
    assert said > len(found) > 3


def test_unknown_studies_and_budgets_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no study is called what-help; did you mean what-helps\?"):
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
    """Every cell of every budget is a recipe that can be built, except for data and backbones that are not here."""
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
        for network, settings in study.networks.items():
            assert "paper" not in settings or study.paper_of(network), network
        for rows in study.paper.values():
            points = {f"{title}/{x}" for title, points in study.curves.items() for x in points}
            assert set(rows) <= set(written["variants"]) | points
        for points in study.curves.values():
            assert set(points.values()) <= set(study.variants)


def test_studies_are_listed_run_reported_and_judged_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path)
    assert main(["study", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(path.stem in listed for path in FOLDER.glob("*.yaml"))
    assert main(["study", "report", "tiny.yaml"]) == 2
    missing = Path("results/tiny-small/records.jsonl")
    told = f"coc: {missing}: no records; coc study run tiny.yaml --budget small makes them, --results says where\n"
    assert capsys.readouterr().err == told
    monkeypatch.setattr(run, "LocalWorkers", Inside)
    assert main(["study", "run", "tiny.yaml", "--runs", "runs"]) == 0
    assert "2 of 2 runs done, 0 failed" in capsys.readouterr().out
    assert main(["study", "report", "tiny.yaml"]) == 0
    assert capsys.readouterr().out == "results/tiny-small/report.md\n"
    assert "**State**: 2 of 2 runs done" in Path("results/tiny-small/report.md").read_text()
    assert main(["study", "claims", "--out", "page.md"]) == 0
    assert "# Claims and verdicts" in Path("page.md").read_text()
