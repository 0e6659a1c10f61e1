"""The paper's claims with a verdict on each: proofs by their tests, measurements by the records of studies."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import ConfigError
from ..files.atomic import write_atomic
from .analysis import CHANCE, PLAIN, Analysis, Contrast, Network, analyse, difference_in
from .execution import records_of
from .figures import encode
from .forest_plot import FEWEST, draw_forest_plot, tabulate
from .formatting import between, count, points, probability
from .statistics import ALPHA, corrected_interval, holm
from .study import Study, read_study

FILE = Path(__file__).with_name("claims.yaml")
VERDICTS = ("proved", "reproduced", "direction only", "not reproduced", "refuted", "not testable here")


#: Comparisons of a claim: ``study``, ``budget``, ``variant`` (claimed to be better), ``against`` (than these), and if
#: given ``networks`` (of the study, on these alone), ``points`` (by so many, where the study lacks the paper's figures;
#: negative where the claim is that the variant is worse) and ``of`` (the score that the paper's plain network has).
#: With ``measure`` they are of what was found inside of the networks, also against ``chance``; ``claimed: less`` where
#: the claim is that there is less of it.
Part = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """A comparison behind a verdict.

    Args:
        where: study and network.
        contrast: the numbers; ``paper`` is the difference that the claim is about.
        claimed: 1 where the variant is claimed to be better, -1 where worse.
        scale: what our plain network has above a constant answer over the score of the paper's, at most 1: 10 points
            more than 24 cannot be expected of a network that has 7, where a constant answer has 4.
    """

    where: str
    contrast: Contrast
    claimed: int = 1
    scale: float = 1.0

    @property
    def measured(self) -> bool:
        """Whether there were enough seeds for a test."""
        return self.contrast.p_holm is not None

    @property
    def contradicts(self) -> bool:
        """Whether it is reliably the other way, or found nothing and excludes a difference as large as the paper's."""
        return self.sign < 0 or (self.sign == 0 and self.falls_short)

    @property
    def falls_short(self) -> bool:
        """Whether it excludes a difference as large as the paper's, or larger.

        It is excluded by an interval that is corrected over the family too: of many intervals, some miss the truth.
        """
        interval, expected = corrected_interval(self.contrast.comparison, self.contrast.family), self.expected
        if interval is None or expected is None:
            return False
        return interval[1] < expected if self.claimed > 0 else interval[0] > expected

    @property
    def expected(self) -> float | None:
        """The paper's difference, in proportion to our plain network's score where that is lower."""
        return None if self.contrast.paper is None else self.scale * self.contrast.paper

    @property
    def sign(self) -> int:
        """1 where the difference is reliably as claimed, -1 where reliably the other way, else 0."""
        p = self.contrast.p_holm
        return 0 if p is None or p >= ALPHA else (1 if self.agrees else -1)

    @property
    def agrees(self) -> bool:
        """Whether the difference has the claimed sign."""
        return self.claimed * self.difference > 0

    @property
    def difference(self) -> float:
        """Mean difference in points."""
        return float(self.contrast.comparison.difference or 0.0)

    def corrected(self, p_holm: float | None, family: int) -> Finding:
        """The same as one of a family of comparisons."""
        p_holm = None if self.contrast.comparison.p_value is None else p_holm
        return dataclasses.replace(self, contrast=dataclasses.replace(self.contrast, p_holm=p_holm, family=family))

    def __str__(self) -> str:
        comparison = self.contrast.comparison
        sure = f" ({between(comparison.interval, sign=True)})" if comparison.interval else ""
        p = "" if self.contrast.p_holm is None else f", p {probability(self.contrast.p_holm)}"
        seen = "" if self.contrast.detectable is None else f", could have seen {points(self.contrast.detectable)}"
        named = f"{self.contrast.variant} − {self.contrast.baseline} {points(self.difference, sign=True)}"
        pooled = f" ({comparison.freedom} degrees of freedom)" if comparison.freedom > comparison.pairs - 1 else ""
        return f"{self.where}: {named}{sure}{p}, {count(comparison.pairs, 'seed')}{pooled}{seen}"


def verdict(findings: Sequence[Finding]) -> str:
    """What the comparisons say together of a claim about all of their signs.

    Reproduced: all are reliably as claimed, and may be as large. Direction only: some are as claimed, and none is
    reliably the other way. Not reproduced: otherwise, if one contradicts the claim. There is no verdict before every
    comparison is measured, nor where none is reliably as claimed and all leave open whether there is no difference or
    one as large as the paper's.

    Examples:
        >>> verdict([])
        'not testable here'
    """
    if not findings or not all(finding.measured for finding in findings):
        return "not testable here"
    signs = [finding.sign for finding in findings]
    if max(signs) > 0 and min(signs) >= 0:
        reproduced = min(signs) > 0 and not any(finding.falls_short for finding in findings)
        return "reproduced" if reproduced else "direction only"
    return "not reproduced" if any(finding.contradicts for finding in findings) else "not testable here"


def why_untestable(findings: Sequence[Finding]) -> str:
    """What comparisons lack that come to no verdict."""
    tested = sum(finding.measured for finding in findings)
    if tested < len(findings):
        return f"{tested} of {count(len(findings), 'comparison')} measured"
    return "undecided: no difference was found, and none that the paper gives is excluded"


class Evidence:
    """Analyses of studies, each read once.

    Args:
        results: folder of the studies' records.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self._read: dict[tuple[str, str], Analysis] = {}

    def analysis(self, study: str, budget: str) -> Analysis:
        """What the records of a study say; without records, nothing."""
        if (study, budget) not in self._read:
            read = read_study(study, budget)
            self._read[study, budget] = analyse(read, records_of(read, self.results).read())
        return self._read[study, budget]

    def has_records(self, study: str, budget: str) -> bool:
        """Whether the study has any records."""
        return records_of(self.analysis(study, budget).study, self.results).path.is_file()

    def findings(self, parts: Sequence[Part]) -> list[Finding]:
        """The comparisons that a claim consists of, measured or not yet, Holm-corrected together."""
        (found,) = self.findings_of_all([parts])
        return found

    def findings_of_all(self, claims: Sequence[Sequence[Part]]) -> list[list[Finding]]:
        """The comparisons of each of several claims, Holm-corrected over all of them.

        Those that are not measured count as if they had found nothing, so that no correction becomes stricter when they
        are.
        """
        found = [[finding for part in parts for finding in self._uncorrected(part)] for parts in claims]
        every = [finding.contrast.comparison.p_value for several in found for finding in several]
        corrected = iter(holm([1.0 if p is None else p for p in every]))
        return [[finding.corrected(next(corrected), len(every)) for finding in several] for several in found]

    def _uncorrected(self, part: Part) -> Iterator[Finding]:
        analysis = self.analysis(part["study"], part["budget"])
        for network in analysis.networks:
            if network.label in part.get("networks", [network.label]) and part["variant"] in network.cells:
                yield from _inside(part, network) if "measure" in part else _of_scores(part, network, analysis.study)


def _of_scores(part: Part, network: Network, study: Study) -> Iterator[Finding]:
    """Comparisons of what networks reached on the test split."""
    for baseline in [name for name in part["against"] if name in network.cells]:
        comparison = network.comparisons(baseline)[part["variant"]]
        paper = part.get("points", difference_in(network.paper, part["variant"], baseline))
        contrast = Contrast(part["variant"], baseline, comparison, comparison.p_value, 1, paper)
        claimed = -1 if part.get("points", 0) < 0 else 1
        ours = network.mean(PLAIN).mean
        theirs = part.get("of") if "points" in part else network.paper.get(PLAIN)
        scale = 1.0
        if ours is not None and theirs is not None:
            scale = min(1.0, max(0.0, ours - study.floor_of(network.label)) / theirs)
        yield Finding(f"{part['study']}, {network.label}", contrast, claimed, scale)


def _inside(part: Part, network: Network) -> Iterator[Finding]:
    """Comparisons of what was found inside of networks."""
    claimed = -1 if part.get("claimed") == "less" else 1
    for baseline in part["against"]:
        if baseline in network.cells or baseline == CHANCE:
            comparison = network.inside(part["measure"], baseline)[part["variant"]]
            contrast = Contrast(part["variant"], baseline, comparison, comparison.p_value, 1, None)
            where = f"{part['study']}, {network.label}, {part['measure'].replace('_', ' ')}"
            yield Finding(where, contrast, claimed)


def write_claims(results: Path, out: Path, file: Path = FILE) -> None:
    """Write the page of verdicts.

    Args:
        results: folder of the studies' records.
        out: the page.
        file: of the claims.

    Raises:
        ConfigError: there are no records, or a claim has neither a verdict with evidence nor comparisons, or a verdict
            that is none.
    """
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    evidence = Evidence(results)
    parts = [_HEAD, *_overview(values.get("overview", {}), evidence, out), *_claims(values["claims"], evidence, out)]
    for title, table in values["tables"].items():
        parts += _table(title, table, evidence, out)
    if not any(results.glob("*/records.jsonl")):
        raise ConfigError(f"{results}: no study has records there; --results says where they are")
    write_atomic(out, ("\n\n".join(parts) + "\n").encode())


_HEAD = """\
# Claims and verdicts

Written by `coc study claims`; do not edit. Verdicts: *proved* (by test), *reproduced* (every comparison reliably as
claimed, and none excludes the paper's size), *direction only* (some reliably as claimed, none reliably the other way),
*not reproduced* (none reliably as claimed and one excludes the paper's size; or one reliably the other way), *refuted*
(by proof), *not testable here* (not all measured, or all leave it open). What a measurement says, it says of our
networks and data: those of small budgets, which are judged here, are far from the paper's, and trained for a short
time; the studies say how.

The paper's size is the difference that it gives, or more. Where our plain network has less above a constant answer than
the score of the paper's, it is taken in that proportion. That is a convention of ours, and a guess; sizes depend on
networks and data. Reliably: p < 0.05 in the study's t-test, Holm-corrected over all comparisons of the claim or table
(so p differs from that in the study's report, whose families are others); what is excluded lies outside of an interval
that is corrected over them by Bonferroni. The test is paired by seed; where degrees of freedom are given, it is of one
model of all runs of the network, whose variants are taken to scatter alike. Differences are percentage points with 95 %
confidence intervals, uncorrected; "could have seen" is the difference that the corrected test would have found with a
probability of 80 %, if the spread that was measured is right.

Every claim and every table is corrected by itself, and over more or fewer comparisons: the same runs may decide one and
leave another open. Nothing is corrected over claims; of so many, one may be found by chance. The rules were settled
while our results came in: last of all, a claim whose size is excluded is not called reproduced.

The paper does not say which of its configurations "CoC" is in its tables, nor how it orthogonalizes (`orth` is ONI
here). `coc` is the association of the poster's text, but it starts from what the plain network computes, where the
authors' super kernels start at random. `released` adds the three norms of the authors' published settings, from our
start too. `released from kaiming` and, for light-weight networks, `lightweight from kaiming` have those settings, and
super kernels that start as the authors' do (but the basic kernels of our ResNets are kaiming-normal, as timm draws
them, and the authors' kaiming-uniform): of all that we ran they are closest to what the authors did. Each is judged
apart."""


def answer(overview: Mapping[str, Any], evidence: Evidence) -> dict[str, dict[str, Contrast]]:
    """What each method adds on every network, by question; questions without an answer are left out."""
    answers = {}
    for question, several in overview.get("questions", {}).items():
        wanted = itertools.product(overview["studies"], several)
        parts = [{**part, "study": study, "budget": overview["budget"]} for study, part in wanted]
        found: dict[str, Contrast] = {}
        for finding in evidence.findings(parts):
            if finding.contrast.comparison.pairs >= FEWEST:
                found.setdefault(finding.where, finding.contrast)
        if found:
            answers[question] = found
    return answers


def _overview(overview: Mapping[str, Any], evidence: Evidence, out: Path) -> Iterator[str]:
    """The answers as a table and a figure, which is drawn into the folder of the results."""
    if answers := answer(overview, evidence):
        figure = draw_forest_plot(answers)
        for ending in ("png", "svg"):
            write_atomic(evidence.results / f"overview.{ending}", encode(figure, ending))
        yield "## At a glance"
        yield overview["about"].strip()
        yield f"![What each method adds on every network]({_link(evidence.results / 'overview.png', out)})"
        yield tabulate(answers)


def _claims(claims: Mapping[str, Any], evidence: Evidence, out: Path) -> Iterator[str]:
    for name, claim in claims.items():
        if "verdict" in claim:
            said = _proof(name, claim)
        elif "compare" in claim:
            said = _measurement(claim, evidence, out)
        else:
            raise ConfigError(f"{FILE.name}: {name} has neither a verdict nor comparisons")
        lines = [f"**Tested by.** {claim['how'].strip()}", *said]
        yield f"## {name}\n\n{claim['statement'].strip()}\n\n" + "\n\n".join(lines)


def _proof(name: str, claim: Mapping[str, Any]) -> list[str]:
    if claim["verdict"] not in VERDICTS or not claim.get("evidence"):
        raise ConfigError(f"{FILE.name}: {name} needs one of the verdicts {', '.join(VERDICTS)}, and evidence")
    why = f" {claim['why'].strip()}" if "why" in claim else ""
    evidence = ", ".join(f"`{item}`" for item in claim["evidence"])
    return [f"**Verdict: {claim['verdict']}.**{why}", f"Evidence: {evidence}"]


def _measurement(claim: Mapping[str, Any], evidence: Evidence, out: Path) -> list[str]:
    findings = evidence.findings(claim["compare"])
    measured = [finding for finding in findings if finding.contrast.comparison.pairs]
    said = verdict(findings)
    why = f" {why_untestable(findings).capitalize()}." if findings and said == "not testable here" else ""
    if said == "direction only":
        as_claimed = sum(finding.sign > 0 for finding in findings)
        why = f" Of {count(len(findings), 'comparison')} {as_claimed} reliably as claimed, none reliably the other way."
    lines = [f"**Verdict: {said}.**{why}"]
    if measured:
        lines.append("\n".join(f"- {finding}{_published(finding)}" for finding in measured))
        parts = [part for part in claim["compare"] if evidence.has_records(part["study"], part["budget"])]
        lines.append("Evidence: " + ", ".join(dict.fromkeys(_report_link(part, evidence, out) for part in parts)))
    return lines


def _published(finding: Finding) -> str:
    if finding.contrast.paper is None:
        return ""
    return f"; the paper's, on its own data: {points(finding.contrast.paper, sign=True)}{_scaled(finding)}"


def _scaled(finding: Finding) -> str:
    return f", in proportion {points(finding.expected, sign=True)}" if finding.scale < 1 else ""


def _report_link(part: Mapping[str, Any], evidence: Evidence, out: Path) -> str:
    """The report of a part's study, and how much of the study is done if not all of it is."""
    analysis = evidence.analysis(part["study"], part["budget"])
    done, planned = analysis.count("done"), len(analysis.runs)
    partial = f", {done} of {planned} runs" if done < planned else ""
    report = records_of(analysis.study, evidence.results).path.with_name("report.md")
    return f"[{part['study']} ({part['budget']}{partial})]({_link(report, out)})"


def _table(title: str, table: Mapping[str, Any], evidence: Evidence, out: Path) -> Iterator[str]:
    """A row per row of the paper's table: its difference to plain, ours on every network that stands for it.

    Networks of another study are called ``study/network``.
    """
    study = read_study(table["study"], table["budget"])
    lines = ["| the paper's network | method | its difference to plain | ours | verdict |", "|---|---|---|---|---|"]
    rows = []
    parts = []
    for row, networks in table["rows"].items():
        paper = study.paper[row]
        for variant in [name for name in paper if name != PLAIN]:
            metric = next(iter(paper[variant]))
            difference = paper[variant][metric] - paper[PLAIN][metric]
            of_paper = {"against": [PLAIN], "points": difference, "of": paper[PLAIN][metric]}
            for ours in table.get("ours", {}).get(variant, [variant]):
                own = [
                    {"study": name, "budget": table["budget"], "networks": [network], "variant": ours, **of_paper}
                    for name, network in (_place(network, table["study"]) for network in networks)
                    if ours in evidence.analysis(name, table["budget"]).study.variants_of(network)
                ]
                if ours == variant or own:
                    method = variant if ours == variant else f"{variant} (ours: {ours})"
                    rows.append((row, method, f"{metric} {points(difference, sign=True)}"))
                    parts.append(own)
    for (row, method, theirs), findings in zip(rows, evidence.findings_of_all(parts), strict=True):
        measured = [finding for finding in findings if finding.contrast.comparison.pairs]
        ours = "; ".join(str(finding).partition(", ")[2] + _scaled(finding) for finding in measured) or "–"
        said = verdict(findings)
        why = f" ({why_untestable(findings)})" if findings and said == "not testable here" else ""
        lines.append(f"| {row} | {method} | {theirs} | {ours} | {said}{why} |")
    yield f"## {title}"
    yield f"The paper's figures: {study.source}"
    yield "\n".join(lines)
    places = (_place(network, table["study"]) for networks in table["rows"].values() for network in networks)
    studies = [{"study": name, "budget": table["budget"]} for name in dict.fromkeys(name for name, _ in places)]
    if known := [study for study in studies if evidence.has_records(**study)]:
        yield f"Evidence: {', '.join(_report_link(study, evidence, out) for study in known)}"


def _place(network: str, study: str) -> tuple[str, str]:
    """Study and network of a row's entry."""
    other, _, label = network.rpartition("/")
    return other or study, label


def _link(path: Path, out: Path) -> str:
    """A path of the repository, in whose root this runs, as seen from the page."""
    return os.path.relpath(path, out.parent).replace(os.sep, "/")
