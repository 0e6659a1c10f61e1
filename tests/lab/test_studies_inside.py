"""What is found inside of a study's networks: recorded once, compared by seed and with chance, reported and judged."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml

pytest.importorskip("lightning", reason="needs the extra [lab]")

from tiny_study import options_in, tiny_study

import convofconv as coc
from convofconv.errors import ConfigError
from convofconv.lab.inspect import run_numbers as numbers_module
from convofconv.lab.inspect.kernel_nulls import claim_tests
from convofconv.lab.inspect.run_numbers import What, kernel_numbers, run_numbers
from convofconv.lab.predict.finished_run import load_run
from convofconv.lab.studies.analysis import CHANCE, analyse
from convofconv.lab.studies.claims import write_claims
from convofconv.lab.studies.execution import records_of, run_study
from convofconv.lab.studies.inspect_runs import inspect_study
from convofconv.lab.studies.report import markdown

pytestmark = pytest.mark.lab

LOOKED = {"recipe": "digits-resnet18", "inspect": {"layer": "layer4", "draws": 5}}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of two seeds that was run and looked into, and what was printed."""
    from tiny_study import Inside

    from convofconv.lab.studies import execution

    folder = tmp_path_factory.mktemp("inside")
    study = tiny_study(folder, budget={"networks": {"digits": LOOKED}, "seeds": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "LocalWorkers", Inside)
        run_study(study, options_in(folder))
    inspect_study(study, folder / "results", folder / "runs", folder)
    return study, folder


def inspected(study, folder):
    return [record for record in records_of(study, folder / "results").read() if record["kind"] == "inspection"]


def test_every_finished_run_is_looked_into_once(done, capsys):
    study, folder = done
    before = inspected(study, folder)
    assert sorted(record["run"] for record in before) == [
        f"digits/{m}/seed{s}" for m in ("coc", "plain") for s in (0, 1)
    ]
    inspect_study(study, folder / "results", folder / "runs", folder)
    assert inspected(study, folder) == before
    assert "0 networks were looked into" in capsys.readouterr().out


def test_what_is_recorded_is_what_the_network_of_the_run_gives(done):
    study, folder = done
    record = next(one for one in inspected(study, folder) if one["run"] == "digits/coc/seed1")
    network = load_run(folder / "runs/tiny-small/digits/coc/seed1", folded=False).network
    expected = run_numbers(network, What("layer4", draws=5))
    assert record["numbers"] == {k: None if v is None else pytest.approx(v, abs=1e-5) for k, v in expected.items()}


def test_a_killed_inspection_goes_on_where_it_was(done, tmp_path, monkeypatch):
    study, folder = done
    shutil.copytree(folder / "results", tmp_path / "results")
    records = records_of(study, tmp_path / "results")
    lines = records.path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] == "run"]
    records.path.write_text("".join(kept) + lines[-1][:40])  # cut short in the middle of a record
    calls = []
    original = numbers_module.run_numbers

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr("convofconv.lab.studies.inspect_runs.run_numbers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inspect_study(study, tmp_path / "results", folder / "runs", folder)
    assert len(inspected(study, tmp_path)) == 1
    inspect_study(study, tmp_path / "results", folder / "runs", folder)
    assert sorted(inspected(study, tmp_path), key=str) == sorted(inspected(study, folder), key=str)


def test_kernel_numbers_are_means_over_layers_beyond_the_null():
    torch.manual_seed(0)
    network = coc.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3)))
    for conv in network:
        torch.nn.init.normal_(coc.kernel_maps(conv)[0].super_kernel, std=0.3)
    numbers = kernel_numbers(network, draws=7)
    tests = [claim_tests(network, layer, draws=7) for layer in ("0", "1")]
    for name in ("similarity", "support_overlap", "energy"):
        beyond = [100 * (test[name].observed - test[name].null_mean) for test in tests]
        assert numbers[name] == pytest.approx(sum(beyond) / 2)


def test_a_plain_network_is_looked_at_through_identities_and_left_as_it_is():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3))
    planted = network[0].weight.detach().clone()
    for group in range(0, 16, 4):
        planted[group + 1 : group + 4] = planted[group] + 0.1 * planted[group + 1 : group + 4]
    with torch.no_grad():
        network[0].weight.copy_(planted)
    numbers = kernel_numbers(network, draws=19)
    assert numbers["similarity_z"] > 3
    assert numbers["energy"] is None
    assert not coc.summary(network).converted


def test_comparisons_are_paired_by_seed_and_with_chance(done):
    study, folder = done
    (network,) = analyse(study, records_of(study, folder / "results").read()).networks
    values = {cell: network.cells[cell].measured("similarity") for cell in ("plain", "coc")}
    expected = sum(values["coc"][seed] - values["plain"][seed] for seed in (0, 1)) / 2
    assert network.inside("similarity", "plain")["coc"].difference == pytest.approx(expected)
    against_chance = network.inside("similarity", CHANCE)
    assert against_chance["plain"].difference == pytest.approx(sum(values["plain"].values()) / 2)
    assert network.inside("energy", "plain")["coc"].pairs == 0  # a plain network has no super kernel
    assert network.inside("energy", CHANCE)["coc"].pairs == 2


def test_the_report_has_what_was_found_and_one_without_has_none_of_it(done):
    study, folder = done
    records = records_of(study, folder / "results").read()
    text = markdown(analyse(study, records), [])
    assert "### digits, inside: similarity" in text
    assert "### digits, inside: large objects" not in text  # none are annotated
    without = markdown(analyse(study, [one for one in records if one["kind"] == "run"]), [])
    assert ", inside: " not in without


def test_a_claim_about_the_inside_has_a_verdict(done, tmp_path, monkeypatch):
    study, folder = done
    compare = {"study": study.file, "budget": "small", "variant": "coc", "measure": "similarity"}
    claims = {
        "C9": {
            "statement": "Alike.",
            "how": "By seed.",
            "compare": [{**compare, "against": ["plain"]}, {**compare, "against": ["chance"], "claimed": "less"}],
        }
    }
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump({"claims": claims, "tables": {}}))
    write_claims(folder / "results", tmp_path / "claims.md", file)
    page = (tmp_path / "claims.md").read_text()
    assert "coc − plain" in page
    assert "coc − chance" in page
    assert "**Verdict: " in page


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layr": "x"}, r"digits.inspect takes layer, object_size, images, draws; got \{'layr': 'x'\}"),
        ({"draws": 5}, r"inspect.layer is missing"),
        ({"layer": "layer4", "draws": 0}, r"images and draws be at least 1"),
    ],
)
def test_what_is_looked_into_is_checked_before_anything_is_computed(given, message, tmp_path):
    study = tiny_study(tmp_path, budget={"networks": {"digits": {**LOOKED, "inspect": given}}})
    with pytest.raises(ConfigError, match=message):
        inspect_study(study, tmp_path / "results", tmp_path / "runs", tmp_path)


def test_networks_that_are_gone_are_named(done, tmp_path):
    study, folder = done
    shutil.copytree(folder / "results", tmp_path / "results")
    records = records_of(study, tmp_path / "results")
    kept = [line for line in records.path.read_text().splitlines(keepends=True) if json.loads(line)["kind"] == "run"]
    records.path.write_text("".join(kept))
    with pytest.raises(ConfigError, match=r"the networks of digits/plain/seed0, .* are not there; --runs says where"):
        inspect_study(study, tmp_path / "results", tmp_path / "elsewhere", tmp_path)


def test_a_study_that_asks_for_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no network says under inspect what is looked into"):
        inspect_study(tiny_study(tmp_path), tmp_path, tmp_path, tmp_path)
