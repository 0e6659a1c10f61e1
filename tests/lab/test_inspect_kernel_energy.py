"""The energy of groups and their super kernels: by brute force, by impulses through α, and where it was planted."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

import convofconv as coc
from convofconv.errors import ConfigError
from convofconv.lab.inspect.kernel_energy import energy_correlation, energy_maps, lag_correlations, tap_magnitudes
from convofconv.lab.inspect.kernel_grids import kernel_grids


def converted(channels=3, kernels=16, size=3, conv=nn.Conv2d, **settings):
    model = coc.convert(nn.Sequential(conv(channels, kernels, size)), config=coc.Config(init="kaiming", **settings))
    return model.double()


def parts(model):
    return model[0].parametrizations.weight.original, model[0].parametrizations.weight[0]


def test_energy_maps_are_sums_of_squares_in_the_grid():
    grids = kernel_grids(converted(), "0")
    maps = energy_maps(grids, grids.effective)
    assert maps.shape == (4, 6, 6)
    assert float(maps[2, 4, 1]) == pytest.approx(float(grids.effective[10, :, 1, 1].square().sum()))


def test_correlations_at_lags_by_brute_force():
    maps = torch.rand(2, 5, 6, dtype=torch.float64)
    lags = [(0, 1), (2, -1), (1, 0), (3, 3)]
    found = lag_correlations(maps, lags)
    for group, (column, lag) in itertools.product(range(2), enumerate(lags)):
        pairs = [
            (maps[group, y, x], maps[group, y + lag[0], x + lag[1]])
            for y, x in itertools.product(range(5), range(6))
            if 0 <= y + lag[0] < 5 and 0 <= x + lag[1] < 6
        ]
        expected = np.corrcoef(np.array(pairs).T)[0, 1]
        assert float(found[group, column]) == pytest.approx(expected)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("share", ["input", "output", "both", "none"])
@pytest.mark.parametrize("extra_width", [1, 2])  # super kernels of even and of odd size
def test_taps_connect_what_lies_a_lag_apart(share, depth, extra_width):
    """An impulse in the middle of a grid without a skip leaves the energy of a tap at minus the tap's lag."""
    settings = {"share": share, "depth": depth, "skip": False, "grid_side": 6, "dilated": extra_width == 2}
    model = converted(2, 36, extra_width=extra_width, **settings)
    lags, magnitudes = tap_magnitudes(kernel_grids(model, "0"))
    original, _ = parts(model)
    energy = torch.zeros(18, 18, dtype=torch.float64)
    for channel in range(2 if share in ("output", "none") else 1):
        with torch.no_grad():
            original.zero_()
            original[21, channel, 0, 0] = 1  # row 3, column 3 of the cells: position (9, 9)
        grids = kernel_grids(model, "0")
        energy += energy_maps(grids, grids.effective)[0]
    for lag, magnitude in zip(lags, magnitudes[0], strict=True):
        expected = (energy[9 - lag[0], 9 - lag[1]] + energy[9 + lag[0], 9 + lag[1]]).sqrt()
        torch.testing.assert_close(magnitude, expected)
    assert float(magnitudes[0].square().sum() + energy[9, 9]) == pytest.approx(float(energy.sum()))


def test_the_centre_and_lags_that_leave_the_grid_are_left_out():
    lags, _ = tap_magnitudes(kernel_grids(converted(), "0"))
    assert sorted(lags) == [(0, 2), (2, -2), (2, 0), (2, 2)]
    lags, _ = tap_magnitudes(kernel_grids(converted(kernels=3, conv=nn.Conv1d, extra_width=6, grid_side=1), "0"))
    assert lags == []  # of one cell of three taps


def test_sub_patterns_that_lie_as_the_taps_do_are_found():
    """One small pattern per group, copied by strong taps that differ between groups."""
    torch.manual_seed(0)
    model = converted(4, 64)
    original, association = parts(model)
    with torch.no_grad():
        original.mul_(0.01)
        association.super_kernel.zero_()
        for group in range(16):
            original[4 * group + group % 4, :, group % 3, 1] = 1
            tap = [(0, 0), (0, 1), (1, 0), (0, 2)][group // 4]
            association.super_kernel[0, group, tap[0], tap[1]] = 1
            association.super_kernel[0, group, 2 - tap[0], 2 - tap[1]] = 1
    grids = kernel_grids(model, "0")
    found = energy_correlation(grids)
    assert found.own > 0.8
    assert found.own - found.others == pytest.approx(found.difference)
    assert found.effect_size > 1
    assert found.own == pytest.approx(np.mean(found.of_groups))
    assert abs(energy_correlation(grids, grids.basic).own) < 0.5  # there is one pattern per group before α


def test_own_and_others_by_brute_force():
    grids = kernel_grids(converted(2, 24, 5), "0")
    found = energy_correlation(grids)
    lags, magnitudes = tap_magnitudes(grids)
    at_lags = lag_correlations(energy_maps(grids, grids.effective), lags)
    table = np.array([[np.corrcoef(r, m)[0, 1] for m in magnitudes.numpy()] for r in at_lags.numpy()])
    own, others = np.diag(table), table[~np.eye(6, dtype=bool)]
    assert found.of_groups == pytest.approx(own)
    assert found.others == pytest.approx(others.mean())
    pooled = ((len(own) - 1) * own.var(ddof=1) + (len(others) - 1) * others.var(ddof=1)) / (len(own) + len(others) - 2)
    assert found.effect_size == pytest.approx((own.mean() - others.mean()) / pooled**0.5)
    assert found.lags == len(lags) == 12


def test_what_is_undefined_is_none():
    start = energy_correlation(kernel_grids(coc.CoC2d(3, 16, 3)))  # super kernels that are zero
    assert start.own is start.others is start.difference is start.effect_size is None
    assert start.of_groups == (None,) * 4
    assert energy_correlation(kernel_grids(converted(conv=nn.Conv1d), "0")).own is None  # a single lag
    shared = energy_correlation(kernel_grids(converted(share="both"), "0"))
    assert shared.own is not None
    assert shared.others is None
    incomplete = energy_correlation(kernel_grids(converted(kernels=6), "0"))
    assert incomplete.of_groups[0] is not None
    assert incomplete.of_groups[1] is incomplete.others is None
    constant = kernel_grids(converted(), "0")
    assert energy_correlation(constant, torch.ones_like(constant.basic)).own is None
    json.dumps([start.numbers(), incomplete.numbers()], allow_nan=False)


def test_a_layer_without_super_kernels_is_refused():
    with pytest.raises(ConfigError, match="Conv2d has no super kernels"):
        energy_correlation(kernel_grids(nn.Conv2d(3, 8, 3)))
