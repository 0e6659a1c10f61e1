"""Groups of other than consecutive kernels: permute, associate consecutive ones, permute back."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import associate_as, randomize, relative
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import convofconv as coc
from convofconv.functional.grid import Grid
from convofconv.functional.grouping import similar_order

GROUPINGS = ["random", "similar"]
groupings = pytest.mark.parametrize("grouping", GROUPINGS)


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=2),
        nn.BatchNorm2d(16),
    )


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8)


def association_of(model, name="0") -> coc.SpatialAssociation:
    return coc.kernel_maps(model.get_submodule(name))[0]


def is_order(order, blocks=1):
    return all(
        sorted(run.tolist()) == list(range(i * len(run), (i + 1) * len(run)))
        for i, run in enumerate(order.chunk(blocks))
    )


def gathered(conv, config):
    return coc.SpatialAssociation.for_conv(conv, config)


configs = st.builds(
    coc.Config,
    grid_side=st.integers(1, 3),
    depth=st.integers(1, 2),
    share=st.sampled_from(["input", "output", "both", "none"]),
    grid_norm=st.booleans(),
    within_conv_groups=st.booleans(),
    grouping=st.sampled_from(GROUPINGS),
)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_it_is_the_consecutive_association_of_permuted_kernels(config, groups, each, d, channels_last, seed):
    torch.manual_seed(seed)
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1]
    conv = make(2 * groups, each * groups, [3, 2, 1][:d], groups=groups, dtype=torch.float64)
    weight = conv.weight.detach()
    if channels_last:
        weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
    ours = gathered(conv, config)
    consecutive = gathered(conv, config.replace(grouping="consecutive"))
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == dict(consecutive.named_parameters()).keys()
    order = ours.order.tolist()
    assert is_order(ours.order, groups if config.within_conv_groups else 1)
    permuted = torch.stack([weight[kernel] for kernel in order])
    out = torch.func.functional_call(consecutive, parameters, (permuted,))
    expected = torch.stack([out[order.index(kernel)] for kernel in range(len(order))])
    found = ours(weight)
    assert relative(found, expected) < 1e-12
    assert found.stride() == weight.stride()
    assert relative(found, associate_as(ours, weight)) < 1e-11


@groupings
@pytest.mark.parametrize("channels_last", [False, True])
def test_right_inverse(grouping, channels_last):
    conv = nn.Conv2d(3, 7, 3, dtype=torch.float64)  # the last group is incomplete
    if channels_last:
        conv = conv.to(memory_format=torch.channels_last)
    for share in ("input", "both"):
        association = gathered(conv, coc.Config(grouping=grouping, share=share))
        nn.init.normal_(association.super_kernel, std=0.1)
        association.order.copy_(torch.tensor([4, 1, 6, 5, 0, 3, 2]))
        basic = association.right_inverse(conv.weight)
        assert relative(association(basic), conv.weight) < 1e-8
        assert basic.stride() == conv.weight.stride()


def test_solved_starts_keep_the_function(x):
    model = net().eval()
    expected = model(x)
    coc.convert(model, config=coc.Config(init="solve", grouping="random"))
    assert association_of(model).super_kernel.all()
    assert relative(model(x), expected) < 1e-3


def plant(copies, families, seed=0):
    """Kernels of so many families, shuffled; those of one family are nearly multiples of each other."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(families, 3, 3, 3, generator=generator)
    family = torch.arange(families).repeat_interleave(copies)[torch.randperm(families * copies, generator=generator)]
    scale = torch.rand(len(family), 1, 1, 1, generator=generator) + 0.5
    noise = torch.randn(len(family), 3, 3, 3, generator=generator)
    return scale * (prototypes[family] + 0.01 * noise), family


def test_near_duplicates_are_put_into_one_group():
    weight, family = plant(copies=4, families=5)
    conv = nn.Conv2d(3, 20, 3)
    conv.weight.data.copy_(weight)
    order = gathered(conv, coc.Config(grouping="similar")).order
    assert order.dtype == torch.int64
    groups = family[order].view(5, 4)
    assert (groups == groups[:, :1]).all()
    consecutive = family.view(5, 4)
    assert not (consecutive == consecutive[:, :1]).all()
    firsts = order.view(5, 4)[:, 0]
    assert firsts[0] == 0
    assert torch.equal(firsts, firsts.sort().values), "each group starts with the first kernel left"


def test_similar_is_greedy_by_cosine():
    """Against the definition, step by step: opposite kernels are not similar, length does not count."""
    weight = torch.randn(11, 2, 3, dtype=torch.float64) * torch.rand(11, 1, 1, dtype=torch.float64) * 10
    weight[7] = -weight[0]
    grid = Grid.build(weight.shape, side=4, extra_width=2, dilated=True)
    left, expected = list(range(11)), []
    while left:
        first = left.pop(0)
        left_by_cosine = sorted(
            left, key=lambda k: -nn.functional.cosine_similarity(weight[first].flatten(), weight[k].flatten(), dim=0)
        )
        expected += [first, *left_by_cosine[:3]]
        left = sorted(left_by_cosine[3:])
    assert similar_order(weight, grid).tolist() == expected
    assert similar_order(weight.bfloat16(), grid).shape == (11,)
    many = Grid.build((99, 2, 3), side=4, extra_width=2, dilated=True)
    assert similar_order(torch.zeros(99, 2, 3), many).tolist() == list(range(99)), "equally similar: the first ones"


def test_groups_stay_within_conv_groups():
    weight, _ = plant(copies=4, families=4)
    conv = nn.Conv2d(6, 16, 3, groups=2)
    conv.weight.data.copy_(weight)
    for grouping in GROUPINGS:
        assert is_order(gathered(conv, coc.Config(grouping=grouping, within_conv_groups=True)).order, 2)
        assert not is_order(gathered(conv, coc.Config(grouping=grouping)).order, 2)
    notes = coc.summary(coc.convert(copy.deepcopy(conv), config=coc.Config(grouping="random"))).convs[0].notes
    assert "grids straddle conv groups" in notes[0]
    inside = coc.Config(grouping="random", within_conv_groups=True)
    assert not coc.summary(coc.convert(conv, config=inside)).convs[0].notes


def test_random_draws_from_torchs_stream_and_no_other_grouping_does():
    def order(seed, grouping="random"):
        torch.manual_seed(seed)
        return gathered(conv, coc.Config(grouping=grouping)).order

    conv = nn.Conv2d(3, 32, 3)
    assert torch.equal(order(1), order(1))
    assert not torch.equal(order(1), order(2))
    assert order(1, "consecutive") is None
    assert torch.equal(order(1, "similar"), order(2, "similar"))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    coc.convert(conv, config=coc.Config(grouping="similar"))
    assert torch.equal(torch.rand(1), expected)


def test_consecutive_kernels_need_no_order():
    model = coc.convert(net())
    assert not dict(association_of(model).named_buffers())
    assert not [key for key in model.state_dict() if key.endswith("order")]


@groupings
def test_initialising_anew_keeps_the_order(grouping):
    conv = coc.convert(nn.Conv2d(3, 16, 3), config=coc.Config(grouping=grouping, init="kaiming"))
    association = association_of(conv, "")
    before, kernels = association.order.clone(), conv.parametrizations.weight.original.detach().clone()
    conv.reset_parameters()
    assert not torch.equal(conv.parametrizations.weight.original, kernels)
    assert torch.equal(association.order, before)


@groupings
def test_a_checkpoint_brings_the_order(grouping, x):
    config = coc.Config(grouping=grouping)
    trained = coc.convert(net(), "coc+stnd", config)
    randomize(trained)
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    expected = trained.eval()(x)
    same, rebuilt = coc.convert(net(), "coc+stnd", config), coc.convert_like(net(), state)
    copied = copy.deepcopy(trained)
    for model in (same, rebuilt, copied):
        if model is not copied:
            assert not torch.equal(association_of(model).order, association_of(trained).order)
            model.load_state_dict(state, strict=True)
        assert torch.equal(association_of(model).order, association_of(trained).order)
        assert association_of(model).config == config
        assert torch.equal(model.eval()(x), expected)
    plain = coc.reparameterize(trained)
    assert list(plain.state_dict()) == list(net().state_dict())
    assert coc.verify(trained, plain, x) <= 1e-5
    assert relative(trained[0].weight, _literal(trained[0])) < 1e-5


def _literal(conv):
    association, standardization = coc.kernel_maps(conv)
    return standardization(associate_as(association, conv.parametrizations.weight.original.detach()))


@groupings
def test_channels_last_and_half_networks(grouping, x):
    model = coc.convert(net(), config=coc.Config(grouping=grouping)).eval()
    randomize(model)
    expected, order = model(x), association_of(model).order.clone()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert last[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert relative(last(x), expected) < 1e-5
    half = copy.deepcopy(model).bfloat16()
    assert torch.equal(association_of(half).order, order)
    assert half(x.bfloat16()).isfinite().all()
    # Folded in float32 and rounded once.
    wide = associate_as(association_of(half).float(), half[0].parametrizations.weight.original.float())
    assert torch.equal(coc.reparameterize(half.bfloat16())[0].weight, wide.bfloat16())


@groupings
def test_a_meta_network_waits_for_its_checkpoint(grouping, x):
    config = coc.Config(grouping=grouping)
    trained = coc.convert(net(), config=config)
    randomize(trained)
    for assign in (True, False):
        with torch.device("meta"):
            model = net()
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        coc.convert(model, config=config)
        assert torch.equal(torch.rand(1), expected), "nothing is drawn that could not be kept"
        assert association_of(model).order.is_meta
        if not assign:
            model = model.to_empty(device="cpu")
            for conv in (model[0], model[3]):
                association_of(conv, "").order.fill_(99)  # what happened to be in that memory
            for module in model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            assert torch.equal(association_of(model).order, torch.arange(16)), "a legal order until then"
            assert model(x).isfinite().all()
        model.load_state_dict(trained.state_dict(), assign=assign)
        assert torch.equal(model.eval()(x), trained.eval()(x))


@groupings
def test_an_order_that_was_averaged_is_refused(grouping, x):
    """As timm's ModelEmaV2 does: every tensor of the state dict, integers too, which are rounded down."""
    model = coc.convert(net(), config=coc.Config(grouping=grouping))
    average = copy.deepcopy(model)
    average(x)
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            mean.copy_(0.9999 * mean + (1.0 - 0.9999) * value)
    broken = average.state_dict()
    with pytest.raises(coc.ShapeError, match="order of the kernels is none any more: something has averaged"):
        average.eval()(x)
    average.load_state_dict(model.state_dict())
    assert torch.equal(average.train()(x), model(x))
    average.load_state_dict({name: value.clone() for name, value in broken.items()})
    association_of(average).order.zero_()
    average.load_state_dict(average.state_dict())
    with pytest.raises(coc.ShapeError, match="order of the kernels is none any more"):
        average(x)


class Asked(TorchDispatchMode):
    """Counts how often Python asks a device for a value."""

    values = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.values += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return function(*arguments, **(keywords or {}))


@groupings
def test_buffers_may_be_written_between_a_forward_and_its_backward(grouping, x):
    """As DDP does before every forward, with what they hold; and nobody asks the device for the order each time."""
    model = coc.convert(net(), config=coc.Config(grouping=grouping))
    randomize(model)
    (2 * model(x)).square().mean().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    first = model(x)
    for name, buffer in model.named_buffers():
        if name.endswith("order"):  # batch norm's must not be written in between in a plain network either
            buffer.copy_(buffer.clone())
    with Asked() as asked:
        (first + model(x)).square().mean().backward()
    assert not asked.values
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert relative(parameter.grad, gradient) < 1e-5


def test_layers_group_similar_kernels_of_their_own():
    layer = coc.CoC2d(4, 16, 3, config=coc.Config(grouping="similar"))
    association = association_of(layer, "")
    assert torch.equal(association.order, similar_order(layer.weight, association.grid))
