"""Reports of studies from records made up here: right numbers, the same bytes each time, nothing dropped silently."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import random
import re

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from made_up_runs import (
    COC_SCORES,
    PLAIN_SCORES,
    POOLED_SCORES,
    made_failure,
    made_record,
    made_records,
    made_study,
    many_runs,
)

from convofconv.errors import ConfigError
from convofconv.lab.studies.analysis import PLAIN, analyse
from convofconv.lab.studies.figures import CAPTIONS, draw
from convofconv.lab.studies.formatting import summary_of
from convofconv.lab.studies.report import write_report
from convofconv.lab.studies.study import Tuning

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("drawn_only")]

_FIGURES = {f"{name}.{ending}" for name in CAPTIONS for ending in ("png", "svg")}
_TABLES = {"report.md", "runs.csv", "comparisons.csv"}


def _report(study, records, folder):
    return write_report(study, records, folder).read_text()


def _rows(text, heading):
    """The cells of the Markdown table whose first line begins with these cells, by what its first column says."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| " + " | ".join(heading)))
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    table = list(itertools.takewhile(lambda cells: len(cells) > 1, table))
    return {row[0]: dict(zip(table[0][1:], row[1:], strict=True)) for row in table[2:]}


def _csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_tables_have_the_numbers_worked_by_hand(tmp_path):
    """Differences 1, 2, 3; see the statistics' tests. One comparison, so that Holm changes nothing."""
    paper = {"net": {"plain": {"top1": 55.36}, "coc": {"top1": 57.27}}}
    text = _report(made_study(paper=paper), made_records(), tmp_path)
    rows = _rows(text, ["variant", "n"])
    assert list(rows) == ["plain", "coc"]
    assert rows["coc"] == {
        "n": "3",
        "top1, mean ± sd": "73.00 ± 2.00",
        "95 % CI": "68.03 to 77.97",
        "second": "36.50 ± 1.00",
        "CPU time, × plain": "1.00 ± 0.00",
        "paper": "57.27",
    }
    against = _rows(text, ["variant", "common seeds", "− plain"])
    assert list(against) == ["coc"]
    assert against["coc"] == {
        "common seeds": "3",
        "− plain": "+2.00",
        "95 % CI": "−0.48 to +4.48",
        "p": "0.074",
        "p (Holm)": "0.074",
        "could have seen": "3.26",
        "g_z": "+1.13",
        "paper": "+1.91",
    }
    assert "Against **plain** – no difference found: coc." in text
    assert "different scale" in text
    (row,) = _csv(tmp_path / "comparisons.csv")
    assert (row["variant"], row["baseline"], row["pairs"], row["difference"]) == ("coc", "plain", "3", "2")
    assert (row["p"], row["p_holm"], row["family"], row["d_z"]) == ("0.0741799", "0.0741799", "1", "2")
    assert (row["ci95_low"], row["g_z"], row["paper_difference"]) == ("-0.484138", "1.12838", "1.91")


def test_a_network_says_how_it_was_trained_and_what_a_constant_answer_scores(tmp_path):
    paper = {"theirs": {"plain": {"top1": 55.36}, "coc": {"top1": 57.27}}}
    networks = {"net": {"recipe": "none", "floor": 10, "paper": "theirs"}}
    study = made_study(networks=networks, paper=paper, source="made up.")
    text = _report(study, made_records(), tmp_path)
    assert "chose the epoch too. That flatters, most of all scores that change much from epoch to epoch. " in text
    assert " Trained with lr=0.1. The same answer everywhere scores 10.00.\n" in text
    assert "not scores. They are made up.\n" in text
    untold = _report(made_study(networks=networks, paper=paper), made_records(), tmp_path)
    assert "not scores.\n" in untold
    (row,) = _csv(tmp_path / "comparisons.csv")
    assert row["p_unpaired"] == "0.220881"
    differently = [*made_records(plain=PLAIN_SCORES), made_record("coc", 0, 71.0, lr=0.2)]
    assert "Trained with" not in _report(study, differently, tmp_path)


def test_means_that_no_common_seed_leads_to_are_left_out(tmp_path):
    """In one model of all runs: plain and a on some seeds, coc on another, which may be a better seed."""
    study = made_study(variants=("plain", "a", "coc"), pooled=True, curves={"side": {"1": "a", "2": "coc"}})
    scores = {"plain": PLAIN_SCORES[:2], "a": [70.5, 71.3]}
    text = _report(study, [*made_records(**scores), made_record("coc", 2, 75.0)], tmp_path)
    means = {name: row["adjusted mean (95 % CI)"] for name, row in _rows(text, ["variant", "n"]).items()}
    assert means == dict.fromkeys(("plain", "a", "coc"), "–")
    joined = _report(study, [*made_records(**scores), made_record("a", 2, 72.0), made_record("coc", 2, 75.0)], tmp_path)
    assert "–" not in [row["adjusted mean (95 % CI)"] for row in _rows(joined, ["variant", "n"]).values()]


def test_runs_that_do_not_say_what_computed_them_are_counted(tmp_path):
    records = made_records()
    assert "- computed on cpu: 6 runs" in _report(made_study(), records, tmp_path)
    del records[0]["device"]
    text = _report(made_study(), records, tmp_path)
    assert "- computed on cpu: 5 runs\n- by older code, that did not record what it computed on: 1 run" in text
    assert "by older code" not in _report(made_study(), [*records[1:], made_failure("plain", 0)], tmp_path), (
        "failed runs have none"
    )


def test_secondary_metrics_and_times_are_beside_the_main_one(tmp_path):
    records = [
        made_record(name, seed, score, seconds=seconds * (1 + seed), cpu_seconds=cpu)
        for name, scores, seconds, cpu in (("plain", PLAIN_SCORES, 100, 90), ("coc", COC_SCORES, 150, 99))
        for seed, score in enumerate(scores)
    ]
    coc = _rows(_report(made_study(), records, tmp_path), ["variant", "n"])["coc"]
    assert (coc["second"], coc["CPU time, × plain"]) == ("36.50 ± 1.00", "1.10 ± 0.00")


def test_every_run_is_a_row_with_every_number(tmp_path):
    records = [*made_records(plain=PLAIN_SCORES, coc=COC_SCORES[:1]), made_failure("coc", 1)]
    write_report(made_study(), records, tmp_path)
    rows = _csv(tmp_path / "runs.csv")
    assert [(row["variant"], row["seed"], row["status"]) for row in rows] == [
        *(("plain", str(seed), "done") for seed in range(3)),
        *(("coc", "0", "done"), ("coc", "1", "failed"), ("coc", "2", "missing")),
    ]
    assert (rows[3]["score"], rows[3]["test.folded.second"], rows[3]["parameters.as_trained"]) == ("71.0", "35.5", "12")
    assert rows[4]["reason"] == "the loss is nan"
    assert rows[5]["score"] == ""


@pytest.mark.usefixtures("rendered")
def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path):
    study, records = many_runs()
    records += [made_record("gone", seed, 50.0, "one") for seed in range(3)]
    records = [{**record, "code": "c0de" if record["seed"] else "01d"} for record in records]
    records += [{"kind": "accept", "code": code, "beside": "c0de", "reason": "a comment"} for code in "bad"]
    write_report(study, records, tmp_path / "once")
    records = json.loads(json.dumps(records, sort_keys=True))
    random.Random(1).shuffle(records)
    write_report(study, records, tmp_path / "again")
    once = _bytes(tmp_path / "once")
    assert set(once) == _TABLES | _FIGURES
    # What matplotlib names by floating-point numbers may differ in the last bits from one process to the next.
    assert b'clip-path="url(#frame0)"' in once["learning.svg"]
    assert not re.search(rb"\bp[0-9a-f]{10}\b", once["learning.svg"])
    assert _bytes(tmp_path / "again") == once


def test_a_partial_study_says_what_is_missing_and_why(tmp_path):
    records = [
        *made_records(plain=PLAIN_SCORES, coc=COC_SCORES[:1]),
        made_failure("coc", 1, "the loss is nan at batch 3"),
    ]
    text = _report(made_study(), records, tmp_path)
    assert "4 of 6 runs done, 1 failed, 1 missing" in text
    assert "partial" in text
    assert "- net, coc, seed 1: the loss is nan at batch 3" in text
    assert _rows(text, ["variant", "n"])["coc"]["n"] == "1 (1 failed, 1 missing)"
    coc = _rows(text, ["variant", "common seeds"])["coc"]
    assert (coc["common seeds"], coc["− plain"], coc["p"], coc["could have seen"]) == ("1", "+1.00", "–", "–")
    assert "not tested: coc" in text


def test_a_complete_study_is_not_called_partial(tmp_path):
    text = _report(made_study(), made_records(), tmp_path)
    assert "6 of 6 runs done, 0 failed, 0 missing" in text
    assert "partial" not in text


def test_a_run_that_was_done_after_a_failure_counts(tmp_path):
    text = _report(made_study(), [made_failure("coc", 1), *made_records()], tmp_path)
    assert "6 of 6 runs done, 0 failed" in text


def test_nothing_done_is_a_report_too_and_drops_old_figures(tmp_path):
    write_report(made_study(), made_records(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == _TABLES | {f for f in _FIGURES if "curves" not in f}
    text = _report(made_study(), [], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == _TABLES
    assert "0 of 6 runs done" in text
    assert "No run is done yet" in text


def test_one_network_one_seed(tmp_path):
    text = _report(made_study(seeds={"plain": (0,), "coc": (0,)}), made_records(plain=[70.0], coc=[71.5]), tmp_path)
    assert _rows(text, ["variant", "n"])["coc"] == {
        "n": "1",
        "top1, mean ± sd": "71.50",
        "95 % CI": "–",
        "second": "35.75",
        "CPU time, × plain": "1.00",
    }
    assert _rows(text, ["variant", "common seeds"])["coc"]["− plain"] == "+1.50"


def test_failures_alone_are_a_report_too(tmp_path):
    """The variant's runs that did not even start have no recipe."""
    tuning = Tuning({"training.lr": [0.1]}, (100,), {})
    records = [*made_records(plain=PLAIN_SCORES), *(made_failure("coc", seed) for seed in range(3))]
    text = _report(made_study(tuning=tuning), records, tmp_path)
    assert _rows(text, ["variant", "n"])["coc"]["n"] == "0 (3 failed)"
    assert _rows(text, ["variant", "lr=0.1"])["coc"]["trained with"] == "not yet"
    assert "Against **plain** – not tested: coc." in text


def test_without_plain_there_is_no_cost_and_no_line(tmp_path):
    study = made_study(variants=("stnd", "coc"), against=("stnd",), curves={"one": {"1": "coc"}})
    text = _report(study, made_records(stnd=PLAIN_SCORES, coc=COC_SCORES), tmp_path)
    assert _rows(text, ["variant", "common seeds"])["coc"]["− stnd"] == "+2.00"
    assert {path.name for path in tmp_path.iterdir()} == _TABLES | {f for f in _FIGURES if "cost" not in f}


@pytest.mark.parametrize("on_gpu", [False, True])
def test_costs_are_by_the_clock_on_gpus_and_where_cpu_times_are_missing(on_gpu, tmp_path):
    records = [record | {"seconds": 100.0 + 50 * (record["variant"] == "coc")} for record in made_records()]
    last = records[-1]
    records[-1] = last | {"device": "cuda"} if on_gpu else {key: last[key] for key in last if key != "cpu_seconds"}
    (axes,) = draw("cost", analyse(made_study(), records)).axes
    assert axes.get_xlabel() == "training time, × plain"
    rows = _rows(_report(made_study(), records, tmp_path), ["variant", "n"])
    assert rows["coc"]["time, × plain"] == "1.50 ± 0.00"
    assert "CPU time, × plain" not in rows["coc"]


def test_a_variant_without_common_seeds_is_drawn_and_not_compared(tmp_path):
    records = [made_record("plain", 0, 70.0), made_record("coc", 1, 71.0)]
    assert "Against **plain** – not tested: coc." in _report(made_study(), records, tmp_path)


def test_networks_have_their_own_variants_metrics_and_families(tmp_path):
    study = made_study(
        variants=("plain", "coc", "stnd"),
        networks={"net": {"recipe": "none"}, "fcn": {"recipe": "none", "variants": ["plain", "coc"]}},
        against=("plain", "stnd"),
    )
    records = made_records(plain=PLAIN_SCORES, coc=COC_SCORES, stnd=[70.5, 71.0, 73.0])
    records += [
        made_record(name, seed, score / 2, "fcn", "mIoU")
        for name, scores in (("plain", PLAIN_SCORES), ("coc", COC_SCORES))
        for seed, score in enumerate(scores)
    ]
    write_report(study, records, tmp_path)
    found = [
        tuple(row[key] for key in ("network", "metric", "variant", "baseline", "family"))
        for row in _csv(tmp_path / "comparisons.csv")
    ]
    assert found == [
        ("net", "top1", "coc", "plain", "2"),
        ("net", "top1", "stnd", "plain", "2"),
        ("net", "top1", "plain", "stnd", "2"),
        ("net", "top1", "coc", "stnd", "2"),
        ("fcn", "mIoU", "coc", "plain", "1"),
    ]


def test_p_values_are_corrected_over_the_family(tmp_path):
    """Of two comparisons, the smaller p counts twice."""
    study = made_study(variants=("plain", "coc", "stnd"))
    write_report(study, made_records(plain=PLAIN_SCORES, coc=COC_SCORES, stnd=[70.9, 71.5, 72.3]), tmp_path)
    coc, stnd = _csv(tmp_path / "comparisons.csv")
    smaller, larger = sorted((coc, stnd), key=lambda row: float(row["p"]))
    assert float(smaller["p_holm"]) == pytest.approx(2 * float(smaller["p"]), rel=1e-5)
    assert float(larger["p_holm"]) == pytest.approx(max(float(larger["p"]), float(smaller["p_holm"])), rel=1e-5)


def test_tuning_is_shown_and_not_compared(tmp_path):
    tuning = Tuning({"training.lr": [0.1, 0.3]}, (100, 101), {"training.epochs": 1})
    records = [made_record(name, seed, 70.0 + seed, lr=0.3) for name in ("plain", "coc") for seed in range(3)]
    records += [
        made_record(name, seed, 60 + 10 * lr + seed - 100, stage="tuning", tuned={"training.lr": lr}, lr=lr)
        for name, lr, seed in itertools.product(("plain", "coc"), (0.1, 0.3), (100, 101))
    ]
    records[-1] = made_failure("coc", 101, stage="tuning", tuned={"training.lr": 0.3})
    text = _report(made_study(tuning=tuning), records, tmp_path)
    rows = _rows(text, ["variant", "lr=0.1", "lr=0.3"])
    assert rows["plain"] == {"lr=0.1": "60.50 ± 0.71", "lr=0.3": "62.50 ± 0.71", "trained with": "lr=0.3"}
    assert rows["coc"]["lr=0.3"] == "62.00"
    assert "- net, coc, seed 101, trying lr=0.3: the loss is nan" in text
    assert "13 of 14 runs done, 1 failed, 0 missing" in text
    edge = "At the edge of what was tried, so that better settings may lie beyond it: "
    assert f"{edge}lr=0.3 (plain, coc)." in text
    wider = Tuning({"training.lr": [0.1, 0.3, 0.9]}, (100, 101), {"training.epochs": 1})
    assert edge not in _report(made_study(tuning=wider), records, tmp_path)
    better = "Better by this table than what these were trained with: "
    assert better not in text
    luck = "Settings were chosen by one run each"
    assert luck not in text
    one_seed = dataclasses.replace(tuning, seeds=(100,))
    alone = _report(made_study(tuning=one_seed), records, tmp_path)
    assert luck in alone
    assert "every setting (mean ± sd over seeds 100, 101; with epochs=1), and what" in text
    assert "every setting (one run each, of seed 100; with epochs=1), and what" in alone
    for name, lr, score in (("plain", 0.9, 99), ("coc", 0.9, 50)):  # added later
        settings = {"stage": "tuning", "tuned": {"training.lr": lr}, "lr": lr}
        records += [made_record(name, seed, score, **settings) for seed in (100, 101)]
    records.append(made_record("coc", 100, 99, stage="tuning", tuned={"training.lr": 0.1}, lr=0.1))
    assert f"{better}lr=0.9 (plain)." in _report(made_study(tuning=wider), records, tmp_path)
    assert _rows(text, ["variant", "n"])["coc"]["n"] == "3"


def test_before_tuning_is_done_nothing_is_chosen(tmp_path):
    study = made_study(tuning=Tuning({"training.lr": [0.1, 0.3]}, (100,), {}))
    text = _report(study, [made_record("coc", 100, 60.0, stage="tuning", tuned={"training.lr": 0.1})], tmp_path)
    assert _rows(text, ["variant", "lr=0.1"])["coc"] == {"lr=0.1": "59.00", "lr=0.3": "–", "trained with": "not yet"}


def test_where_the_numbers_come_from(tmp_path):
    records = [*made_records(), made_record("gone", 0, 50.0)]
    records += [{"kind": "accept", "code": "01d", "beside": "c0de", "reason": "only a comment"}] * 2
    records[0] = {**records[0], "code": "01d"}
    text = _report(made_study(), records, tmp_path)
    assert "coc study run example --budget small\ncoc study report example --budget small" in text
    own = _report(made_study(file="my studies/example.yaml"), records, tmp_path)
    assert "coc study run 'my studies/example.yaml' --budget small\n" in own
    assert "- code `01d`: 1 run\n- code `c0de`: 5 runs\n" in text
    assert "- convofconv 0.1, torch 2.9: 6 runs" in text
    assert "- computed on cpu: 6 runs" in text
    assert text.count("results of code `01d` stand beside those of `c0de`: only a comment") == 1
    assert "not used: `net/gone/seed0`" in text
    assert "10 min 0 s of training in 6 runs" in text


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("test", "Scored on the split `test`; the epoch was chosen on `val`."),
        ("", "Scored on the split `val`, which chose the epoch too."),
    ],
)
def test_the_report_says_what_was_scored_on(tmp_path, split, said):
    assert said in _report(
        made_study(), [made_record("plain", seed, 70.0 + seed, test_split=split) for seed in (0, 1)], tmp_path
    )


def test_a_metric_that_only_some_records_have_is_no_obstacle(tmp_path):
    records = made_records()
    records[0]["test"]["folded"]["third"] = 1.0
    assert "third" in _report(made_study(), records, tmp_path)


def test_different_metrics_of_one_network_are_refused():
    records = [made_record("plain", 0, 70.0), made_record("coc", 0, 40.0, metric="mIoU")]
    with pytest.raises(ConfigError, match="runs of net have different metrics, top1 and mIoU"):
        analyse(made_study(), records)


def test_what_is_found_is_bold_and_many_names_are_counted(tmp_path):
    same = {f"v{number}": [70.1 + number, 70.9 - number, 72.1] for number in range(10)}
    study = made_study(variants=("plain", "up", *same))
    text = _report(study, made_records(plain=PLAIN_SCORES, up=[75.0, 76.001, 77.0], **same), tmp_path)
    assert _rows(text, ["variant", "common seeds"])["up"]["p (Holm)"] == "**< 0.001**"
    assert "Against **plain** – better: up; no difference found: 10 variants." in text


def test_a_pooled_study_has_adjusted_means_and_spreads(tmp_path):
    study = made_study(variants=tuple(POOLED_SCORES), pooled=True)
    text = _report(study, made_records(**POOLED_SCORES), tmp_path)
    coc = _rows(text, ["variant", "n"])["coc"]
    assert coc["adjusted mean (95 % CI)"] == "87.67 (85.70 to 89.63)"  # ± 2.776 · √(1.5 / 3)
    assert coc["spread"] == "1.22"
    assert "95 % CI" not in coc
    assert _rows(text, ["variant", "common seeds"])["stnd"]["95 % CI"] == "+2.22 to +7.78"  # 5 ± 2.776 · 1
    assert "Runs scatter by 1.22 points around variant + seed (4 degrees of freedom)." in text
    assert "p = 1.0 if all scatter alike." in text
    assert "score = variant + seed + noise" in text
    assert "Means are adjusted" in text
    assert "paired t-test" not in text
    assert {row["degrees_of_freedom"] for row in _csv(tmp_path / "comparisons.csv")} == {"4"}
    own = _report(made_study(variants=tuple(POOLED_SCORES)), made_records(**POOLED_SCORES), tmp_path)
    assert "paired t-test" in own
    assert "scatter by" not in own
    assert "adjusted" not in own


def test_a_pooled_study_judges_by_all_of_its_runs():
    """In its report, and in the page of claims and the figures, which ask a network for its comparisons."""
    own, pooled = (
        analyse(made_study(variants=tuple(POOLED_SCORES), pooled=pooled), made_records(**POOLED_SCORES)).networks[0]
        for pooled in (False, True)
    )
    assert pooled.contrasts["stnd", "plain"].comparison == pooled.comparisons("plain")["stnd"] == pooled.gain("stnd")
    assert (own.gain("stnd").freedom, pooled.gain("stnd").freedom) == (2, 4)
    assert pooled.gain("stnd").difference == pytest.approx(own.gain("stnd").difference)
    assert own.mean("coc") == own.cells["coc"].summary()


def test_the_order_of_the_papers_variants_is_compared(tmp_path):
    names = [PLAIN, *map(str, range(10))]
    paper = {"net": {name: {"top1": 50.0 + place} for place, name in enumerate(names[:10])}}
    scores = {name: [70.0 + place, 72.0 + place] for place, name in enumerate([names[1], names[0], *names[2:9]])}
    study = made_study(variants=names, seeds=dict.fromkeys(names, (0, 1)), paper=paper)
    # The tenth has no run yet, the eleventh is not in the paper.
    assert "Order:" not in _report(study, made_records(**scores, **{"9": [1.0, 2.0]}), tmp_path)
    text = _report(study, made_records(**scores, **{"8": [60.0, 61.0], "9": [1.0, 2.0]}), tmp_path)
    # Places 1, 2, …, 10 of theirs are 3, 2, 4, …, 10, 1 of ours: ρ = 1 − 6 · (4 + 0 + 7 · 1 + 81) / 990
    assert "Order: Spearman's rank correlation of our means with the paper's is +0.44 (10 variants, p = 0.20)." in text


def test_a_family_in_a_line():
    variants = ("plain", "up", "down", "same", "none")
    high, low = [80.0, 81.1, 82.0], [60.0, 61.1, 62.0]
    records = made_records(plain=PLAIN_SCORES, up=high, down=low, same=[70.2, 70.9, 72.0])
    (network,) = analyse(made_study(variants=variants), records).networks
    expected = "Against **plain** – better: up; worse: down; no difference found: same; not tested: none."
    assert summary_of(network, "plain") == expected
