"""Depthwise over-parameterization against its formula (Cao et al., TIP 2022)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import randomize, relative
from torch import nn

import convofconv as coc


def literal(weight, d, groups=1):
    """W'[o, i, m] = W[o, i, m] + Σ_s W[o, i, s] D[j, s, m], the positions of a kernel numbered in order, j the channel
    of the layer that the kernel's channel i meets."""
    flat = weight.flatten(2)
    co, ci, k = flat.shape
    found = torch.zeros_like(flat)
    for o, i, m in itertools.product(range(co), range(ci), range(k)):
        j = o // (co // groups) * ci + i
        found[o, i, m] = flat[o, i, m] + sum(flat[o, i, s] * d[j, s, m] for s in range(k))
    return found.view_as(weight)


def random_map(shape, std=1.0, groups=1):
    over = coc.DepthwiseOverparameterization(shape, groups, dtype=torch.float64)
    nn.init.normal_(over.depthwise_kernel, std=std)
    return over


shapes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=3)).filter(
    lambda parts: math.prod(parts[2]) <= 12
)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_it_is_its_formula_and_right_inverse_is_one(parts, groups, channels_last, seed):
    shape = (groups * parts[0], parts[1], *parts[2])
    torch.manual_seed(seed)
    weight = torch.randn(shape, dtype=torch.float64)
    if channels_last:
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    over = random_map(shape, groups=groups)
    found = over(weight)
    assert relative(found, literal(weight, over.depthwise_kernel.detach(), groups)) < 1e-12
    assert (found.shape, found.stride()) == (weight.shape, weight.stride())
    near = random_map(shape, std=0.05, groups=groups)  # far from singular
    basic = near.right_inverse(weight)
    assert relative(near(basic), weight) < 1e-10
    assert not torch.equal(basic, weight)
    assert basic.stride() == weight.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_starts_as_the_identity_and_learns(dtype):
    conv = nn.Conv2d(4, 6, 3, groups=2, dtype=dtype)
    over = coc.DepthwiseOverparameterization.for_conv(conv, coc.Config())
    assert over.depthwise_kernel.shape == (4, 9, 9)
    assert over.depthwise_kernel.dtype == dtype
    assert torch.equal(over(conv.weight), conv.weight)
    assert over.right_inverse(conv.weight) is conv.weight, "nothing to solve"
    over(conv.weight).square().sum().backward()
    assert over.depthwise_kernel.grad.any()
    nn.init.normal_(over.depthwise_kernel)
    assert not torch.equal(over(conv.weight), conv.weight)
    over.reset_parameters()
    assert torch.equal(over(conv.weight), conv.weight)
    assert coc.DepthwiseOverparameterization((6, 2, 3), device="meta").depthwise_kernel.is_meta


def test_a_singular_one_says_so():
    over = random_map((4, 2, 3, 3))
    with torch.no_grad():
        over.depthwise_kernel[1] = -torch.eye(9)  # W' = W - W in the second channel
    with pytest.raises(coc.ShapeError, match="the over-parameterization is singular"):
        over.right_inverse(torch.randn(4, 2, 3, 3))


def test_autocast_does_not_round_the_identity():
    weight = torch.randn(4, 2, 3, 3)
    over = coc.DepthwiseOverparameterization(weight.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(over(weight), weight)
        nn.init.normal_(over.depthwise_kernel)
        assert over(weight).dtype == weight.dtype


def test_assigned_kernels_are_solved_for_through_both_maps():
    conv = coc.convert(nn.Conv2d(3, 8, 3, dtype=torch.float64), "coc+doconv")
    randomize(conv, scale=0.05)
    kernels = torch.randn(8, 3, 3, 3, dtype=torch.float64)
    conv.weight = kernels
    assert relative(conv.weight, kernels) < 1e-9
    assert not torch.allclose(conv.parametrizations.weight.original, kernels)
