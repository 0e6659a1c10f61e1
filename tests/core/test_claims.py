"""The paper's claims C1 to C4, as tests: what holds, what does not, and in which reading.

C1  the association gives kernels of the same shape at negligible extra cost
C2  re-parameterized, the network is a common one with the same outputs
C3  forward, CoC equals a common conv and an extra transform of its output channels
C4  backward, a kernel's gradient depends explicitly on the other kernels of its group
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference import randomize, relative
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convofconv as coc
from convofconv.functional.association import associate
from convofconv.functional.grid import Grid


def resnet_like(width: int) -> nn.Sequential:
    """The 3×3 convs of one ResNet stage after another, where the association's cost is largest relative to the conv."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in range(4):
        for _ in range(2):
            out = width * 2**stage
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def flops(model: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops()


def test_c1_same_shape_at_negligible_cost():
    """Arithmetic: less than 1 % more in a training step of batch 32 at 64 pixels. Time: see benchmarks/."""
    with torch.device("meta"):
        model, x = resnet_like(64), torch.empty(32, 3, 64, 64)
    shapes = [p.shape for p in model.parameters()]
    plain = flops(model, x)
    coc.convert(model)
    assert [conv.weight.shape for conv in model if isinstance(conv, nn.Conv2d)] == [s for s in shapes if len(s) == 4]
    assert 1 < flops(model, x) / plain < 1.01


@pytest.mark.parametrize("config", coc.PRESETS)
def test_c2_folded_is_a_common_network_with_the_same_outputs(config):
    model = coc.convert(resnet_like(4), config=config).double()
    randomize(model)
    plain = coc.reparameterize(model)
    assert [type(m) for m in plain.modules()] == [type(m) for m in resnet_like(4).modules()]
    assert list(plain.state_dict()) == list(resnet_like(4).state_dict())
    assert coc.verify(model, plain, torch.randn(2, 3, 32, 32).double(), tolerance=0) == 0


@pytest.fixture
def layer():
    weight = torch.randn(8, 3, 3, 3, dtype=torch.float64)
    grid = Grid.build(weight.shape, side=2, extra_width=2, dilated=True)
    super_kernel = torch.randn(1, *grid.super_shape("input"), dtype=torch.float64)
    image = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    return weight, grid, super_kernel, image


def test_c3_literally_is_refuted(layer):
    """ξ⁻¹(s ∗ ξ(b⁰ ∗ f)), with output maps in place of kernels, is another function than ξ⁻¹(s ∗ ξ(b⁰)) ∗ f."""
    weight, grid, super_kernel, image = layer
    ours = F.conv2d(image, associate(weight, super_kernel, grid, skip=False), padding=1)
    responses = F.conv2d(image, weight, padding=1)[0, :, None]  # (8, 1, 9, 9): a "kernel" of 9×9 per output channel
    on_maps = Grid(tuple(responses.shape), side=2, size=grid.size, dilation=grid.dilation)
    theirs = associate(responses, super_kernel, on_maps, skip=False)[None, :, 0]
    assert relative(theirs, ours) > 0.1


def test_c3_no_transform_across_output_channels_does_it(layer):
    """Nor does any other matrix across output channels: s also mixes taps inside a kernel."""
    weight, grid, super_kernel, _ = layer
    associated = associate(weight, super_kernel, grid, skip=False).flatten(1)
    # Is there a matrix M with M W = α(W)? Then M (W ∗ f) = α(W) ∗ f for every f.
    solution = torch.linalg.lstsq(weight.flatten(1).T, associated.T).solution.T
    assert relative(solution @ weight.flatten(1), associated) > 0.1


@pytest.mark.parametrize("share", ["input", "both"])
def test_c3_holds_for_unshifted_tap_responses(layer, share):
    """α commutes with the sum over input channels: apply it to the co·kh·kw tap responses, then shift and add."""
    weight, grid, _, image = layer
    super_kernel = torch.randn(2, *grid.super_shape(share), dtype=torch.float64)
    expected = F.conv2d(image, associate(weight, super_kernel, grid, share=share), padding=1)

    taps = torch.einsum("oipq,ihw->ohwpq", weight, image[0])  # a 1×1 conv per tap, nothing summed over taps yet
    as_weight = taps.flatten(1, 2)  # (8, 81 positions in the place of input channels, 3, 3)
    grid_of_maps = Grid(tuple(as_weight.shape), 2, grid.size, grid.dilation)
    mixed = associate(as_weight, super_kernel, grid_of_maps, share=share).view(8, 9, 9, 3, 3)

    found = torch.zeros_like(expected)
    padded = F.pad(mixed, (0, 0, 0, 0, 1, 1, 1, 1))
    for p in range(3):
        for q in range(3):
            found[0] += padded[:, p : p + 9, q : q + 9, p, q]
    assert relative(found, expected) < 1e-12


def test_c3_fails_where_super_kernels_differ_by_input_channel(layer):
    """Then α is no transform of the outputs at all: two inputs with equal tap responses get different outputs."""
    weight, grid, _, _ = layer
    super_kernel = torch.randn(1, *grid.super_shape("output"), dtype=torch.float64)
    weight = weight[:, :1].expand(-1, 3, -1, -1).contiguous()  # all input channels have the same kernels
    associated = associate(weight, super_kernel, grid, share="output")
    first, second = torch.zeros(2, 1, 3, 9, 9, dtype=torch.float64)
    first[0, 0, 4, 4] = second[0, 1, 4, 4] = 1
    assert torch.equal(F.conv2d(first, weight), F.conv2d(second, weight))
    assert relative(F.conv2d(first, associated), F.conv2d(second, associated)) > 0.1


def gradients(weight, super_kernel, grid, upstream, norm=None):
    weight, super_kernel = weight.clone().requires_grad_(), super_kernel.clone().requires_grad_()
    associate(weight, super_kernel, grid, norm=norm).backward(upstream)
    return weight.grad, super_kernel.grad


@pytest.fixture
def backward(layer):
    weight, grid, super_kernel, _ = layer
    upstream = torch.randn_like(weight)
    others = weight.clone()
    others[1:4] += torch.randn_like(others[1:4])  # the other kernels of the first group
    other_upstream = upstream.clone()
    other_upstream[1:4] += torch.randn_like(upstream[1:4])
    return weight, others, super_kernel, grid, upstream, other_upstream


def test_c4_a_linear_association_passes_on_the_others_gradients_not_their_values(backward):
    weight, others, super_kernel, grid, upstream, other_upstream = backward
    mine, _ = gradients(weight, super_kernel, grid, upstream)
    with_other_values, _ = gradients(others, super_kernel, grid, upstream)
    with_other_gradients, _ = gradients(weight, super_kernel, grid, other_upstream)
    assert torch.equal(with_other_values[0], mine[0])
    assert relative(with_other_gradients[0], mine[0]) > 0.1
    # ... while kernels of another group do not matter, and a common conv (s = 0) knows no others at all.
    assert torch.equal(with_other_gradients[4:], mine[4:])
    common, _ = gradients(weight, 0 * super_kernel, grid, other_upstream)
    assert torch.equal(common[0], upstream[0])


def test_c4_the_super_kernels_gradient_depends_on_all_values(backward):
    weight, others, super_kernel, grid, upstream, _ = backward
    _, mine = gradients(weight, super_kernel, grid, upstream)
    _, with_other_values = gradients(others, super_kernel, grid, upstream)
    assert relative(with_other_values[:, 0], mine[:, 0]) > 0.1
    assert torch.equal(with_other_values[:, 1], mine[:, 1])


def test_c4_with_a_norm_in_between_the_values_count_too(backward):
    weight, others, super_kernel, grid, upstream, _ = backward
    norm = (torch.ones(2, 4, 3, 3, dtype=torch.float64), torch.zeros(2, 4, 3, 3, dtype=torch.float64))
    mine, _ = gradients(weight, super_kernel, grid, upstream, norm)
    with_other_values, _ = gradients(others, super_kernel, grid, upstream, norm)
    assert relative(with_other_values[0], mine[0]) > 0.01
