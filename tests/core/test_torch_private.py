"""What is not public in torch does what this package takes it for; torch may change any of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from convofconv import torch_private as private


class Double(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return 2 * weight


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3)


def test_one_class_stands_for_all_convs():
    convs = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LazyConv2d, nn.ConvTranspose2d)
    assert all(issubclass(cls, private.ConvNd) for cls in convs)
    assert [issubclass(cls, private.ConvTransposeNd) for cls in convs] == [False] * 4 + [True]
    assert not issubclass(nn.Linear, private.ConvNd)


def test_tensors_without_values():
    assert private.has_values(torch.ones(2))
    assert not private.has_values(torch.ones(2, device="meta"))
    with FakeTensorMode() as mode:
        assert not private.has_values(mode.from_tensor(torch.ones(2)))


def test_writes_are_counted():
    tensor = torch.ones(2)
    before = private.writes(tensor)
    assert private.writes(tensor) == before
    tensor.mul_(2)
    assert private.writes(tensor) > before
    with torch.inference_mode():
        assert private.writes(torch.ones(2)) == 0


def test_batched_tensors():
    found = []

    def function(x):
        found.append((private.is_batched(x), private.is_transforming(), private.is_tracing()))
        return x

    torch.func.vmap(function)(torch.ones(2, 3))
    x = torch.ones(2, requires_grad=True)
    x.mul(2).register_hook(lambda grad: found.append((private.is_batched(grad), False, False)))
    assert found == [(True, True, True)]
    assert not private.is_batched(x)
    assert not private.is_tracing()


def test_gradients_batched_by_autograd():
    x, found = torch.ones(2, requires_grad=True), []
    y = x * 2
    y.register_hook(lambda grad: found.append(private.is_batched(grad)))
    torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True)
    assert found == [True]


def test_hooks_of_parameters():
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        parameter = nn.Parameter(torch.ones(1))
        assert not private.has_tensor_hooks(parameter)
        handle = getattr(parameter, register)(lambda *_: None)
        assert private.has_tensor_hooks(parameter)
        handle.remove()
        assert not private.has_tensor_hooks(parameter)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_trace_is_noticed():
    found = []

    class Noticing(nn.Module):
        def forward(self, x):
            found.append((private.is_jit_tracing(), private.is_tracing()))
            return x + 1

    torch.jit.trace(Noticing(), torch.ones(2), check_trace=False)
    assert found == [(True, True)]
    assert not private.is_jit_tracing()


@pytest.mark.skipif(not private.CAN_SAY_WHERE_IT_SAVES, reason="torch before 2.8 cannot say")
def test_activation_checkpointing_is_noticed():
    found = []

    def function(x):
        found.append(private.saves_elsewhere())
        return x * x

    checkpoint(function, torch.ones(2, requires_grad=True), use_reentrant=False)
    with torch.autograd.graph.save_on_cpu():
        function(torch.ones(2))
    assert found == [True, True]
    assert not private.saves_elsewhere()


def test_a_modules_own_dictionaries():
    module = nn.BatchNorm2d(3)
    module.part = nn.Linear(1, 1)
    assert list(private.parameters_of(module)) == ["weight", "bias"]
    assert list(private.buffers_of(module)) == ["running_mean", "running_var", "num_batches_tracked"]
    assert private.modules_of(module) == {"part": module.part}


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_pre_hook",
        "register_forward_hook",
        "register_full_backward_pre_hook",
        "register_full_backward_hook",
    ],
)
def test_a_hooked_module(register):
    module = conv()
    assert not private.is_hooked(module)
    handle = getattr(module, register)(lambda *_: None)
    assert private.is_hooked(module)
    handle.remove()
    assert not private.is_hooked(module)


def test_hooks_of_a_copy_are_removed():
    calls = []

    def before(*_):
        calls.append("before")

    def after(*_):
        calls.append("after")

    module = conv()
    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)
    twin = copy.deepcopy(module)
    assert (private.forward_pre_hooks(twin), private.forward_hooks(twin)) == ((before,), (after,))
    private.remove_forward_hooks(twin, before, after)
    twin(torch.ones(1, 3, 3, 3))
    with pytest.raises(RuntimeError):
        twin(torch.ones(1, 2, 3, 3))
    assert calls == []
    module(torch.ones(1, 3, 3, 3))
    assert calls == ["before", "after"]


def test_a_load_hook_of_a_copy_is_removed():
    calls = []

    def hook(*_):
        calls.append(1)

    module = conv()
    module.register_load_state_dict_pre_hook(hook)
    twin = copy.deepcopy(module)
    twin.load_state_dict(module.state_dict())
    assert calls == [1]
    private.remove_load_hook(twin, hook)
    twin.load_state_dict(module.state_dict())
    assert calls == [1]


@pytest.mark.slow
def test_a_compiled_module():
    module = conv()
    assert not private.is_compiled(module)
    module.compile(backend="eager")
    assert private.is_compiled(module)


def test_frames():
    def asks():
        return private.caller()

    frame = asks()
    assert frame is not None
    assert frame.f_code.co_name == "test_frames"
    assert private.is_running(frame)

    def ended():
        return asks()

    assert not private.is_running(ended())


def test_the_modules_that_a_function_runs_in():
    found = []

    class Part(nn.Module):
        def forward(self, x):
            found.extend(private.modules_running(private.caller()))
            return x

    model = nn.Sequential(part := Part())
    model(torch.ones(1))
    assert found == [part, model]
    found.clear()
    model.register_forward_pre_hook(lambda *_: found.extend(private.modules_running(private.caller())))
    model(torch.ones(1))
    assert found[0] is model


def test_functional_call_is_noticed():
    found = []

    class Computed(nn.Module):
        @property
        def scale(self):
            return torch.ones(1)

        @scale.setter
        def scale(self, value):
            # Between this and who assigns is Module.__setattr__.
            found.append(private.is_functional_call(private.caller().f_back))

        def forward(self, x):
            return x

    module = Computed()
    module.scale = torch.zeros(1)
    assert found == [False]
    torch.func.functional_call(module, {"scale": torch.zeros(1)}, torch.ones(1))
    assert found == [False, True, True]  # set, and set back


class Conv(nn.Conv2d):
    """Of these tests alone: other tests convert convs of torch's class."""


def shared() -> nn.Conv2d:
    module = Conv(3, 4, 3)
    parametrize.register_parametrization(module, "weight", Double())
    private.share_class(module, lambda computed: {"weight": computed, "answer": 42})
    return module


def test_modules_of_one_class_share_one():
    one, other, linear = shared(), shared(), nn.Linear(2, 2)
    parametrize.register_parametrization(linear, "weight", Double())
    private.share_class(linear, lambda computed: {"weight": computed})
    assert type(one) is type(other)
    assert type(one) is not type(linear)
    assert not private.share_class(one, lambda computed: {})
    assert (one.answer, private.original_class(one)) == (42, Conv)
    assert isinstance(one, nn.Conv2d)
    assert type(type(one)(3, 4, 3)) is Conv
    assert torch.equal(one.weight, 2 * private.parametrizations_of(one).original)
    assert private.parametrizations_of(nn.ReLU()) is None


def test_what_one_leaves_the_others_keep():
    one, other = shared(), shared()
    original = private.parametrizations_of(one).original
    private.leave_shared_class(one)
    private.replace_parameters(one, {"weight": original, **private.parameters_of(one)})
    assert type(one) is Conv
    assert list(one.state_dict()) == ["weight", "bias"]
    assert torch.equal(other.weight, 2 * private.parametrizations_of(other).original)


def test_another_parametrization_stays_when_one_leaves():
    module = conv()
    parametrize.register_parametrization(module, "bias", Double())
    parametrize.register_parametrization(module, "weight", Double())
    private.share_class(module, lambda computed: {"weight": computed})
    bias = module.bias.clone()
    original = private.parametrizations_of(module).original
    private.leave_shared_class(module)
    private.replace_parameters(module, {"weight": original, **private.parameters_of(module)})
    assert torch.equal(module.bias, bias)
    assert module.weight is original
    assert copy.deepcopy(module).bias.equal(bias)


def test_torch_may_parametrize_what_shares_a_class():
    one, other = shared(), shared()
    private.give_own_class(one)
    assert type(one) is not type(other)
    parametrize.register_parametrization(one, "bias", Double())
    assert torch.equal(one.bias, 2 * one.parametrizations.bias.original)
    assert not parametrize.is_parametrized(other, "bias")
    other.bias.data.fill_(1)
    assert other.bias.eq(1).all()
