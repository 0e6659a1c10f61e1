"""Nulls: uniform p-values where nothing was learnt, small ones where groups were planted; the wrong null finds both."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import convofconv as coc
from convofconv.errors import ConfigError
from convofconv.lab.inspect.kernel_grids import effective_kernels, kernel_grids
from convofconv.lab.inspect.kernel_nulls import (
    CLAIMED,
    claim_tests,
    combine_tests,
    compare_with_null,
    null_tests,
)
from convofconv.lab.inspect.kernel_similarity import kernel_similarity

DRAWS, LAYERS = 19, 60


def untrained(seed, channels=4, kernels=16, **settings):
    """A layer of random basic kernels and random super kernels."""
    torch.manual_seed(seed)
    config = coc.Config(init="kaiming", **settings)
    return coc.convert(nn.Sequential(nn.Conv2d(channels, kernels, 3)), config=config)


def uniformity(p_values, draws=DRAWS):
    """Of rank-based p-values, spread evenly within their steps, which makes them exactly uniform under the null."""
    spread = np.random.default_rng(0).random(len(p_values))
    return stats.kstest(np.asarray(p_values) - spread / (draws + 1), "uniform").pvalue


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The layers are so small that threads cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def of_untrained(one_thread):
    """Tests of both claims, on many small layers in which nothing was learnt."""
    return [claim_tests(untrained(seed), "0", draws=DRAWS, seed=seed) for seed in range(LAYERS)]


@pytest.mark.parametrize("name", CLAIMED)
def test_where_nothing_was_learnt_p_values_are_uniform(of_untrained, name):
    tests = [found[name] for found in of_untrained]
    for alternative in ("greater", "less"):
        assert uniformity([test.p_value(alternative) for test in tests]) > 0.01
        assert 0.01 < combine_tests(tests, alternative) < 0.99


def test_dealing_effective_kernels_anew_finds_similarity_where_nothing_was_learnt():
    """The trap: α makes the kernels of a group alike, so groups of shuffled effective kernels are no null."""
    tests = []
    for seed in range(LAYERS // 2):
        grids = kernel_grids(untrained(seed), "0")
        generator = torch.Generator().manual_seed(seed)

        def difference(kernels, members=grids.members):
            return kernel_similarity(kernels, members).similarity.difference

        shuffled = [grids.effective[torch.randperm(16, generator=generator)] for _ in range(DRAWS)]
        drawn = [difference(kernels) for kernels in shuffled]
        tests.append(compare_with_null(difference(grids.effective), drawn, "shuffled"))
    assert uniformity([test.p_greater for test in tests]) < 1e-10
    assert combine_tests(tests, "greater") < 1e-10


@pytest.mark.parametrize("null", ["permuted", "normal", "kaiming"])
@pytest.mark.parametrize("method", ["coc", "coc+stnd"])
def test_planted_groups_are_found(method, null):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 32, 3), nn.BatchNorm2d(32))
    coc.convert(model, method, config=coc.Config(init="kaiming"))
    with torch.no_grad():
        original = model[0].parametrizations.weight.original
        original += 0.7 * original[::4].repeat_interleave(4, 0)  # the first kernel of a group is in all of it
    found = claim_tests(model, "0", null=null, draws=39)["similarity"]
    assert found.p_greater == 1 / 40
    assert found.p_less == 1
    assert found.effect_size > 3
    assert found.null == null


def test_complementary_groups_are_found():
    model = untrained(0, kernels=32)
    with torch.no_grad():
        original = model[0].parametrizations.weight.original
        model[0].parametrizations.weight[0].super_kernel.mul_(0.1)
        for place in range(4):  # every kernel of a group has corners of its own
            original[place::4] *= 0.1
            original[place::4, :, 2 * (place // 2), 2 * (place % 2)] += 1
    found = claim_tests(model, "0", draws=39)
    assert found["support_overlap"].p_less == 1 / 40
    assert found["support_overlap"].effect_size < -3


def test_energy_that_has_learnt_where_its_super_kernel_leads_is_found():
    """Every kernel of a group has two sub-patterns, as far apart as its super kernel's one weak tap carries them."""
    model = untrained(0, kernels=64)
    original, association = model[0].parametrizations.weight.original, model[0].parametrizations.weight[0]
    corners = [((0, 0), (0, 2)), ((0, 1), (2, 1)), ((0, 0), (2, 2)), ((0, 2), (2, 0))]
    taps = [(1, 0), (0, 1), (0, 0), (0, 2)]
    with torch.no_grad():
        original.mul_(0.1)
        association.super_kernel.zero_()
        for group in range(16):
            for y, x in corners[group % 4]:
                original[4 * group : 4 * group + 4, :, y, x] += 1
            association.super_kernel[(0, group, *taps[group % 4])] = 0.1
    found = claim_tests(model, "0", draws=39)["energy"]
    assert found.p_greater == 1 / 40
    assert found.effect_size > 3


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("null", ["permuted", "normal", "kaiming"])
def test_what_is_drawn(null, groups):
    """Permuted kernels are the layer's own, within conv groups of several grids; the others have the right scale."""
    conv = nn.Conv2d(8, 64, 3, groups=groups)
    with torch.no_grad():
        conv.weight.mul_(0.3)
    coc.convert(nn.Sequential(conv), config=coc.Config(within_conv_groups=True))  # starts as the identity
    basic, seen = conv.weight.detach(), []
    null_tests(conv, lambda kernels: seen.append(kernels) or {}, null=null, draws=3)
    assert torch.equal(seen[0], basic)
    for drawn in seen[1:]:
        assert drawn.shape == basic.shape
        assert not torch.equal(drawn, basic)
        if null == "permuted":
            runs = groups if 64 // groups > 4 else 1
            for own, new in zip(basic.flatten(1).chunk(runs), drawn.flatten(1).chunk(runs), strict=True):
                assert torch.equal(own.sum(1).sort().values, new.sum(1).sort().values)
        elif null == "normal":
            assert float(drawn.std()) == pytest.approx(float(basic.std()), rel=0.15)
        else:
            bound = 1 / math.sqrt(8 // groups * 9)
            assert 0.95 * bound < float(drawn.abs().max()) <= bound


def test_the_maps_that_were_learnt_are_applied_to_what_is_drawn():
    model, seen = untrained(0), []
    grids = kernel_grids(model, "0")
    null_tests(model[0], lambda kernels: seen.append(kernels) or {}, draws=1, seed=3)
    generator = torch.Generator().manual_seed(3)
    torch.testing.assert_close(seen[0], grids.effective)
    permuted = grids.basic[torch.randperm(16, generator=generator)]
    torch.testing.assert_close(seen[1], effective_kernels(model[0], permuted))


def test_a_plain_conv_has_its_own_kernels_permuted():
    conv = nn.Conv2d(3, 16, 3)
    with torch.no_grad():
        conv.weight[4:8] = conv.weight[:4]
    members = torch.arange(16).view(8, 2)[:, [0, 1]]

    def statistic(kernels):
        return {"difference": kernel_similarity(kernels, members).similarity.difference}

    found = null_tests(conv, statistic, draws=9)["difference"]
    assert found.draws == 9
    assert found.p_greater > 0.1  # the copies stand in other groups


def test_draws_are_those_of_the_seed_and_leave_all_else_as_it_was():
    model = untrained(1)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (claim_tests(model, "0", draws=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert first == again != other
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_ranks():
    test = compare_with_null(2.0, [1.0, 2.0, 3.0, 4.0], "normal")
    assert (test.p_greater, test.p_less) == (4 / 5, 3 / 5)
    assert test.p_value("greater") == test.p_greater
    assert test.p_value("less") == test.p_less
    assert test.null_mean == 2.5
    assert test.effect_size == pytest.approx(-0.5 / np.std([1, 2, 3, 4], ddof=1))


def test_what_is_undefined_is_none():
    nothing = compare_with_null(None, [1.0], "normal")
    assert nothing.p_greater is nothing.null_mean is None
    assert compare_with_null(1.0, [], "normal").p_less is None
    alone = compare_with_null(1.0, [0.5], "normal")
    assert (alone.p_greater, alone.effect_size) == (0.5, None)
    assert compare_with_null(1.0, [1.0, 1.0], "normal").effect_size is None
    start = claim_tests(coc.CoC2d(3, 16, 3), draws=3)  # super kernels that are zero reflect nothing
    assert start["energy"].observed is None
    assert start["similarity"].observed is not None
    json.dumps([test.numbers() for test in [nothing, alone, *start.values()]], allow_nan=False)


def test_p_values_are_combined_by_scipy():
    tests = [compare_with_null(observed, list(range(9)), "normal") for observed in (8.5, 6.5, 3.5)]  # ranks 1, 3 and 6
    undefined = compare_with_null(None, [], "normal")
    for method in ("stouffer", "fisher"):
        expected = stats.combine_pvalues([0.05, 0.25, 0.55], method).pvalue
        assert combine_tests([*tests, undefined], "greater", method) == pytest.approx(expected)
    expected = stats.combine_pvalues([0.95, 0.75, 0.45], "stouffer").pvalue
    assert combine_tests(tests, "less") == pytest.approx(expected)
    assert combine_tests([undefined], "less") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"null": "shuffled"}, "null must be one of permuted, normal, kaiming; got 'shuffled'"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"layer": "1"}, "there is no layer '1'"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        claim_tests(untrained(0), **{"layer": "0", **arguments})
    with pytest.raises(ConfigError, match="0 is not associated"):
        claim_tests(nn.Sequential(nn.Conv2d(3, 4, 3)), "0")
