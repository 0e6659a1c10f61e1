"""The association against the paper's steps written literally, over everything that can be configured."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import associate as literal
from reference import relative
from torch._subclasses.fake_tensor import FakeTensorMode

from convofconv.errors import ShapeError
from convofconv.functional.association import associate
from convofconv.functional.grid import Grid, super_kernel_axis
from convofconv.functional.precision import in_float64
from convofconv.functional.super_matrix import choose_way, super_matrix, super_matrix_adjoint

SHAPES = {
    "3x3": (8, 3, 3, 3),
    "5x5": (4, 2, 5, 5),
    "7x7 stem": (8, 3, 7, 7),
    "even": (8, 3, 2, 4),
    "rectangular": (8, 3, 1, 3),
    "1x1": (8, 3, 1, 1),
    "1-d": (6, 3, 3),
    "3-d": (8, 2, 3, 1, 2),
    "depthwise": (10, 1, 3, 3),
    "incomplete": (7, 3, 3, 3),
    "fewer than a grid": (3, 2, 3, 3),
    "one kernel": (1, 1, 3, 3),
}


def random_case(shape, *, side=2, extra=2, dilated=True, share="input", depth=1, blocks=1, dtype=torch.float64):
    grid = Grid.build(shape, side, extra, dilated, blocks)
    weight = torch.randn(shape, dtype=dtype)
    super_kernel = torch.randn(depth, *grid.super_shape(share), dtype=dtype)
    return grid, weight, super_kernel


def check(grid, weight, super_kernel, share="input", skip=True, norm=None):
    expected = literal(
        weight,
        super_kernel,
        side=grid.side,
        dilation=grid.dilation,
        share=share,
        skip=skip,
        norm=norm,
        blocks=grid.blocks,
    )
    for way in ("direct",) if share == "none" else ("matmul", "index", "direct"):
        found = associate(weight, super_kernel, grid, share=share, skip=skip, norm=norm, way=way)
        assert relative(found, expected) < (1e-12 if weight.dtype == torch.float64 else 1e-5), way
        assert weight.numel() == 1 or found.stride() == weight.stride(), way


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("share", ["input", "output", "both", "none"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_share_mode_and_shape(shape, share, dtype):
    for side, skip, depth in itertools.product((1, 2, 3), (True, False), (1, 2)):
        check(*random_case(shape, side=side, share=share, depth=depth, dtype=dtype), share=share, skip=skip)


@pytest.mark.parametrize("dilated", [True, False])
@pytest.mark.parametrize("extra", [0, 1, 2, 4, 6])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_width(shape, extra, dilated):
    check(*random_case(shape, extra=extra, dilated=dilated))


@pytest.mark.parametrize("share", ["input", "output", "both", "none"])
@pytest.mark.parametrize("shape", [s for s in SHAPES.values() if s[0] > 1], ids=lambda s: "x".join(map(str, s)))
def test_grid_norm(shape, share):
    for skip, depth in itertools.product((True, False), (1, 3)):
        grid, weight, super_kernel = random_case(shape, share=share, depth=depth)
        norm = tuple(torch.randn(grid.groups, grid.cells, *grid.kernel, dtype=weight.dtype) for _ in range(2))
        check(grid, weight, super_kernel, share=share, skip=skip, norm=norm)


@pytest.mark.parametrize(("channels", "blocks"), [(8, 2), (12, 4), (10, 2), (6, 6)])
def test_grids_inside_conv_groups(channels, blocks):
    grid, weight, super_kernel = random_case((channels, 2, 3, 3), blocks=blocks, depth=2)
    norm = tuple(torch.randn(grid.groups, grid.cells, 3, 3, dtype=weight.dtype) for _ in range(2))
    check(grid, weight, super_kernel)
    check(grid, weight, super_kernel, norm=norm)
    # Nothing crosses a block: kernels of the first one do not feel the others.
    changed = weight.clone()
    changed[channels // blocks :] += 1
    first = slice(channels // blocks)
    assert torch.equal(
        associate(weight, super_kernel, grid, way="direct")[first],
        associate(changed, super_kernel, grid, way="direct")[first],
    )


@st.composite
def any_case(draw):
    d = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, {1: 9, 2: 5, 3: 3}[d]), min_size=d, max_size=d))
    side = draw(st.integers(1, {1: 8, 2: 4, 3: 2}[d]))
    blocks = draw(st.integers(1, 3))
    shape = (blocks * draw(st.integers(1, 9)), draw(st.integers(1, 4)), *kernel)
    share = draw(st.sampled_from(["input", "output", "both", "none"]))
    settings_ = {"side": side, "extra": draw(st.integers(0, 5)), "dilated": draw(st.booleans())}
    return shape, share, settings_, draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans()), blocks


@settings(max_examples=150, deadline=None)
@given(any_case())
def test_random_shapes(case):
    shape, share, options, depth, skip, channels_last, blocks = case
    grid, weight, super_kernel = random_case(shape, share=share, depth=depth, blocks=blocks, **options)
    if channels_last:
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    check(grid, weight, super_kernel, share=share, skip=skip)


@pytest.mark.parametrize("way", ["matmul", "index", "direct"])
@pytest.mark.parametrize("share", ["input", "output", "both"])
@pytest.mark.parametrize("shape", [(5, 2, 3, 3), (4, 1, 2), (8, 1, 2, 1, 2)])
def test_gradients_of_first_and_second_order(shape, share, way):
    grid, weight, super_kernel = random_case(shape, share=share, depth=2)
    gain, bias = (torch.randn(grid.groups, grid.cells, *grid.kernel, dtype=weight.dtype) for _ in range(2))
    inputs = tuple(t.requires_grad_() for t in (weight, super_kernel))

    def linear(w, s):
        return associate(w, s, grid, share=share, way=way)

    def normed(w, s, a, b):
        return associate(w, s, grid, share=share, norm=(a, b), way=way)

    assert torch.autograd.gradcheck(linear, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(linear, inputs, fast_mode=True)
    inputs = (*inputs, gain.requires_grad_(), bias.requires_grad_())
    assert torch.autograd.gradcheck(normed, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(normed, inputs, fast_mode=True)


def test_gradients_of_the_dense_super_kernel():
    grid, weight, super_kernel = random_case((5, 2, 3, 3), share="none")
    inputs = (weight.requires_grad_(), super_kernel.requires_grad_())
    assert torch.autograd.gradcheck(lambda w, s: associate(w, s, grid, share="none"), inputs)
    assert torch.autograd.gradgradcheck(lambda w, s: associate(w, s, grid, share="none"), inputs)


@pytest.mark.parametrize("way", ["matmul", "index", "direct"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_bound(dtype, way):
    """|error| ≤ eps · (|W| + α₀(|W|)), with α₀ the association without skip by |s|: two roundings of half an eps."""
    grid, weight, super_kernel = random_case((32, 16, 3, 3), dtype=dtype)
    exact = [t.double() for t in (weight, super_kernel)]
    expected = literal(*exact, side=2, dilation=grid.dilation)
    size = exact[0].abs() + literal(*[t.abs() for t in exact], side=2, dilation=grid.dilation, skip=False)
    error = (associate(weight, super_kernel, grid, way=way).double() - expected).abs()
    assert (error <= torch.finfo(dtype).eps * size).all()
    assert (error > 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["matmul", "index", "direct"])
def test_autocast(way, dtype):
    """|error| ≤ eps · (|W| + 1.5 α₀(|W|)): W, s and the result are rounded once each, by half an eps."""
    grid, weight, super_kernel = random_case((32, 16, 3, 3), dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        found = associate(weight, super_kernel, grid, way=way)
    assert found.dtype == dtype
    exact = [t.double() for t in (weight, super_kernel)]
    expected = literal(*exact, side=2, dilation=grid.dilation)
    update = literal(*[t.abs() for t in exact], side=2, dilation=grid.dilation, skip=False)
    error = (found.double() - expected).abs()
    assert (error <= torch.finfo(dtype).eps * (exact[0].abs() + 1.5 * update)).all()
    assert (error > 0).any()


def test_autocast_changes_nothing_at_the_identity():
    """What the plain network's convolution does to its weight, and no second rounding."""
    grid, weight, super_kernel = random_case((32, 16, 3, 3), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(associate(weight, torch.zeros_like(super_kernel), grid), weight.bfloat16())


def test_autocast_leaves_float64_alone():
    grid, weight, super_kernel = random_case((8, 4, 3, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = associate(weight, super_kernel, grid)
    assert torch.equal(found, associate(weight, super_kernel, grid))


def test_missing_kernels_are_fixed_zeros():
    """An incomplete group behaves like a complete one whose other kernels are zero, and gets no gradient for them."""
    grid, weight, super_kernel = random_case((6, 3, 3, 3))
    full = torch.cat([weight, torch.zeros(2, 3, 3, 3, dtype=weight.dtype)])
    full_grid = Grid.build(full.shape, 2, 2, True)
    expected = associate(full, super_kernel, full_grid)[:6]
    assert relative(associate(weight, super_kernel, grid), expected) < 1e-12


@pytest.mark.parametrize(
    ("kernel", "extra", "expected"),
    [
        *[(3, skp, v) for skp, v in {0: (3, 1), 2: (3, 2), 4: (3, 3), 6: (5, 2)}.items()],
        *[(5, skp, v) for skp, v in {0: (3, 3), 2: (5, 2), 4: (5, 3), 6: (5, 4)}.items()],
        *[(7, skp, v) for skp, v in {0: (5, 2), 2: (5, 3), 4: (5, 4), 6: (7, 3)}.items()],
    ],
)
def test_dilated_sizes_are_the_papers_table(kernel, extra, expected):
    assert super_kernel_axis(kernel, extra, dilated=True) == expected
    assert super_kernel_axis(kernel, extra, dilated=False) == (kernel + extra, 1)


@given(st.integers(1, 40), st.integers(0, 20))
def test_dilated_sizes_elsewhere_follow_the_rule(kernel, extra):
    size, dilation = super_kernel_axis(kernel, extra, dilated=True)
    assert size % 2 == 1
    if kernel in (3, 5, 7) and extra in (0, 2, 4, 6):
        return
    span = kernel + extra
    assert 1 <= dilation <= 3
    assert 1 + (size - 1) * dilation >= span
    if size > 1:
        assert 1 + (size - 1) * (dilation - 1) < span, "a smaller dilation would do"
        assert 1 + (size - 3) * 3 < span, "fewer taps would do"


def test_the_cheaper_way_is_chosen_by_cost():
    def way(shape, side=2):
        return choose_way(Grid.build(shape, side, 2, True), "input")

    assert way((64, 64, 3, 3)) == way((512, 512, 3, 3)) == way((512, 1, 3, 3)) == "matmul"
    assert way((64, 3, 7, 7)) == "direct"
    assert way((64, 64, 3, 3), side=8) == "direct"
    assert choose_way(Grid.build((8, 8, 3, 3), 2, 2, True), "none") == "direct"
    # The matrices that shift a grid by each tap would take 500 MB, for good: they are made by an index instead.
    assert {way((512, 512, 5, 5, 5)), choose_way(Grid.build((512, 512, 5, 5, 5), 2, 2, True), "both")} == {"index"}
    assert way((16, 1, 5, 5, 5)) == way((32, 16, 5, 5, 5)) == way((32, 32, 7, 7, 7)) == "direct"
    assert way((64, 64, 5, 5, 5)) == "index"
    assert way((512, 512, 7, 7, 7)) == "direct", "matrices of 2 GB"


@pytest.mark.parametrize("shape", [(4, 2, 2, 3), (4, 2, 5, 5), (5, 2, 3), (8, 2, 3, 2, 1)])
def test_matrices_made_by_an_index_are_those_made_by_a_product(shape):
    """Both ways and their backwards, which are linear in the super kernel: entry by entry, and sum by sum."""
    grid, _, super_kernel = random_case(shape, extra=1, side=3)
    matrices = super_matrix(super_kernel[0], grid, "index")
    assert torch.equal(matrices, super_matrix(super_kernel[0], grid, "matmul"))
    upstream = torch.randn_like(matrices)
    (expected,) = torch.autograd.functional.vjp(lambda s: super_matrix(s, grid, "matmul"), super_kernel[0], upstream)[
        1:
    ]
    for way in ("matmul", "index"):
        assert relative(super_matrix_adjoint(upstream, grid, way), expected) < 1e-12


@pytest.mark.parametrize("first", ["fake", "inference", "autocast"])
def test_the_mode_of_the_first_call_does_not_poison_later_ones(first):
    """The shift matrices are cached; what a tracer, inference mode or autocast makes of them must not stay there."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    modes = {
        "fake": FakeTensorMode,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }
    shape = (8, 3, 3, 4 + list(modes).index(first))  # a geometry that nothing else uses
    grid = Grid.build(shape, 2, 3, False)
    with modes[first]():
        associate(torch.randn(shape), torch.randn(1, *grid.super_shape("input")), grid, way="matmul")
    weight = torch.randn(shape, requires_grad=True)
    super_kernel = torch.randn(1, *grid.super_shape("input"), requires_grad=True)
    associate(weight, super_kernel, grid, way="matmul").sum().backward()
    assert weight.grad is not None
    assert super_kernel.grad is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(8, 3, 3, 5)}, r"built for weights of shape \(8, 3, 3, 3\), got \(8, 3, 3, 5\)"),
        ({"super_kernel": torch.zeros(1, 3, 3, 3)}, r"must have shape \(depth, 2, 3, 3\), got \(1, 3, 3, 3\)"),
        ({"super_kernel": torch.zeros(0, 2, 3, 3)}, r"got \(0, 2, 3, 3\)"),
        ({"super_kernel": torch.zeros(1, 2, 3, 3, dtype=torch.float64)}, "one dtype and device.*float32.*float64"),
    ],
)
def test_wrong_tensors_are_named(change, message):
    arguments = {"weight": torch.zeros(8, 3, 3, 3), "super_kernel": torch.zeros(1, 2, 3, 3)} | change
    with pytest.raises(ShapeError, match=message):
        associate(**arguments, grid=Grid.build((8, 3, 3, 3), 2, 2, True))


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 1, 1, 1, 1), (0, 3, 3, 3)])
def test_only_conv_weights_have_grids(shape):
    with pytest.raises(ShapeError, match="a conv weight has shape"):
        Grid.build(shape, 2, 2, True)


def test_float64_is_computed_on_the_cpu_where_a_device_has_none():
    with FakeTensorMode():  # there need be no such device
        wide = in_float64(torch.empty(2, device="mps"))
    assert (wide.device.type, wide.dtype) == ("cpu", torch.float64)


@pytest.mark.parametrize("way", ["matmul", "index", "direct"])
def test_half_precision_keeps_small_updates(way):
    """With the skip inside the matrix, 1 + 0.003 would be 1 in bfloat16, and all of this update lost."""
    grid, weight, super_kernel = random_case((64, 64, 3, 3), dtype=torch.bfloat16)
    super_kernel = torch.zeros_like(super_kernel)
    super_kernel[..., 1, 1] = 0.003
    found = associate(weight, super_kernel, grid, way=way).double() - weight.double()
    assert (found * weight).sum() / weight.double().square().sum() == pytest.approx(0.003, rel=0.02)
