"""One model of all runs of a network: cases worked by hand, statsmodels, and simulated results whose truth is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas
import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from statsmodels.formula import api as formula

from convofconv.lab.studies.additive_model import AdditiveModel
from convofconv.lab.studies.statistics import ALPHA, Comparison, Summary, compare

pytestmark = pytest.mark.lab


def _scores(values):
    return dict(enumerate(map(float, values)))


#: Variants 0, 1, 5 above seeds 0, 10, 40; noise 1, −1, 0 / 0, 1, −1 / −1, 0, 1, whose rows and columns have the sum 0.
_BY_HAND = {"plain": _scores([1, 9, 40]), "a": _scores([1, 12, 40]), "b": _scores([4, 15, 46])}


def _simulate(random, effects, spreads=None, seed_effect=1.0):
    """Five seeds of the first two variants, three of the others, as in the study of hyper-parameters."""
    of_seeds = 70 + seed_effect * random.standard_normal(5)
    spreads = np.ones(len(effects)) if spreads is None else spreads
    return {
        str(number): {
            seed: of_seeds[seed] + effect + spreads[number] * random.standard_normal()
            for seed in range(5 if number < 2 else 3)
        }
        for number, effect in enumerate(effects)
    }


def _assert_share(hits, expected):
    """A share of random events agrees with its probability within four standard errors of a binomial count."""
    assert abs(np.mean(hits) - expected) < 4 * math.sqrt(expected * (1 - expected) / len(hits))


def test_two_variants_are_compared_by_the_paired_t_test():
    random = np.random.default_rng(6)
    plain, variant = (70 + random.standard_normal(5) for _ in range(2))
    found = AdditiveModel({"plain": _scores(plain), "coc": _scores(variant)}).compare("plain")["coc"]
    paired = compare(_scores(variant), _scores(plain))
    for field in dataclasses.fields(Comparison):
        assert getattr(found, field.name) == pytest.approx(getattr(paired, field.name)), field.name


def test_three_variants_by_hand():
    """Squares of 6 over (3 − 1)(3 − 1) degrees of freedom; each row has 2 of them, and a third of the freedom."""
    model = AdditiveModel(_BY_HAND)
    assert (model.deviation, model.freedom) == (pytest.approx(math.sqrt(1.5)), 4)
    assert model.spreads == dict.fromkeys(_BY_HAND, pytest.approx(math.sqrt(2 / (4 / 3))))
    found = model.compare("plain")
    assert [found[name].difference for name in ("a", "b")] == pytest.approx([1, 5])
    error = math.sqrt(1.5 * 2 / 3)
    for comparison in found.values():
        assert (comparison.pairs, comparison.freedom) == (3, 4)
        assert (comparison.error, comparison.deviation) == pytest.approx((error, math.sqrt(2 * 1.5)))
    assert found["a"].interval == pytest.approx((1 - 2.776445 * error, 1 + 2.776445 * error), abs=1e-5)
    mean = model.mean("a")
    assert (mean.n, mean.mean) == (3, pytest.approx(53 / 3))
    half = 2.776445 * math.sqrt(1.5 / 3)
    assert mean.interval == pytest.approx((53 / 3 - half, 53 / 3 + half), abs=1e-5)


def test_differences_means_and_noise_are_what_statsmodels_says():
    """Six variants of three seeds and two of five; contrasts of its coefficients, and their covariance."""
    scores = _simulate(np.random.default_rng(8), (0.0, 1.0, -0.5, 0.3, 0.0, 2.0, 0.0, 0.0))
    rows = [(name, str(seed), score) for name, mine in scores.items() for seed, score in mine.items()]
    fit = formula.ols(
        "score ~ C(variant) + C(seed)", pandas.DataFrame(rows, columns=["variant", "seed", "score"])
    ).fit()
    model = AdditiveModel(scores)
    assert (model.deviation, model.freedom) == (pytest.approx(math.sqrt(fit.mse_resid)), fit.df_resid)
    wider = 0
    for name, comparison in model.compare("0").items():
        term = f"C(variant)[T.{name}]"
        assert comparison.difference == pytest.approx(fit.params[term])
        own = math.hypot(model.spreads[name] / math.sqrt(len(scores[name])), model.spreads["0"] / math.sqrt(5))
        assert comparison.error == pytest.approx(max(fit.bse[term], own))
        wider += own > fit.bse[term]
        assert comparison.difference == pytest.approx(model.mean(name).mean - model.mean("0").mean)
    assert 0 < wider < 7, "both kinds of error should be there"


def test_seeds_that_a_variant_lacks_are_taken_out():
    """Without noise the differences are exact, whoever has which seeds; a mean of all scores would be far off."""
    seeds = (0.0, 10.0, 40.0, -30.0)
    full = {name: {seed: 70 + gain + value for seed, value in enumerate(seeds)} for name, gain in (("p", 0), ("a", 2))}
    model = AdditiveModel({**full, "b": {seed: 73 + seeds[seed] for seed in (0, 3)}})
    found = model.compare("p")
    assert [found[name].difference for name in ("a", "b")] == pytest.approx([2, 3])
    assert [found[name].pairs for name in ("a", "b")] == [4, 2]
    assert [model.mean(name).mean for name in ("p", "a", "b")] == pytest.approx([75, 77, 78])
    assert found["b"].p_value is None, "no spread"
    assert model.mean("b").interval is None


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({}, {}),
        ({"plain": {}, "coc": {0: 1.0}}, {"coc": Comparison(0, None)}),
        ({"plain": {0: 1.0}, "coc": {}}, {"coc": Comparison(0, None)}),
        ({"plain": {0: 1.0}, "coc": {1: 1.0}}, {"coc": Comparison(0, None)}),
        ({"plain": {0: 1.0}, "coc": {0: 3.0}}, {"coc": Comparison(1, 2.0)}),
        ({"coc": {0: 1.0}}, {"coc": Comparison(0, None)}),
    ],
)
def test_what_allows_no_test(scores, expected):
    model = AdditiveModel(scores)
    found = model.compare("plain")
    assert list(found) == list(expected)
    for name, comparison in expected.items():
        assert found[name].pairs == comparison.pairs
        assert found[name].difference == pytest.approx(comparison.difference)
        assert found[name].p_value is None
    assert model.deviation is None
    assert model.spreads == {}
    assert model.widest() is None
    for name, mine in scores.items():
        mean = None
        if mine and {0} >= {seed for others in scores.values() for seed in others}:
            mean = pytest.approx(mine[0])
        assert model.mean(name) == Summary(len(mine), mean, None, None)


def test_a_variant_with_a_single_common_seed_is_not_tested_by_the_noise_of_others():
    found = AdditiveModel({**_BY_HAND, "c": {0: 9.0}}).compare("plain")
    assert found["a"].p_value is not None
    # 9 against what plain has on seed 0 without its noise
    assert (found["c"].pairs, found["c"].difference, found["c"].p_value) == (1, pytest.approx(9.0), None)


def test_variants_that_meet_through_others_alone_are_not_compared():
    """c − plain could be had by way of a and b, but no seed has both."""
    found = AdditiveModel({"plain": {0: 1.0, 1: 2.0}, "a": {0: 1.5, 1: 2.0, 2: 3.0, 3: 3.5}, "c": {2: 4.0, 3: 4.1}})
    assert found.compare("plain")["c"] == Comparison(0, None)
    assert found.compare("a")["c"].p_value is not None


def test_tests_are_as_sure_as_promised_and_see_more():
    """At most 5 % false alarms, intervals that hold the truth, and differences that paired tests nearly always miss."""
    random = np.random.default_rng(7)
    false, family, covered, seen, paired = [], [], [], [], []
    for _ in range(1000):
        scores = _simulate(random, (0.0, 0.0, 0.0, 3.0, *[0.0] * 6))
        found = AdditiveModel(scores).compare("0")
        null = [comparison.p_value for name, comparison in found.items() if name != "3"]
        false.append(null[0] < ALPHA)
        family.append(min(null) < ALPHA / len(found))
        low, high = found["3"].interval
        covered.append(low < 3.0 < high)
        seen.append(found["3"].p_value < ALPHA / len(found))
        paired.append(compare(scores["3"], scores["0"]).p_value < ALPHA / len(found))
    error = math.sqrt(ALPHA * (1 - ALPHA) / len(false))
    assert np.mean(false) < ALPHA + 4 * error
    assert np.mean(family) < ALPHA + 4 * error
    assert np.mean(covered) > 1 - ALPHA - 4 * error
    assert np.mean(seen) > 0.5 > 5 * np.mean(paired)


@pytest.mark.parametrize(("noisy", "most"), [("4", 0.09), ("0", 0.13)])
def test_a_noisy_variant_makes_few_false_alarms_and_is_told(noisy, most):
    """Three times the spread of all others: of a variant and, worse, of the baseline, with the guard and without."""
    random = np.random.default_rng(9)
    spreads = np.array([3.0 if str(number) == noisy else 1.0 for number in range(10)])
    alarms, unguarded, told = [], [], []
    for _ in range(800):
        model = AdditiveModel(_simulate(random, np.zeros(10), spreads))
        name, chance = model.widest()
        told.append(name == noisy and chance < ALPHA)
        alarms.append(min(comparison.p_value for comparison in model.compare("0").values()) < ALPHA / 9)
        model.spreads = {}  # as if nothing were known of single variants
        unguarded.append(min(comparison.p_value for comparison in model.compare("0").values()) < ALPHA / 9)
    assert np.mean(alarms) < most < np.mean(unguarded)
    assert np.mean(told) > 0.3


def test_a_spread_stands_out_by_chance_as_rarely_as_promised():
    random = np.random.default_rng(10)
    told = [AdditiveModel(_simulate(random, np.zeros(10))).widest()[1] < ALPHA for _ in range(1500)]
    assert 0.02 < np.mean(told) < ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / len(told))


def test_spreads_of_single_variants_are_not_biased():
    """Their squares are right on average, of variants with three seeds and with five."""
    random = np.random.default_rng(11)
    squares = [
        [spread**2 for spread in AdditiveModel(_simulate(random, np.zeros(6))).spreads.values()] for _ in range(1500)
    ]
    assert np.mean(squares, axis=0) == pytest.approx(np.ones(6), abs=0.12)
