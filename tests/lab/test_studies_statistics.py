"""Statistics of studies: cases worked by hand, and simulated results whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from convofconv.lab.studies import statistics
from convofconv.lab.studies.statistics import (
    ALPHA,
    POWER,
    Comparison,
    Summary,
    compare,
    corrected_interval,
    detectable_difference,
    hedges_correction,
    holm,
    summarize,
)

pytestmark = pytest.mark.lab

#: Deviation of the seeds' own effect, which pairing takes out, and of everything else.
_SEED, _NOISE = 1.0, 0.4


def _scores(values):
    return dict(enumerate(map(float, values)))


def _cell(random, pairs, effects):
    """Scores of variants with these true effects on the same seeds; the first one is the baseline's."""
    of_seeds = 70 + _SEED * random.standard_normal(pairs)
    return [_scores(of_seeds + effect + _NOISE * random.standard_normal(pairs)) for effect in effects]


def _assert_share(hits, expected):
    """A share of random events agrees with its probability within four standard errors of a binomial count."""
    error = math.sqrt(expected * (1 - expected) / len(hits))
    assert abs(np.mean(hits) - expected) < 4 * error


def test_a_summary_by_hand():
    """1, 2, 3, 6: squared deviations 4, 1, 0, 9 give a variance of 14/3; the t of 3 degrees at 97.5 % is 3.18245."""
    summary = summarize([1.0, 2.0, 3.0, 6.0])
    assert (summary.n, summary.mean) == (4, 3.0)
    assert summary.deviation == pytest.approx(math.sqrt(14 / 3))
    half = 3.18245 * math.sqrt(14 / 3) / 2
    assert summary.interval == pytest.approx((3 - half, 3 + half), abs=1e-4)


def test_a_comparison_of_three_pairs_by_hand():
    """Differences 1, 2, 3: t = 2√3, and for two degrees of freedom p = 1 − t / √(t² + 2); Γ(1) / Γ(1/2) = 1 / √π."""
    comparison = compare(_scores([71, 73, 75]), _scores([70, 71, 72]))
    assert (comparison.pairs, comparison.difference, comparison.deviation) == (3, 2.0, 1.0)
    t = 2 * math.sqrt(3)
    assert comparison.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2))
    half = 4.302653 / math.sqrt(3)
    assert comparison.interval == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert comparison.d_z == 2.0
    assert comparison.g_z == pytest.approx(2 / math.sqrt(math.pi))


def test_a_comparison_of_two_pairs_by_hand():
    """Differences 1, 3: t = 2, and for one degree of freedom p = 1 − 2/π · atan t. Hedges' factor would be 0."""
    comparison = compare(_scores([71, 74]), _scores([70, 71]))
    assert comparison.p_value == pytest.approx(1 - 2 / math.pi * math.atan(2))
    assert comparison.interval == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    assert comparison.d_z == pytest.approx(math.sqrt(2))
    assert comparison.g_z is None
    assert detectable_difference(comparison.error, comparison.freedom) > 10


def test_only_common_seeds_count_whatever_their_order():
    comparison = compare({4: 75.0, 2: 73.0, 9: 0.0, 1: 71.0}, {1: 70.0, 2: 71.0, 4: 72.0, 7: 99.0})
    assert comparison == compare(_scores([71, 73, 75]), _scores([70, 71, 72]))


def test_the_sign_is_variant_minus_baseline():
    one, other = _scores([71, 73, 75]), _scores([70, 71, 72])
    there, back = compare(one, other), compare(other, one)
    assert (there.difference, there.g_z) == (-back.difference, -back.g_z)
    assert there.p_value == pytest.approx(back.p_value)
    assert there.deviation == back.deviation


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Summary(0, None, None, None)),
        ([70.5], Summary(1, 70.5, None, None)),
        ([70.5, 70.5, 70.5], Summary(3, 70.5, 0.0, None)),
    ],
)
def test_summaries_without_spread(values, expected):
    assert summarize(values) == expected


@pytest.mark.parametrize(
    ("variant", "baseline", "expected"),
    [
        ({}, {}, Comparison(0, None)),
        ({0: 71.0}, {1: 70.0}, Comparison(0, None)),
        ({0: 71.0}, {0: 70.0}, Comparison(1, 1.0)),
        ({0: 70.0, 1: 71.0}, {0: 70.0, 1: 71.0}, Comparison(2, 0.0, 0.0)),
    ],
)
def test_comparisons_that_allow_no_test(variant, baseline, expected):
    assert compare(variant, baseline) == expected


def test_differences_that_only_rounding_tells_apart_are_the_same():
    """0.2 in exact arithmetic, several numbers in floating point."""
    baseline = {0: 70.1, 1: 71.3, 2: 0.1}
    variant = {0: 70.3, 1: 71.5, 2: 0.3}
    assert len({variant[seed] - baseline[seed] for seed in baseline}) > 1
    comparison = compare(variant, baseline)
    assert comparison.deviation == 0.0
    assert comparison.difference == pytest.approx(0.2)
    assert comparison.p_value is comparison.interval is comparison.g_z is None


def test_holm_by_hand():
    """Times 4, 3, 2, 1 in ascending order, never less than the one before, at most 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 0.6]) == [1.0, 1.0, 1.0]


@settings(max_examples=15, deadline=None)  # it collects garbage in every call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_what_statsmodels_says(p_values):
    assert holm(p_values) == multipletests(p_values, ALPHA, method="holm")[1].tolist()


def test_holm_leaves_out_what_was_not_tested():
    assert holm([None, 0.02, None, 0.03]) == [None, pytest.approx(0.04), None, pytest.approx(0.04)]
    assert holm([None]) == [None]
    assert holm([]) == []


@pytest.mark.parametrize(("pairs", "family"), [(2, 1), (3, 1), (3, 5), (5, 1), (5, 5), (10, 1), (10, 5)])
def test_the_detectable_difference_solves_the_power_of_the_t_test(pairs, family):
    """By the noncentral t distribution, both sides."""
    shift = detectable_difference(0.7, pairs - 1, family) / 0.7
    limit = stats.t.ppf(1 - ALPHA / family / 2, pairs - 1)
    power = stats.nct.sf(limit, pairs - 1, shift) + stats.nct.cdf(-limit, pairs - 1, shift)
    assert power == pytest.approx(POWER, abs=1e-4)


def test_false_positives_are_as_many_as_promised():
    random = np.random.default_rng(0)
    comparisons = [compare(*_cell(random, 5, (0, 0))) for _ in range(3000)]
    _assert_share([comparison.p_value < ALPHA for comparison in comparisons], ALPHA)


def test_confidence_intervals_hold_the_truth_as_often_as_promised():
    random = np.random.default_rng(1)
    cells = [_cell(random, 4, (1.5, 0.0)) for _ in range(3000)]
    intervals = [compare(*cell).interval for cell in cells]
    _assert_share([low < 1.5 < high for low, high in intervals], 1 - ALPHA)
    intervals = [summarize(list(variant.values())).interval for variant, _ in cells]
    _assert_share([low < 71.5 < high for low, high in intervals], 1 - ALPHA)


@pytest.mark.parametrize(("pairs", "family"), [(2, 9), (3, 1), (3, 17), (5, 1), (5, 9), (10, 1)])
def test_the_detectable_difference_is_seen_four_times_in_five(pairs, family):
    random = np.random.default_rng(pairs)
    true = detectable_difference(math.sqrt(2 / pairs) * _NOISE, pairs - 1, family)
    seen = [compare(*_cell(random, pairs, (true, 0.0))).p_value < ALPHA / family for _ in range(2000)]
    _assert_share(seen, POWER)


def test_an_interval_for_several_comparisons_by_hand():
    """Differences 1, 2, 3; of four comparisons at 5 % each is at 1.25 %: t of two degrees at 99.375 % is 8.8602."""
    low, high = corrected_interval(compare(_scores([71, 73, 75]), _scores([70, 71, 72])), family=4)
    assert (low, high) == pytest.approx((2 - 8.8602 / math.sqrt(3), 2 + 8.8602 / math.sqrt(3)), abs=1e-3)
    assert corrected_interval(Comparison(1, 2.0), family=4) is None


def test_after_holm_a_family_without_effects_rarely_finds_one():
    """Nine comparisons with one baseline, which makes them dependent; uncorrected, they often find one."""
    random = np.random.default_rng(2)
    families, alone, corrected = 800, 0, 0
    for _ in range(families):
        *variants, plain = _cell(random, 5, (0,) * 10)
        p_values = [compare(variant, plain).p_value for variant in variants]
        alone += min(p_values) < ALPHA
        corrected += min(holm(p_values)) < ALPHA
    error = math.sqrt(ALPHA * (1 - ALPHA) / families)
    assert corrected / families < ALPHA + 4 * error
    assert alone / families > ALPHA + 4 * error


@pytest.mark.parametrize("between", [0.0, 2.0])
def test_intervals_over_networks_hold_the_truth_at_least_as_often_as_promised(between):
    """Whether networks differ in truth or not; they are units, so the truth is the mean of all possible ones."""
    random = np.random.default_rng(5)
    held = []
    for _ in range(2000):
        networks = 0.7 + between * random.standard_normal(4)
        seeds = [dict(enumerate(truth + random.standard_normal(5))) for truth in networks]
        low, high = statistics.average([compare(scores, dict.fromkeys(range(5), 0.0)) for scores in seeds]).interval
        held.append(low <= 0.7 <= high)
    assert 0.94 < np.mean(held) < (0.96 if between else 1.0)


def test_a_mean_over_networks_needs_three_of_them_and_their_spread():
    comparison = compare({0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.0})
    alone = compare({0: 1.5}, {0: 0.0})
    assert statistics.average([comparison] * 2).interval is None
    assert statistics.average([comparison, comparison, alone]).interval is None
    assert statistics.average([comparison] * 3).interval is not None  # they agree exactly, their seeds do not
    assert statistics.average([comparison, comparison, alone]).mean == 1.5
    # of one model of all runs: the error is not the deviation over the root of the pairs
    pooled = Comparison(1, 1.5, deviation=0.1, error=3.0)
    low, high = statistics.average([pooled] * 3).interval
    assert high - low == pytest.approx(2 * 4.302653 * 3 / math.sqrt(3), rel=1e-5)


def test_hedges_correction_takes_the_bias_off():
    """The mean of g_z is the true effect within four standard errors; that of d_z is not."""
    random = np.random.default_rng(3)
    true = 0.5 / (math.sqrt(2) * _NOISE)
    comparisons = [compare(*_cell(random, 6, (0.5, 0.0))) for _ in range(3000)]
    g_z, d_z = ([getattr(comparison, name) for comparison in comparisons] for name in ("g_z", "d_z"))
    assert abs(np.mean(g_z) - true) < 4 * stats.sem(g_z)
    assert abs(np.mean(d_z) - true) > 4 * stats.sem(d_z)


def test_hedges_correction_is_close_to_its_usual_approximation():
    for freedom in (4, 9, 30):
        assert hedges_correction(freedom) == pytest.approx(1 - 3 / (4 * freedom - 1), abs=0.005)
