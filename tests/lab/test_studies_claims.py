"""The page of claims: verdicts follow from evidence, and nothing is claimed without any."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("scipy", reason="needs the extra [lab]")

from figure_texts import check_texts

from convofconv.errors import ConfigError
from convofconv.lab.inspect.measures import MEASURES
from convofconv.lab.studies.additive_model import AdditiveModel
from convofconv.lab.studies.analysis import CHANCE, Contrast, analyse
from convofconv.lab.studies.claims import FILE, VERDICTS, Evidence, Finding, answer, verdict, write_claims
from convofconv.lab.studies.forest_plot import draw_forest_plot
from convofconv.lab.studies.formatting import points
from convofconv.lab.studies.records import Records, runs
from convofconv.lab.studies.report import write_report
from convofconv.lab.studies.statistics import Comparison, holm
from convofconv.lab.studies.study import read_study

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("drawn_only")]
REPOSITORY = Path(__file__).parents[2]
_NETWORKS = tuple(read_study("classification", "small").networks)


def _finding(difference: float, p: float | None, reach: float | None = None, paper: float | None = None) -> Finding:
    error = None if reach is None else reach / 3.495406  # t of four degrees at 98.75 %, for two comparisons
    comparison = Comparison(5, difference, error=error, freedom=4)
    return Finding("study, network", Contrast("coc", "plain", comparison, p, 2, paper))


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([], "not testable here"),
        ([(1.0, None), (2.0, None)], "not testable here"),
        ([(1.0, 0.01), (2.0, 0.04)], "reproduced"),
        ([(1.0, 0.01), (2.0, 0.06)], "direction only"),
        ([(1.0, 0.01), (2.0, None)], "not testable here"),
        ([(-1.0, 0.01), (2.0, None)], "not testable here"),
        ([(1.0, 0.01), (-0.1, 0.9)], "direction only"),
        ([(1.0, 0.9), (-0.1, 0.9)], "not testable here"),
        ([(1.0, 0.01), (-1.0, 0.01)], "not reproduced"),
        ([(1.0, 0.9), (-1.0, 0.01)], "not reproduced"),
        ([(-1.0, 0.01)], "not reproduced"),
        ([(-1.0, 0.2)], "not testable here"),
        ([(0.5, 0.5, 1.0, 2.0)], "not reproduced"),
        ([(0.5, 0.5, 3.0, 2.0)], "not testable here"),
        ([(0.5, 0.5, 3.0, 2.0), (0.5, 0.5, 1.0, 2.0)], "not reproduced"),
        ([(0.5, 0.5, 3.0, 2.0), (5.0, 0.01, 3.0, 2.0)], "direction only"),
        ([(0.5, 0.5, 3.0, 2.0), (-5.0, 0.01, 3.0, 2.0)], "not reproduced"),
        ([(0.5, 0.5, 1.0, 2.0), (5.0, 0.01, 3.0, 2.0)], "direction only"),
        ([(1.0, 0.01, 0.5, 2.0)], "direction only"),
        ([(3.0, 0.01, 0.5, 2.0)], "reproduced"),
        ([(1.0, 0.01, 0.5, 2.0), (3.0, 0.01, 0.5, 2.0)], "direction only"),
        ([(-0.1, 0.9, 0.2, 0.14)], "not reproduced"),
        ([(-0.1, 0.9, 0.3, 0.14)], "not testable here"),
    ],
)
def test_a_verdict_follows_from_signs_p_values_and_what_corrected_intervals_exclude(findings, expected):
    assert verdict([_finding(*finding) for finding in findings]) == expected
    assert expected in VERDICTS


def _record(network: str, variant: str, seed: int, score: float) -> dict[str, Any]:
    return {
        "kind": "run",
        "run": f"{network}/{variant}/seed{seed}",
        "network": network,
        "variant": variant,
        "seed": seed,
        "stage": "final",
        "tuned": {},
        "recipe": {},
        "code": "abc",
        "status": "done",
        "metric": "top1",
        "test": {"folded": {"top1": score}, "as_trained": {"top1": score}},
        "validation": {"top1": score},
        "history": [],
        "versions": {"convofconv": "0"},
        "seconds": 1.0,
        "cpu_seconds": 1.0,
    }


def _write_records(results: Path, gain: float, variant: str = "coc", networks: Sequence[str] = _NETWORKS) -> None:
    folder = results / "classification-small"
    folder.mkdir(parents=True)
    records = Records(folder / "records.jsonl")
    for seed, noise in enumerate((0.0, 0.3, -0.2, 0.1, -0.1)):
        for network in networks:
            records.append(_record(network, "plain", seed, 50 + 3 * noise))
            records.append(_record(network, variant, seed, 50 + gain + 4 * noise))


def _verdict_of(page: str, claim: str) -> str:
    section = page.partition(f"## {claim}\n")[2].partition("\n## ")[0]
    return re.search(r"\*\*Verdict: (.*?)\.\*\*", section)[1]


@pytest.mark.parametrize(
    ("gain", "of_the_claim", "of_the_row"),
    [
        (2.0, "reproduced", "reproduced"),
        (-2.0, "not reproduced", "not reproduced"),
        (0.02, "not testable here", "not reproduced"),  # excludes 1.50 points, but not 0.2
    ],
)
def test_the_page_judges_by_the_records(tmp_path, gain, of_the_claim, of_the_row):
    _write_records(tmp_path / "results", gain)
    write_claims(tmp_path / "results", tmp_path / "claims.md")
    page = (tmp_path / "claims.md").read_text()
    assert _verdict_of(page, "C7") == of_the_claim
    assert "results/classification-small/report.md" in page
    assert _verdict_of(page, "C8-pretrained") == "not testable here"
    assert _verdict_of(page, "C2") == "proved"
    row = next(line for line in page.splitlines() if line.startswith("| resnet18 | coc |"))
    assert row.endswith(f"| {of_the_row} |")
    assert "top1 +1.50" in row  # 57.67 - 56.17
    before = page
    write_claims(tmp_path / "results", tmp_path / "claims.md")
    assert (tmp_path / "claims.md").read_text() == before


@pytest.mark.parametrize(
    ("gain", "expected"),
    [(-5.0, "reproduced"), (-2.0, "direction only"), (2.0, "not reproduced"), (0.02, "not reproduced")],
)
def test_where_the_paper_is_worse_than_plain_that_is_what_is_claimed(tmp_path, gain, expected):
    _write_records(tmp_path / "results", gain, variant="stnd")
    write_claims(tmp_path / "results", tmp_path / "claims.md")
    lines = (tmp_path / "claims.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| shufflenetv2 | stnd |"))
    assert "top1 −3.58" in row  # 48.16 - 51.74
    assert f"stnd − plain {points(gain + 0.02, sign=True)} " in row  # 0.02: the mean of the noise
    assert row.endswith(f"| {expected} |")


def test_comparisons_of_a_claim_are_corrected_together(tmp_path):
    _write_records(tmp_path / "results", 0.4)
    evidence = Evidence(tmp_path / "results")
    part = {"study": "classification", "budget": "small", "variant": "coc", "against": ["plain"]}
    (alone,) = evidence.findings([{**part, "networks": ["tiny-resnet18"]}])
    assert alone.contrast.family == 1
    others = {**part, "networks": ["tiny-shufflenetv2", "cifar10-resnet18"]}
    for parts in ([part], [{**part, "networks": ["tiny-resnet18"]}, others]):
        together = evidence.findings(parts)
        assert [finding.contrast.family for finding in together] == [3] * 3
        assert together[0].contrast.p_holm == pytest.approx(3 * alone.contrast.p_holm)
        assert together[0].contrast.detectable > alone.contrast.detectable


def test_a_claim_waits_for_all_of_its_comparisons(tmp_path):
    _write_records(tmp_path / "results", 2.0, networks=("tiny-resnet18",))
    write_claims(tmp_path / "results", tmp_path / "claims.md")
    page = (tmp_path / "claims.md").read_text()
    assert _verdict_of(page, "C7") == "not testable here"
    assert "**Verdict: not testable here.** 1 of 3 comparisons measured." in page
    assert "[classification (small, 10 of 104 runs)](results/classification-small/report.md)" in page
    assert "| shufflenetv2 | coc | top1 +0.16 | – | not testable here (0 of 1 comparison measured) |" in page
    assert "classification, tiny-resnet18: coc − plain +2.02" in page


def test_where_our_baseline_is_lower_the_papers_difference_is_taken_in_proportion(tmp_path):
    """Our plain networks have 50.06, the paper's 56.17 and 51.74, a constant answer 2: 1.50 is 1.28 of ours."""
    _write_records(tmp_path / "results", 0.4)
    part = {"study": "classification", "budget": "small", "variant": "coc", "against": ["plain"]}
    by_row = Evidence(tmp_path / "results").findings([part])
    assert [finding.expected for finding in by_row[:2]] == pytest.approx([1.5 * 48.06 / 56.17, 0.16 * 48.06 / 51.74])
    # Theirs is lower, what ours have above a constant answer (2, 2 and 10), the same, or not said.
    for of, shares in (
        (25.0, [1] * 3),
        (40.06, [1] * 3),
        (50.06, [48.06 / 50.06] * 2 + [40.06 / 50.06]),
        (None, [1] * 3),
    ):
        given = Evidence(tmp_path / "results").findings([{**part, "points": 2.0, "of": of}])
        assert [finding.expected for finding in given] == pytest.approx([2 * share for share in shares])
    finding = dataclasses.replace(_finding(0.5, 0.5, 1.0, 2.0), scale=0.5)
    assert (finding.contradicts, dataclasses.replace(finding, scale=1.0).contradicts) == (False, True)


def test_few_seeds_do_not_contradict_a_claim_that_is_true():
    """Sixteen small true differences, as in C5: most are not seen, which is no evidence against any of them."""
    random = np.random.default_rng(0)
    gains = [0.14, 0.14, 0.26, 0.5, 0.6, 1.47, 1.86, 1.94] * 2
    said: Counter[str] = Counter()
    for _ in range(200):
        of_seeds = random.standard_normal(3)
        scores = {
            str(number): dict(enumerate(70 - gain + of_seeds + 0.7 * random.standard_normal(3)))
            for number, gain in enumerate([0.0, *gains])
        }
        found = AdditiveModel(scores).compare("0")
        compared = [dataclasses.replace(comparison, difference=-comparison.difference) for comparison in found.values()]
        corrected = holm([comparison.p_value for comparison in compared])
        findings = [
            Finding("here", Contrast("221", "other", comparison, p, len(gains), gain))
            for comparison, p, gain in zip(compared, corrected, gains, strict=True)
        ]
        said[verdict(findings)] += 1
    assert said["direction only"] + said["not testable here"] > 190, said
    assert said["direction only"] > 50


def test_a_finding_of_one_model_tells_its_degrees_of_freedom():
    finding = _finding(1.0, 0.01, 0.5)
    assert "5 seeds, could" in str(finding)
    pooled = dataclasses.replace(finding.contrast.comparison, freedom=46)
    contrast = dataclasses.replace(finding.contrast, comparison=pooled)
    assert "5 seeds (46 degrees of freedom), could" in str(dataclasses.replace(finding, contrast=contrast))


def test_every_verdict_that_is_written_down_has_evidence_that_is_there():
    claims = yaml.safe_load(FILE.read_text(encoding="utf-8"))["claims"]
    assert {name.partition("-")[0] for name in claims} == {f"C{number}" for number in range(1, 12)}
    for name, claim in claims.items():
        for item in claim.get("evidence", ()):
            path, _, test = item.partition("::")
            assert (REPOSITORY / path).is_file(), f"{name}: {path}"
            assert not test or f"def {test}(" in (REPOSITORY / path).read_text(), f"{name}: {test}"
        for part in claim.get("compare", ()):
            study = read_study(part["study"], part["budget"])
            assert {part["variant"], *part["against"]} - {CHANCE} <= set(study.variants), name
            assert part.get("measure", "similarity") in MEASURES, name
            assert set(part.get("networks", ())) <= set(study.networks), name


def test_the_cost_that_is_told_is_what_the_benchmarks_measured():
    rows = [json.loads(line) for line in (REPOSITORY / "benchmarks/results/train_step.jsonl").read_text().splitlines()]
    why = " ".join(yaml.safe_load(FILE.read_text(encoding="utf-8"))["claims"]["C1-cost"]["why"].split())
    on_cpu = ["threads" in row["machine"] for row in rows]
    for here, words in (
        (True, "takes {} to {} times as long, longest"),
        (False, "a training step takes {} to {} times"),
    ):
        ratios = [
            row["times"]["ours"]["ratio"]
            for row, cpu in zip(rows, on_cpu, strict=True)
            if row["settings"]["compiled"] == "eager" and cpu == here
        ]
        assert words.format(f"{min(ratios):.2f}", f"{max(ratios):.2f}") in why
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    words = "a step of ResNet-50 takes {} times the plain one's and one of FCN-r50 in bfloat16 {} times"
    told = []
    for network in ("ResNet-50", "FCN-r50-d8"):
        on_gpu = [
            row for row, cpu in zip(rows, on_cpu, strict=True) if not cpu and row["settings"]["network"] == network
        ]
        told.append(" to ".join(sorted({f"{row['times']['ours']['ratio']:.2f}" for row in on_gpu})))
    assert words.format(*told) in readme
    released = [row["times"][name]["ratio"] for row in rows for name in row["times"] if name == "ours, released"]
    assert f"{min(released):.2f} to {max(released):.2f} times with the three norms" in why
    compiled = [row["times"]["ours"]["ratio"] for row in rows if row["settings"]["compiled"] != "eager"]
    assert f"compiled, as far as measured, up to {max(compiled):.2f} times" in why


@pytest.mark.parametrize(
    "claim", [{"how": "x"}, {"how": "x", "verdict": "sure", "evidence": ["a"]}, {"how": "x", "verdict": "proved"}]
)
def test_a_claim_without_evidence_is_refused(tmp_path, claim):
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump({"claims": {"C1": {"statement": "s", **claim}}, "tables": {}}))
    with pytest.raises(ConfigError, match="C1"):
        write_claims(tmp_path, tmp_path / "claims.md", file)


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no study has records there"):
        write_claims(tmp_path, tmp_path / "claims.md")
    assert not (tmp_path / "claims.md").exists()


def test_the_published_page_is_what_the_published_records_say(tmp_path, monkeypatch):
    """Every verdict in docs/claims.md has records or tests behind it, and no figure is typed by hand."""
    shutil.copytree(REPOSITORY / "docs/results", tmp_path / "docs/results", ignore=shutil.ignore_patterns("overview.*"))
    monkeypatch.chdir(tmp_path)
    write_claims(Path("docs/results"), Path("docs/claims.md"))
    assert Path("docs/claims.md").read_text() == (REPOSITORY / "docs/claims.md").read_text()
    for figure in ("overview.png", "overview.svg"):
        assert Path("docs/results", figure).is_file()
        assert (REPOSITORY / "docs/results" / figure).is_file()


def test_the_page_of_results_says_what_the_published_reports_found():
    page = (REPOSITORY / "docs/results/README.md").read_text()
    row = r"^\| (?!study,)([\w-]+), ([\w -]+) \| [^|]+ \| (\d+) \| ([\d.]+) \| ([\d.]*) ?\|([^|]*)\|([^|]*)\|$"
    rows = re.findall(row, page, re.M)
    assert len(rows) > 6
    for study, network, epochs, plain, constant, *told in rows:
        report = (REPOSITORY / f"docs/results/{study}-small/report.md").read_text()
        section = report.partition(f"\n## {network}\n")[2].partition("\n## ")[0]
        assert f" epochs={epochs}," in section, (study, network)
        floors = re.findall(r"The same answer everywhere scores ([\d.]+)\.\n", section)
        assert floors == ([constant] if constant else []), (study, network)
        assert re.search(rf"^\| plain \| [^|]+ \| {re.escape(plain)} ± ", section, re.M), (study, network)
        summary, _, table = section.partition("\nAgainst **plain** – ")[2].partition("\n")
        differences = dict(re.findall(r"^\| ([^|]+) \| \d+ \| ([+−][\d.]+) \|", table.partition("\nAgainst")[0], re.M))
        found = dict(re.findall(r"(better|worse): ([^;.]+)", summary))
        for direction, cell in zip(("better", "worse"), told, strict=True):
            names = [name for name in found.get(direction, "").split(", ") if name]
            if left_out := re.fullmatch(r" all but ([\w, ]+): (\S+) to (\S+) ", cell):
                assert set(names) == differences.keys() - set(left_out[1].split(", ")), (study, network)
                sizes = sorted((differences[name] for name in names), key=lambda d: float(d.replace("−", "-")))
                assert [sizes[0], sizes[-1]] == [left_out[2], left_out[3]], (study, network)
                continue
            assert ", ".join(f"{name} {differences[name]}" for name in names) == cell.strip(), (study, network)

    def said_of(study: str) -> str:
        return (REPOSITORY / f"docs/results/{study}-small/report.md").read_text()

    reports = [path.read_text() for path in (REPOSITORY / "docs/results").glob("*-small/report.md")]
    tested = sum(len(re.findall(r"\nAgainst \*\*plain\*\* – (?!not tested)", text)) for text in reports)
    assert len(rows) == tested, "a network is not on the page"
    overview = (REPOSITORY / "docs/claims.md").read_text()
    number = r"([+−][\d.]+)"
    means = re.findall(rf"{number}(?:\s+points)?\s+\((?:95 % CI )?{number} to {number}\)", page)
    assert len(means) == 3
    readme = (REPOSITORY / "README.md").read_text()
    assert re.findall(rf"\| {number} \| {number} to {number} \|", readme) == means
    told = re.findall(number, readme.partition("\n## Does it help?")[2].partition("\n## ")[0])
    assert set(told) <= set(re.findall(number, page)), "a figure of README that is not on the page"
    for mean, low, high in means:
        assert f"| {mean} | {low} to {high} |" in overview, "a mean over networks"
    said = " ".join(page.split())
    (median,) = re.findall(r"with a median of ([+−]\d+\.\d+)", said)
    assert re.search(rf"^\| over standardization alone \| .* \| {re.escape(median)} \| \d of \d \|$", overview, re.M)
    verdict_of = dict(re.findall(r"^## (\S+)\n(?:(?!## ).*\n)*?\*\*Verdict: ([^.*]+)", overview, re.M))
    measured = re.findall(r"^## (C[5-8]\S*)\n(?:(?!## ).*\n)*?- [a-z-]+, ", overview, re.M)
    assert len(measured) > 9
    partly = {name for name in measured if verdict_of[name] == "direction only"}
    assert f"four are found in part ({', '.join(sorted(partly))}) and none in full" in said
    tuned = (REPOSITORY / "docs/results/what-helps-tuned/report.md").read_text()
    own, usual = (re.search(r"\n\| plain \| \d \| ([\d.]+) ±", text)[1] for text in (tuned, said_of("what-helps")))
    assert f"the plain network scores {own} % instead of {usual}. Orthogonalization" in said
    assert f"the plain network scores {own} % on CamVid instead of {usual}," in " ".join(readme.split())
    against_plain, against_stnd = tuned.split("\nAgainst **")[1:]
    assert against_plain.startswith("plain** – better: orth; no difference found: 10 variants.\n")
    assert against_stnd.startswith("stnd** – worse: doconv; no difference found: 10 variants.\n")
    for variant, section, words in (
        ("orth", against_plain, "is found better than that by {} (corrected p {}, three seeds), and nothing else is"),
        ("coc", against_plain, "`coc` differs by {}, and"),
        ("coc+stnd", against_stnd, "`coc+stnd` from `stnd` by {};"),
        ("doconv", against_stnd, "DO-Conv is found worse than `stnd`, by {}."),
    ):
        cells = re.search(rf"^\| {re.escape(variant)} \|(.*)\|$", section, re.M)[1].split("|")
        assert words.format(cells[1].strip(), cells[4].strip(" *")) in said, variant
    assert len(re.findall(r" lr=0.3, batch=4 \|$", tuned, re.M)) == 9
    study, folder = read_study("what-helps", "tuned"), REPOSITORY / "docs/results/what-helps-tuned"
    (first,) = analyse(study, Records(folder / "by-six-epochs.jsonl").read()).networks
    assert not any(contrast.found for contrast in first.contrasts.values())
    assert f"`orth` neither ({points(first.contrasts['orth', 'plain'].comparison.difference, sign=True)})" in said
    chosen = runs(Records(folder / "chosen-by-six-epochs.jsonl").read())["camvid/coc+orth/seed0"]
    here = runs(Records(folder / "records.jsonl").read())["camvid/coc+orth/seed0"]
    told = "coc+orth scored more ({:.2f} on the validation split, where this seed has {:.2f} here)"
    assert told.format(*(record["validation"]["mIoU"] for record in (chosen, here))) in study.note
    orders = re.findall(r"paper's is (\S+) \(21 variants", "".join(reports))
    assert "Spearman's correlation is {} with ResNet-18 and {} with ShuffleNetV2".format(*orders) in said
    assert {verdict_of[name] for name in measured if name not in partly} == {"not reproduced", "not testable here"}
    line = r"^- ([\w-]+, [\w -]+): \w+ from kaiming − plain ([+−])[^p]+, p ([\d.]+)"
    found = {(network, sign) for network, sign, p in re.findall(line, overview, re.M) if float(p) < 0.05}
    assert "segmentation from scratch (CamVid, VOC) and on CIFAR-10, and worse on Tiny-ImageNet (ResNet-18, and" in said
    better = {"what-helps, camvid", "segmentation, voc from scratch", "classification, cifar10-resnet18"}
    worse = {"classification, tiny-resnet18", "classification, tiny-shufflenetv2"}
    assert found == {(name, "+") for name in better} | {(name, "−") for name in worse}
    sections = re.split(r"\n(?=## )", "\n".join(reports))
    against_stnd = {section.splitlines()[0]: section.partition("\nAgainst **stnd** – ")[2] for section in sections}
    differs = {name for name, told in against_stnd.items() if re.match(r".*(better|worse): [^;.\n]*from kaiming", told)}
    assert differs == {"## nuclei maskrcnn"}
    (gain,) = re.findall(r"found to differ from standardization alone with Mask R-CNN only \((\S+)\)", said)
    assert f"| released from kaiming | 3 | {gain} |" in against_stnd["## nuclei maskrcnn"]


@pytest.mark.usefixtures("rendered")
def test_the_overview_says_what_each_method_adds_over_networks(tmp_path):
    folder = tmp_path / "results" / "classification-small"
    folder.mkdir(parents=True)
    records = Records(folder / "records.jsonl")
    for network, gain in zip(_NETWORKS, (1.0, 2.0, -1.5), strict=True):
        for seed in range(3):
            records.append(_record(network, "plain", seed, 50 + seed))
            records.append(_record(network, "coc", seed, 50 + seed + gain + 0.1 * seed))
    records.append(_record(_NETWORKS[1], "stnd", 0, 51))
    write_claims(tmp_path / "results", tmp_path / "claims.md")
    section = (tmp_path / "claims.md").read_text().partition("## At a glance\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[1:] for line in section.splitlines() if " − plain | " in line]
    # gains of 1.1, 2.1 and -1.4: mean 0.6, deviation 1.803, and t with 2 degrees of freedom is 4.303 at 97.5 %; the
    # seeds' spread of 0.1 is far below that
    assert rows == [
        ["coc − plain", "3", "+0.60", "−3.88 to +5.08", "+1.10", "2 of 3 |"],
    ]
    assert "stnd" not in section, "measured once"
    assert "](results/overview.png)" in section
    assert (tmp_path / "results" / "overview.svg").read_text().count("<path") > 10


def test_the_published_overview_can_be_read():
    overview = yaml.safe_load(FILE.read_text(encoding="utf-8"))["overview"]
    figure = draw_forest_plot(answer(overview, Evidence(REPOSITORY / "docs/results")))
    assert check_texts(figure) > 20


def test_runs_that_were_repeated_came_out_the_same():
    """As docs/results/README.md says: to the last digit, with other versions of torch."""
    folder = REPOSITORY / "docs/results/classification-small"
    once, again = (runs(Records(folder / name).read()) for name in ("records.jsonl", "repeated.jsonl"))
    assert len(again) == 31
    assert all(
        record[key] == once[name][key] for name, record in again.items() for key in ("test", "validation", "history")
    )
    versions = {(once[name]["versions"]["torch"][:6], again[name]["versions"]["torch"][:6]) for name in again}
    assert versions == {("2.15.0", "2.14.1")}


def test_of_several_answers_on_a_network_the_overview_takes_the_first(tmp_path):
    (tmp_path / "what-helps-small").mkdir()
    records = Records(tmp_path / "what-helps-small" / "records.jsonl")
    for variant, gain in (("plain", 0.0), ("released", 2.0), ("lightweight", -5.0)):
        for seed in range(3):
            records.append(_record("camvid", variant, seed, 50 + gain + seed))
    write_claims(tmp_path, tmp_path / "claims.md")
    row = "| released configuration | released − plain | 1 | +2.00 | – | +2.00 | 1 of 1 |"
    assert row in (tmp_path / "claims.md").read_text()


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "docs/results").glob("*/records.jsonl")), ids=lambda p: p.parent.name
)
def test_published_reports_are_what_their_records_say(path, tmp_path):
    """Tables and text; figures have the same numbers, but their bytes are those of one version of matplotlib."""
    name, _, budget = path.parent.name.rpartition("-")
    write_report(read_study(name, budget), Records(path).read(), tmp_path)
    for file in ("report.md", "runs.csv", "comparisons.csv"):
        assert (tmp_path / file).read_bytes() == (path.parent / file).read_bytes(), file
    assert {figure.name for figure in tmp_path.glob("*.png")} == {figure.name for figure in path.parent.glob("*.png")}
