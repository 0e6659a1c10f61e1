"""Similarity within groups and between them, on kernels whose similarity is known, and by brute force."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convofconv as coc
from convofconv.errors import ConfigError, ShapeError
from convofconv.lab.inspect.kernel_grids import kernel_grids
from convofconv.lab.inspect.kernel_similarity import (
    best_cosines,
    kernel_similarity,
    layer_similarity,
    spectrum_overlaps,
    support_overlaps,
)

SHAPES = [(5, 2, 4), (5, 3, 3, 3), (5, 2, 2, 5), (4, 2, 2, 3, 2)]


def placed(pattern, corner, size=5):
    """A kernel that is zero except for a pattern at a corner, ``(1, channels, size, size)``."""
    kernel = pattern.new_zeros(1, pattern.shape[0], size, size)
    kernel[0, :, corner[0] : corner[0] + pattern.shape[1], corner[1] : corner[1] + pattern.shape[2]] = pattern
    return kernel


def test_shifted_copies_of_either_sign_have_similarity_1():
    pattern = torch.randn(3, 2, 3, dtype=torch.float64)
    corners = [(0, 0), (3, 2), (1, 0), (0, 2)]
    kernels = torch.cat([sign * placed(pattern, corner) for sign, corner in zip((1, -2, 3, -1), corners, strict=True)])
    torch.testing.assert_close(best_cosines(kernels), torch.ones(4, 4, dtype=torch.float64))
    torch.testing.assert_close(spectrum_overlaps(kernels), torch.ones(4, 4, dtype=torch.float64))


def test_what_a_shift_pushes_out_of_the_window_costs_similarity():
    kernels = torch.zeros(2, 1, 3, dtype=torch.float64)
    kernels[0, 0], kernels[1, 0] = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.0, 0.0, 5.0])
    assert float(best_cosines(kernels)[0, 1]) == pytest.approx(4 / 5)


def test_kernels_of_other_channels_are_orthogonal_wherever_they_are_shifted():
    kernels = torch.zeros(3, 3, 3, 3)
    for channel in range(3):
        kernels[channel, channel] = torch.randn(3, 3)
    torch.testing.assert_close(best_cosines(kernels), torch.eye(3))


def test_disjoint_supports_do_not_overlap_and_equal_ones_do():
    left, right, all_taps = torch.zeros(3, 1, 2, 3, 3)
    left[:, :, 0], right[:, :, 1:], all_taps[:] = 1, 2, -1
    overlaps = support_overlaps(torch.stack([left[0], right[0], all_taps[0]]))
    torch.testing.assert_close(overlaps, torch.tensor([[1, 0, 1 / 3], [0, 1, 2 / 3], [1 / 3, 2 / 3, 1]]))


def test_spectra_of_a_mean_and_of_a_difference_overlap_little():
    mean, edge = torch.ones(1, 1, 7), torch.tensor([[[-1.0, 1, -1, 1, -1, 1, -1]]])
    assert float(spectrum_overlaps(torch.cat([mean, edge]))[0, 1]) < 0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_measures_by_brute_force(shape):
    kernels = torch.randn(shape, dtype=torch.float64)
    sizes, axes = shape[2:], tuple(range(1, len(shape) - 1))
    canvas = F.pad(kernels, [pad for k in reversed(sizes) for pad in (k - 1, k - 1)])
    spectra = np.abs(np.fft.fftn(kernels.numpy(), [2 * k - 1 for k in sizes], [a + 1 for a in axes])) ** 2
    for i, j in itertools.product(range(shape[0]), repeat=2):
        shifts = itertools.product(*(range(1 - k, k) for k in sizes))
        shifted = [torch.roll(canvas[j], shift, axes) for shift in shifts]  # zeros all around: nothing wraps
        cosines = [float((canvas[i] * s).sum() / kernels[i].norm() / kernels[j].norm()) for s in shifted]
        assert float(best_cosines(kernels)[i, j]) == pytest.approx(max(map(abs, cosines)))
        energies = [kernels[n].square().sum(0) / kernels[n].square().sum() for n in (i, j)]
        assert float(support_overlaps(kernels)[i, j]) == pytest.approx(float(torch.minimum(*energies).sum()))
        powers = [spectra[n].sum(0) / spectra[n].sum() for n in (i, j)]
        assert float(spectrum_overlaps(kernels)[i, j]) == pytest.approx(np.minimum(*powers).sum())


def test_pairs_within_and_between_groups():
    kernels, members = torch.randn(7, 2, 3, 3, dtype=torch.float64), torch.tensor([[6, 0], [3, 2], [1, -1], [5, 4]])
    found = kernel_similarity(kernels, members)
    within, between = [], []
    group = {6: 0, 0: 0, 3: 1, 2: 1, 1: 2, 5: 3, 4: 3}
    for i, j in itertools.combinations(range(7), 2):
        (within if group[i] == group[j] else between).append(float(best_cosines(kernels)[i, j]))
    contrast = found.similarity
    assert (contrast.within_pairs, contrast.between_pairs) == (len(within), len(between)) == (3, 18)
    assert contrast.within == pytest.approx(np.mean(within))
    assert contrast.between == pytest.approx(np.mean(between))
    assert contrast.difference == pytest.approx(np.mean(within) - np.mean(between))
    pooled = (2 * np.var(within, ddof=1) + 17 * np.var(between, ddof=1)) / 19
    assert contrast.effect_size == pytest.approx(contrast.difference / pooled**0.5)


def test_planted_groups_have_a_large_effect():
    patterns = torch.randn(8, 4, 2, 2)
    corners = itertools.product(range(2), repeat=2)
    kernels = torch.cat([placed(patterns[g], corner, 3) for corner in corners for g in range(8)])
    found = kernel_similarity(kernels, torch.arange(32).view(4, 8).T)
    assert found.similarity.within == pytest.approx(1)
    assert found.similarity.between < 0.6
    assert found.similarity.effect_size > 3
    assert found.support_overlap.difference < 0  # the same pattern, elsewhere: similar yet complementary


def test_what_is_undefined_is_none():
    kernels = torch.randn(4, 1, 3, 3)
    one_group = kernel_similarity(kernels, torch.tensor([[0, 1, 2, 3]])).similarity
    assert one_group.between is one_group.difference is one_group.effect_size is None
    alone = kernel_similarity(kernels, torch.arange(4).view(4, 1)).similarity
    assert alone.within is alone.effect_size is None
    kernels[1:3] = 0
    found = kernel_similarity(kernels, torch.tensor([[0, 1], [2, 3]]))
    assert found.zero_kernels == 2
    assert found.similarity.within_pairs == 0
    assert found.similarity.between_pairs == 1
    nothing = kernel_similarity(torch.zeros(4, 1, 3, 3), torch.tensor([[0, 1], [2, 3]]))
    assert nothing.similarity.between is None
    equal = kernel_similarity(torch.ones(4, 1, 3, 3), torch.tensor([[0, 1], [2, 3]])).support_overlap
    assert equal.difference == 0
    assert equal.effect_size is None
    json.dumps([nothing.numbers(), found.numbers()], allow_nan=False)


def test_single_taps_have_one_place():
    found = kernel_similarity(torch.randn(8, 5, 1, 1), torch.arange(8).view(2, 4))
    assert found.support_overlap.within == found.spectrum_overlap.between == pytest.approx(1)


def test_of_many_groups_some_are_drawn_by_the_seed():
    kernels, members = torch.randn(80, 2, 3, 3), torch.arange(80).view(20, 4)
    found = [kernel_similarity(kernels, members, most_groups=5, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert (found[0].groups, found[0].of_groups, found[0].similarity.within_pairs) == (5, 20, 30)


def test_basic_and_effective_kernels_of_a_layer():
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 16, 3)), config=coc.Config(init="kaiming"))
    grids = kernel_grids(model, "0")
    found = layer_similarity(grids)
    assert found["basic"] == kernel_similarity(grids.basic, grids.members)
    assert found["effective"] == kernel_similarity(grids.effective, grids.members)
    assert found["basic"] != found["effective"]


def test_what_is_refused():
    with pytest.raises(ConfigError, match="most_groups must be at least 2"):
        kernel_similarity(torch.zeros(4, 1, 3, 3), torch.arange(4).view(2, 2), most_groups=1)
    with pytest.raises(ShapeError, match="no groups of kernels"):
        kernel_similarity(torch.zeros(3, 1, 3, 3), torch.arange(4).view(2, 2))
