"""Penalties against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import convofconv as coc


def test_soft_orthogonality_is_its_definition():
    weight = torch.randn(6, 3, 3, 3, dtype=torch.float64)
    columns = weight.flatten(1).T
    expected = ((columns.T @ columns - torch.eye(6)) ** 2).sum()
    assert coc.so_penalty(weight).item() == pytest.approx(expected.item(), rel=1e-12)
    halves = sum(coc.so_penalty(half).item() for half in weight.chunk(2))
    assert coc.so_penalty(weight, groups=2).item() == pytest.approx(halves, rel=1e-12)


def test_srip_converges_to_the_largest_singular_value():
    weight = torch.randn(6, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    rows = weight.detach().flatten(1)
    expected = torch.linalg.matrix_norm(rows @ rows.T - torch.eye(6), ord=2).item()
    penalty = coc.srip_penalty(weight, iterations=500)
    assert penalty.item() == pytest.approx(expected, rel=1e-6)
    penalty.backward()
    direct = weight.detach().clone().requires_grad_()
    flat = direct.flatten(1)
    torch.linalg.matrix_norm(flat @ flat.T - torch.eye(6), ord=2).backward()
    assert torch.allclose(weight.grad, direct.grad, rtol=1e-4, atol=1e-6)
    assert coc.srip_penalty(weight, iterations=1).item() <= expected * (1 + 1e-12)


@pytest.mark.parametrize("iterations", [1, 2, 50])
def test_srip_of_eigenvalues_of_both_signs(iterations):
    """Kernels twice: half of the residual's eigenvalues are 1, the others -1, and no vector is better than another."""
    weight = torch.eye(8, dtype=torch.float64).repeat(2, 1).view(16, 8, 1, 1).requires_grad_()
    penalty = coc.srip_penalty(weight, iterations=iterations)
    assert penalty.item() == pytest.approx(1)
    penalty.backward()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "stride"), [((4, 3, 3, 3), 1), ((4, 2, 3, 3), 2), ((3, 2, 5, 2), 2), ((4, 2, 4), 3), ((3, 2, 2, 1, 3), 1)]
)
def test_ocnn_is_the_overlap_of_every_pair_of_kernels(shape, stride):
    """Literally: shift one kernel against the other by every multiple of the stride and sum the products."""
    weight = torch.randn(shape, dtype=torch.float64)
    kernel = shape[2:]
    expected = 0.0
    shifts = torch.cartesian_prod(
        *[torch.tensor([s for s in range(-k + 1, k) if s % stride == 0]) for k in kernel]
    ).reshape(-1, len(kernel))
    for a in range(shape[0]):
        for b in range(shape[0]):
            for shift in shifts.tolist():
                mine = weight[a][
                    (slice(None), *[slice(max(-s, 0), k - max(s, 0)) for k, s in zip(kernel, shift, strict=True)])
                ]
                other = weight[b][
                    (slice(None), *[slice(max(s, 0), k - max(-s, 0)) for k, s in zip(kernel, shift, strict=True)])
                ]
                target = 1.0 if a == b and not any(shift) else 0.0
                expected += ((mine * other).sum().item() - target) ** 2
    assert coc.ocnn_penalty(weight, stride).item() == pytest.approx(expected, rel=1e-10)


def test_ocnn_means_that_the_conv_keeps_lengths():
    """A kernel with zero penalty preserves the norm of what it transposes: check on a shift kernel."""
    weight = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    weight[0, 1, 0, 2] = weight[1, 0, 1, 1] = 1
    assert coc.ocnn_penalty(weight).item() == 0
    y = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    assert F.conv_transpose2d(y, weight).norm().item() == pytest.approx(y.norm().item())
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    halves = sum(coc.ocnn_penalty(half).item() for half in weight.chunk(2))
    assert coc.ocnn_penalty(weight, groups=2).item() == pytest.approx(halves, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: coc.so_penalty(torch.zeros(4, 4)), coc.ShapeError, r"got shape \(4, 4\)"),
        (
            lambda: coc.so_penalty(torch.zeros(4, 4, 3), groups=3),
            coc.ConfigError,
            "divide the 4 output channels, got 3",
        ),
        (lambda: coc.srip_penalty(torch.zeros(4, 4, 3), iterations=0), coc.ConfigError, "at least one iteration"),
        (lambda: coc.ocnn_penalty(torch.zeros(4, 4)), coc.ShapeError, "d of 1, 2 or 3"),
        (lambda: coc.ocnn_penalty(torch.zeros(4, 4, 3), stride=0), coc.ConfigError, "stride must be at least 1"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
