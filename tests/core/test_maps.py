"""Kernel maps: starts, inverses and definitions."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from reference import associate_as, randomize, relative, standardize
from torch import nn

import convofconv as coc

CONFIGS = {
    "poster": coc.Config(),
    "released": coc.PRESETS["released"],
    "lightweight": coc.PRESETS["lightweight"],
    "standardized super kernel, no norm": coc.Config(standardize_super_kernel=True),
    "stacked": coc.Config(depth=3),
    "stacked, normed": coc.Config(depth=2, grid_norm=True),
    "no skip": coc.Config(skip=False),
    "no skip, stacked, dense super kernel": coc.Config(skip=False, depth=2, dilated=False),
    "per input channel": coc.Config(share="output"),
    "one for the layer": coc.Config(share="both", standardize_super_kernel=True),
    "dense": coc.Config(share="none"),
    "dense, no skip": coc.Config(share="none", skip=False),
    "dense, standardized, stacked": coc.Config(share="none", standardize_super_kernel=True, depth=2),
    "within conv groups": coc.Config(within_conv_groups=True),
    "random groups": coc.Config(grouping="random"),
    "random groups within conv groups, normed": coc.Config(grouping="random", within_conv_groups=True, grid_norm=True),
    "large grid": coc.Config(grid_side=4, extra_width=4),
}
SHAPES = [(8, 3, 3, 3), (7, 2, 2, 4), (6, 1, 5), (9, 2, 3, 1, 2)]
all_configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
all_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@all_configs
@all_shapes
def test_identity_start_keeps_every_bit_and_is_no_saddle(config, shape):
    weight = torch.randn(shape, requires_grad=True)
    association = coc.SpatialAssociation(shape, config)
    out = association(weight)
    assert torch.equal(out, weight)
    assert out.stride() == weight.stride()
    (out * torch.randn_like(out)).sum().backward()
    assert weight.grad.isfinite().all()
    grads = [p.grad for p in association.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)
    assert any(g.any() for g in grads), "a dead saddle: no parameter of the association can learn"


@all_configs
def test_a_few_steps_move_every_parameter(config):
    shape = (8, 3, 3, 3)
    weight, target = torch.randn(shape), torch.randn(shape)
    association = coc.SpatialAssociation(shape, config)
    before = [p.detach().clone() for p in association.parameters()]
    optimizer = torch.optim.SGD(association.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        F.mse_loss(association(weight), target).backward()
        optimizer.step()
    for old, (name, new) in zip(before, association.named_parameters(), strict=True):
        assert new.isfinite().all()
        moved = (new - old).flatten(1).abs().amax(1) if name == "super_kernel" else (new - old).abs().amax()
        assert (moved > 0).all(), name


@all_configs
@all_shapes
def test_random_parameters_equal_the_literal_steps(config, shape):
    weight = torch.randn(shape, dtype=torch.float64)
    association = coc.SpatialAssociation(shape, config, dtype=torch.float64)
    for parameter in association.parameters():
        nn.init.normal_(parameter)
    assert relative(association(weight), associate_as(association, weight)) < 1e-12


@all_configs
@pytest.mark.parametrize("d", [2, 3])
def test_a_network_goes_to_channels_last(config, d):
    layer, memory_format = ((coc.CoC2d, torch.channels_last), (coc.CoC3d, torch.channels_last_3d))[d - 2]
    model = nn.Sequential(layer(3, 8, 3, config=config), layer(8, 5, (2, 3, 1)[:d], config=config))
    randomize(model.double())
    images = torch.randn(2, 3, *[6] * d, dtype=torch.float64)
    expected = model(images)
    model.to(memory_format=memory_format)
    assert model[0].weight.is_contiguous(memory_format=memory_format)
    assert relative(model(images), expected) < 1e-12


@pytest.mark.parametrize("share", ["input", "output", "both", "none"])
def test_kaiming_start_has_the_papers_spread(share):
    shape, config = (256, 64, 3, 3), coc.Config(share=share, init="kaiming")
    association = coc.SpatialAssociation(shape, config)
    fan_out = {"input": 64 * 9, "output": 64 * 9, "both": 9, "none": 64 * 9}[share]
    draws = [association.super_kernel.detach().clone()]
    for _ in range(20 if share != "both" else 200):
        association.reset_parameters()
        draws.append(association.super_kernel.detach().clone())
    assert not torch.equal(draws[0], draws[1])
    assert torch.cat(draws).std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_the_identity_start_leaves_the_random_stream_alone():
    """Plain and converted networks of one seed see the same data order and dropout."""
    found = {}
    for config in (None, "poster", "released"):
        net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
        torch.manual_seed(3)
        if config:
            coc.convert(net, config=config)
        found[config] = torch.rand(1)
    assert torch.equal(found["poster"], found[None])
    assert not torch.equal(found["released"], found[None]), "nothing was measured"


@all_configs
@all_shapes
def test_right_inverse_is_one_where_it_exists(config, shape):
    association = coc.SpatialAssociation(shape, config, dtype=torch.float64)
    weight = torch.randn(shape, dtype=torch.float64)
    if config.skip:
        assert association.right_inverse(weight) is weight, "the identity start needs no solving"
    for parameter in association.parameters():
        nn.init.normal_(parameter, std=0.2)
    incomplete = association.grid.missing > 0
    if config.grid_norm or config.share == "none" or (config.share == "output" and incomplete):
        with pytest.raises(NotImplementedError):
            association.right_inverse(weight)
    else:
        basic = association.right_inverse(weight)
        assert relative(association(basic), weight) < 1e-8
        assert not torch.allclose(basic, weight)


def test_solving_leaves_nothing_in_memory():
    association = coc.SpatialAssociation((8, 2, 3, 3, 5), coc.Config(init="kaiming"))
    weight = torch.randn(8, 2, 3, 3, 5)

    gc.collect()
    gc.freeze()  # what there was before is not listed any more
    association.right_inverse(weight)
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]


def test_right_inverse_of_a_singular_association_says_so():
    association = coc.SpatialAssociation((4, 2, 3, 3))
    with torch.no_grad():
        association.super_kernel.zero_()
        association.super_kernel[0, :, 1, 1] = -1  # α(W) = W - W
    with pytest.raises(coc.ShapeError, match="the association is singular"):
        association.right_inverse(torch.randn(4, 2, 3, 3))


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (5, 1, 3), (4, 2, 3, 1, 2)])
def test_standardization_is_its_definition(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    assert relative(coc.Standardization()(weight), standardize(weight)) < 1e-13


def test_standardization_of_a_constant_kernel_has_finite_gradients():
    weight = torch.zeros(4, 3, 3, 3, requires_grad=True)
    coc.Standardization()(weight).sum().backward()
    assert weight.grad.isfinite().all()


def test_kernel_layer_norm_is_its_definition():
    weight = torch.randn(8, 3, 3, 3, dtype=torch.float64)
    norm = coc.KernelLayerNorm((3, 3, 3), dtype=torch.float64)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    normal = centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    assert relative(norm(weight), normal * norm.norm_weight + norm.norm_bias) < 1e-13
    with pytest.raises(coc.ShapeError, match=r"for kernels \(3, 3, 3\), got \(8, 5, 3, 3\)"):
        norm(torch.randn(8, 5, 3, 3))


def literal_oni(rows, iterations, scale):
    """Huang et al. 2020, algorithm 2, on a matrix of kernels."""
    centred = rows - rows.mean(1, keepdim=True)
    v = centred / torch.linalg.matrix_norm(centred @ centred.T).sqrt()
    s = v @ v.T
    b = torch.eye(len(s), dtype=rows.dtype)
    for _ in range(iterations):
        b = 1.5 * b - 0.5 * torch.linalg.matrix_power(b, 3) @ s
    return scale * b @ v


@pytest.mark.parametrize("iterations", [1, 3, 5])  # beyond that the literal form drowns in its rounding errors
@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (40, 3, 3, 3), (6, 2, 3), (4, 2, 2, 1, 2)], ids=str)
def test_orthogonalization_is_newtons_iteration(shape, iterations):
    """The second shape has more kernels than numbers in one: there we iterate on the smaller Gram matrix."""
    weight = torch.randn(shape, dtype=torch.float64)
    found = coc.Orthogonalization(iterations, scale=1.3)(weight)
    assert relative(found.flatten(1), literal_oni(weight.flatten(1), iterations, 1.3)) < 1e-10


def test_orthogonalization_makes_rows_or_columns_orthogonal():
    tight = coc.Orthogonalization(iterations=40, scale=1.0)
    rows = tight(torch.randn(8, 3, 3, 3, dtype=torch.float64)).flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(8, dtype=torch.float64), atol=1e-8)
    rows = tight(torch.randn(50, 3, 3, 3, dtype=torch.float64)).flatten(1)
    singular = torch.linalg.svdvals(rows)
    # Centring takes one of the 27 directions; all others have length one.
    assert torch.allclose(singular, torch.tensor([1.0] * 26 + [0.0], dtype=torch.float64), atol=1e-6)


def test_orthogonalization_works_per_conv_group_and_has_gradients():
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    grouped = coc.Orthogonalization(groups=2)
    halves = torch.cat([coc.Orthogonalization()(half) for half in weight.chunk(2)])
    assert relative(grouped(weight), halves) < 1e-12
    zero = torch.zeros(4, 2, 3, 3, requires_grad=True)
    coc.Orthogonalization()(zero).sum().backward()
    assert zero.grad.isfinite().all()


def test_orthogonalization_computes_in_float32_under_autocast():
    weight = torch.randn(8, 3, 3, 3)
    expected = coc.Orthogonalization()(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(coc.Orthogonalization()(weight), expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: coc.SpatialAssociation("8333"), coc.ArgumentTypeError, "needs the shape of a conv weight"),
        (lambda: coc.SpatialAssociation((8, 3)), coc.ShapeError, r"d of 1, 2 or 3; got \(8, 3\)"),
        (lambda: coc.SpatialAssociation((8, 3, 3, 3), "best"), coc.ConfigError, "no preset is called 'best'"),
        (
            lambda: coc.SpatialAssociation((8, 3, 1, 1), coc.Config(standardize_super_kernel=True, extra_width=0)),
            coc.ConfigError,
            "one tap .* cannot be standardized; set extra_width to 2",
        ),
        (lambda: coc.SpatialAssociation((8, 3, 3, 3))(torch.zeros(4, 3, 3, 3)), coc.ShapeError, "built for weights"),
        (lambda: coc.DepthwiseOverparameterization("8333"), coc.ArgumentTypeError, "needs the shape of a conv weight"),
        (lambda: coc.DepthwiseOverparameterization((8, 3)), coc.ShapeError, r"d of 1, 2 or 3; got \(8, 3\)"),
        (
            lambda: coc.DepthwiseOverparameterization((8, 3, 3, 3))(torch.zeros(8, 4, 3, 3)),
            coc.ShapeError,
            r"for kernels \(3, 3, 3\), got \(8, 4, 3, 3\)",
        ),
        (
            lambda: coc.SpatialAssociation((8, 3, 3, 3), coc.Config(grouping="similar")),
            coc.ConfigError,
            'grouping="similar" compares the kernels of a weight',
        ),
        (lambda: coc.Orthogonalization(iterations=0), coc.ConfigError, "iterations ≥ 1"),
        (lambda: coc.Orthogonalization(scale=-1), coc.ConfigError, "scale > 0"),
        (lambda: coc.Standardization.for_conv(nn.Conv2d(4, 4, 1, groups=4), coc.Config()), coc.ConfigError, "single"),
        (lambda: coc.KernelLayerNorm.for_conv(nn.Conv2d(4, 4, 1, groups=4), coc.Config()), coc.ConfigError, "single"),
        (lambda: coc.Orthogonalization.for_conv(nn.Conv2d(4, 4, 1, groups=4), coc.Config()), coc.ConfigError, "single"),
    ],
)
def test_mistakes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_maps_show_their_configuration():
    assert repr(coc.SpatialAssociation((8, 3, 3, 3))) == (
        "SpatialAssociation(2 groups of 2×2 kernels, super kernel 3×3 dilation 2×2, share='input')"
    )
    text = repr(coc.SpatialAssociation((8, 3, 3, 3), coc.PRESETS["released"].replace(depth=2)))
    assert "depth=2" in text
    assert "grid_norm=True" in text
    assert "grouping" not in text
    assert "grouping='random'" in repr(coc.SpatialAssociation((8, 3, 3, 3), coc.Config(grouping="random")))
    assert repr(coc.DepthwiseOverparameterization((8, 3, 3, 1))) == "DepthwiseOverparameterization((3, 3, 1))"
    assert repr(coc.Orthogonalization(groups=2)) == "Orthogonalization(iterations=5, scale=1.414, groups=2)"
