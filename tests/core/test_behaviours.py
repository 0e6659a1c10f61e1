"""What every kernel map must do, whatever it computes: one table, MAPS × BEHAVIOURS.

A behaviour is a test that takes the name of a map; a map is a line of ``map_cases.py``. What a map computes is tested
against its definition elsewhere (``test_maps.py``, ``test_association.py``, ``test_overparameterization.py``).
"""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
import torch._dynamo.testing
from map_cases import (
    CONFIGURATIONS,
    MAPS,
    ONE_BY_ONE,
    Net,
    converted_convs,
    converted_net,
    every_configuration,
    every_map,
    keeps_the_function,
    plain_net,
    trained_net,
)
from reference import randomize, relative
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from watching import gradients, same

import convofconv as coc

LAYERS = {1: (coc.CoC1d, nn.Conv1d), 2: (coc.CoC2d, nn.Conv2d), 3: (coc.CoC3d, nn.Conv3d)}
#: Input channels per group, output channels per group, groups, kernel.
GEOMETRIES = {
    "2-d": (3, 8, 1, (3, 3)),
    "incomplete grids": (2, 7, 1, (3, 3)),
    "fewer kernels than a grid": (3, 1, 1, (3, 3)),
    "even kernel": (2, 4, 1, (2, 4)),
    "grouped": (2, 4, 2, (3, 3)),
    "depthwise": (1, 1, 6, (3, 3)),
    "1-d": (2, 6, 1, (5,)),
    "3-d": (2, 4, 1, (2, 1, 3)),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)
each_half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, dtype=torch.float64)


def layer_of(name: str, geometry: str, dtype: torch.dtype | None = None) -> nn.Module:
    method, config = MAPS[name]
    ci, co, groups, kernel = GEOMETRIES[geometry]
    make = LAYERS[len(kernel)][0]
    return make(groups * ci, groups * co, kernel, groups=groups, method=method, config=config).to(dtype)


def image_for(layer: nn.Module) -> torch.Tensor:
    return torch.randn(2, layer.in_channels, *[6] * len(layer.kernel_size), dtype=layer.bias.dtype)


def chain(name: str, *widths: int) -> nn.Sequential:
    """Layers in a row, few, for what takes long."""
    layers = [
        nn.Sequential(nn.Conv2d(*pair, 3, padding=1), nn.BatchNorm2d(pair[1]), nn.Tanh())
        for pair in itertools.pairwise(widths)
    ]
    model = coc.convert(nn.Sequential(*layers), *MAPS[name])
    randomize(model)
    return model


def input_of_maps(layer: nn.Module) -> tuple[nn.Module, list[str], list[torch.Tensor]]:
    """What computes a layer's weight, as a function of basic kernels and everything that the maps learn."""
    maps = layer.parametrizations.weight
    return maps, [name for name, _ in maps.named_parameters()], [p.detach() for p in maps.parameters()]


def layout_of(tensor: torch.Tensor) -> list[int]:
    """The strides that count."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


# ---- the start, shapes and layouts


@every_map
def test_smoke(name, x):
    """Converted, listed, run, backpropagated; the start is the identity for those that say so, and no saddle."""
    plain = plain_net(name).double()
    model = coc.convert(copy.deepcopy(plain), *MAPS[name])
    assert len(converted_convs(model)) == 6
    assert "6 of 6 convs converted" in str(coc.summary(model))
    for conv in converted_convs(model):
        assert all(repr(m) in repr(model).replace("\n", "").replace("  ", "") for m in coc.kernel_maps(conv))
    assert torch.equal(model(x), plain(x)) == keeps_the_function(model)
    for parameter, grad in gradients(model, x).items():
        assert (grad is None) == parameter.startswith("body.3"), parameter
        assert grad is None or grad.isfinite().all(), parameter
    for conv in converted_convs(model)[:-1]:
        grads = [p.grad for m in coc.kernel_maps(conv) for p in m.parameters()]
        assert not grads or any(grad.any() for grad in grads), "a dead saddle: no parameter of the maps can learn"


@every_map
@every_geometry
def test_shape_dtype_and_memory_format(name, geometry):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        layer = layer_of(name, geometry, dtype=dtype)
        randomize(layer)
        maps, names, (weight, *learnt) = input_of_maps(layer)
        for channels_last in (False, True):
            if channels_last:
                weight = weight.movedim(1, -1).contiguous().movedim(-1, 1)
            out = torch.func.functional_call(maps, dict(zip(names, (weight, *learnt), strict=True)), ())
            assert (out.shape, out.dtype, out.stride()) == (weight.shape, dtype, weight.stride())


@every_map
@every_geometry
def test_cardinality(name, geometry):
    """Convs of every geometry run, learn in all their parts and are folded to the bit."""
    layer = layer_of(name, geometry)
    randomize(layer)
    y = image_for(layer)
    assert all(grad is not None and grad.isfinite().all() for grad in gradients(layer, y).values())
    plain = coc.reparameterize(layer)
    assert type(plain) is LAYERS[len(layer.kernel_size)][1]
    assert torch.equal(plain.weight, layer.weight)
    assert torch.equal(plain(y), layer(y))


@every_map
def test_channels_last_networks(name, x):
    model = trained_net(name)
    expected, plain = model(x), coc.reparameterize(model)
    x = x.to(memory_format=torch.channels_last)
    for network in (model, plain):
        network.to(memory_format=torch.channels_last)
    convs = [module for module in plain.modules() if isinstance(module, nn.Conv2d)]
    for mine, theirs in zip(converted_convs(model), convs, strict=True):
        assert layout_of(mine.weight) == layout_of(theirs.weight)
    assert relative(model(x), expected) < 1e-12
    assert model.stem(x).is_contiguous(memory_format=torch.channels_last)
    video = layer_of(name, "3-d").to(memory_format=torch.channels_last_3d)
    assert video.weight.is_contiguous(memory_format=torch.channels_last_3d)


# ---- derivatives: of one map against finite differences, of networks against kernels that are computed at each use


@every_map
def test_gradcheck(name):
    """Backward, batched backward, forward mode; first and second order."""
    for geometry in ("2-d", "incomplete grids", "grouped"):
        layer = layer_of(name, geometry, dtype=torch.float64)
        randomize(layer, 0.3)
        maps, names, tensors = input_of_maps(layer)
        inputs = tuple(tensor.requires_grad_() for tensor in tensors)

        def kernels(*inputs, maps=maps, names=names):
            return torch.func.functional_call(maps, dict(zip(names, inputs, strict=True)), ())

        every = {"check_forward_ad": True, "check_batched_grad": True, "fast_mode": True}
        assert torch.autograd.gradcheck(kernels, inputs, check_batched_forward_grad=True, **every)


@every_map
def test_gradgradcheck(name):
    layer = layer_of(name, "incomplete grids", dtype=torch.float64)
    randomize(layer, 0.3)
    maps, names, tensors = input_of_maps(layer)
    inputs = tuple(tensor.requires_grad_() for tensor in tensors)

    def kernels(*inputs):
        return torch.func.functional_call(maps, dict(zip(names, inputs, strict=True)), ())

    assert torch.autograd.gradgradcheck(
        kernels, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True, fast_mode=True
    )


@every_configuration
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_batched_equals_alone(name, layout, x, batches):
    """Kernels are computed once per forward, those of layers that are alike in one go; only the speed tells."""
    model = trained_net(name).to(memory_format=layout)
    out, found = model(x), gradients(model, x)
    assert set(batches) == (set() if name in ONE_BY_ONE else {4})
    batches.clear()
    with coc.no_kernel_cache():
        assert relative(out, model(x)) < 1e-12
        expected = gradients(model, x)
    assert not batches
    same(found, expected)
    for parameter, grad in found.items():
        assert (grad is None) == parameter.startswith("body.3"), "what is never used gets no gradient"
        assert grad is None or layout_of(grad) == layout_of(expected[parameter]), parameter


@every_configuration
def test_double_backward(name, x):
    def second(model):
        used = [p for parameter, p in model.named_parameters() if not parameter.startswith("body.3")]
        used.append(x)
        first = torch.autograd.grad(model(x).square().sum(), used, create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in first), used, allow_unused=True)
        return [*first, *(torch.zeros(()) if g is None else g for g in again)]

    model, x = trained_net(name), x.requires_grad_()
    found = second(model)
    with coc.no_kernel_cache():
        expected = second(model)
    for mine, theirs in zip(found, expected, strict=True):
        assert relative(mine, theirs) < 1e-8 or theirs.abs().max() < 1e-8


@every_configuration
def test_forward_mode(name, x):
    """The slope of the output in a random direction of all parameters, and that of the gradients (Hessian · vector)."""
    model = trained_net(name)
    used = [p for parameter, p in model.named_parameters() if not parameter.startswith("body.3")]
    start, directions = [p.detach().clone() for p in used], [torch.randn_like(p) for p in used]

    def move(values):
        with torch.no_grad():
            for parameter, value in zip(used, values, strict=True):
                parameter.copy_(value)

    def evaluate():
        out = model(x)
        return [out, *torch.autograd.grad(out.square().sum(), used)]

    with torch.autograd.forward_ad.dual_level():
        make, unpack = torch.autograd.forward_ad.make_dual, torch.autograd.forward_ad.unpack_dual
        move([make(value, direction) for value, direction in zip(start, directions, strict=True)])
        slopes = [unpack(value).tangent for value in evaluate()]
    step, around = 1e-6, []
    for sign in (1, -1):
        move([value + sign * step * direction for value, direction in zip(start, directions, strict=True)])
        around.append(evaluate())
    assert len(slopes) == len(used) + 1
    for slope, ahead, behind in zip(slopes, *around, strict=True):
        assert relative(slope, (ahead - behind) / (2 * step)) < 1e-5


@every_configuration
def test_batched_gradients(name, x):
    """torch's two ways to a Jacobian with respect to parameters."""
    model = trained_net(name)
    used = [p for parameter, p in model.named_parameters() if not parameter.startswith("body.3")]
    y = model(x[:1]).flatten()[:3]

    def each(upstream):
        return torch.autograd.grad(y, used, upstream, retain_graph=True)

    units = torch.eye(len(y), dtype=y.dtype)
    expected = [torch.stack(rows) for rows in zip(*map(each, units), strict=True)]
    for found in (
        torch.vmap(each)(units),
        torch.autograd.grad(y, used, units, is_grads_batched=True, retain_graph=True),
    ):
        for mine, theirs in zip(found, expected, strict=True):
            assert relative(mine, theirs) < 1e-10


@every_map
def test_functional_call(name, x):
    """torch.func: other parameters, gradients per sample by vmap, forward mode."""
    model = trained_net(name)
    expected, total = model(x), gradients(model, x)
    parameters = {key: p.detach().clone() for key, p in model.named_parameters()}

    def call(parameters, x):
        return torch.func.functional_call(model, parameters, (x,))

    assert relative(call(parameters, x), expected) < 1e-12
    per_sample = torch.func.vmap(torch.func.grad(lambda p, one: call(p, one[None]).square().sum()), (None, 0))
    for key, grads in per_sample(parameters, x).items():
        assert relative(grads.sum(0), total[key]) < 1e-10 if total[key] is not None else not grads.any(), key
    directions = {key: torch.randn_like(p) for key, p in parameters.items()}
    _, slope = torch.func.jvp(lambda p: call(p, x), (parameters,), (directions,))
    step = 1e-6
    ahead, behind = (call({k: p + s * directions[k] for k, p in parameters.items()}, x) for s in (step, -step))
    assert relative(slope, (ahead - behind) / (2 * step)) < 1e-6


@every_map
def test_two_forwards_then_two_backwards(name, x):
    model = trained_net(name)
    first, second = gradients(model, x), gradients(model, 2 * x)
    model.zero_grad()
    for loss in [model(part).square().sum() for part in (x, 2 * x)]:
        loss.backward()
    expected = {key: None if grad is None else grad + second[key] for key, grad in first.items()}
    same({key: p.grad for key, p in model.named_parameters()}, expected)


@every_map
def test_accumulated_gradients_are_those_of_the_whole_batch(name, x):
    model = trained_net(name)
    expected = gradients(model, x)
    model.zero_grad()
    for part in x.chunk(2):
        model(part).square().sum().backward()
    same({key: p.grad for key, p in model.named_parameters()}, expected)


@every_map
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
def test_activation_checkpointing(name, reentrant, parts, x):
    """Inside a checkpoint kernels are computed anew, or the second run would save other tensors than the first."""

    class Checkpointed(Net):
        def forward(self, x):
            x = self.depthwise(self.stem(x))
            for layer in self.body[:3]:
                x = checkpoint(layer, x, use_reentrant=reentrant) if parts else layer(x)
            return self.head(self.body[2](x).mean((2, 3)))

    model = trained_net(name)
    model.__class__ = Checkpointed
    x = x.requires_grad_()
    found = gradients(model if parts else lambda_module(model, reentrant), x)
    model.__class__ = Checkpointed
    with coc.no_kernel_cache():
        parts = False
        same({key.removeprefix("model."): grad for key, grad in found.items()}, gradients(model, x))


def lambda_module(model: nn.Module, reentrant: bool) -> nn.Module:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x):
            return checkpoint(self.model, x, use_reentrant=reentrant)

    return Whole()


# ---- precision


@every_map
@each_half
def test_autocast(name, dtype, x):
    """Forward and gradients stay close to float32: the error is that of autocast in the plain network, not more."""
    model, x = trained_net(name).float(), x.float()
    plain = coc.reparameterize(model)
    expected = model(x)
    with torch.autocast("cpu", dtype=dtype):
        found, common = model(x), plain(x)
        with coc.no_kernel_cache():
            assert torch.equal(found, model(x))
    assert found.dtype == common.dtype == dtype
    assert relative(found.float(), expected) < 3 * relative(common.float(), expected) + torch.finfo(dtype).eps
    used = {key: p for key, p in model.named_parameters() if not key.startswith("body.3")}
    first = torch.autograd.grad(found.float().square().sum(), used.values(), create_graph=True)
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in first)
    again = torch.autograd.grad(sum(g.square().sum() for g in first), used.values(), allow_unused=True)
    assert all(grad is None or grad.dtype == torch.float32 for grad in again)


@every_map
def test_gradients_under_autocast_are_those_of_kernels_alone(name, x):
    model, x = trained_net(name).float(), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(model, x)
        with coc.no_kernel_cache():
            expected = gradients(model, x)
    same(found, expected, 0.05)


@every_map
@each_half
def test_half_precision_networks(name, dtype, x):
    """Also under autocast of the other kind, which casts halves into halves."""
    model, other = trained_net(name), {torch.bfloat16: torch.float16, torch.float16: torch.bfloat16}[dtype]
    expected = model(x).float()
    model.to(dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    out = model(x.to(dtype))
    assert out.dtype == dtype
    assert relative(out.float(), expected) < 0.1
    assert all(g is None or (g.dtype == dtype and g.isfinite().all()) for g in gradients(model, x.to(dtype)).values())
    with torch.autocast("cpu", dtype=other):
        out = model(x.to(dtype))
    assert out.dtype == other
    assert relative(out.float(), expected) < 0.1
    out.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_map
@each_half
def test_half_precision_is_folded_in_float32_and_rounded_once(name, dtype):
    model = trained_net(name).to(dtype)
    exact = [conv.weight.detach() for conv in converted_convs(copy.deepcopy(model).double())]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = coc.reparameterize(model)
    convs = [module for module in plain.modules() if isinstance(module, nn.Conv2d)]
    for conv, kernels in zip(convs, exact, strict=True):
        assert conv.weight.dtype == dtype
        half_a_unit = torch.finfo(dtype).eps / 2 * kernels.abs().clamp_min(torch.finfo(dtype).tiny)
        assert ((conv.weight.double() - kernels).abs() <= half_a_unit + 1e-5 * kernels.abs().max()).all()


# ---- copies and checkpoints


@every_map
def test_deepcopy(name, x):
    model = trained_net(name)
    expected, copied = model(x), copy.deepcopy(model)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.5)
    assert relative(copied(x), expected) > 1e-3
    assert torch.equal(model(x), expected)
    again = copy.deepcopy(copied)
    coc.reparameterize(copied, inplace=True)
    assert torch.equal(model(x), expected)
    assert relative(again(x), copied(x)) < 1e-12


@every_map
def test_moving_averages(name, x):
    """Basic kernels and what maps learn are averaged; integer buffers keep their values."""
    model = trained_net(name)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    ema.update_parameters(model)
    before = {key: p.clone() for key, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    ema.update_parameters(model)
    for key, parameter in ema.module.named_parameters():
        assert torch.allclose(parameter, before[key] + 0.5, atol=1e-12), key
    for mine, theirs in zip(ema.module.buffers(), model.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert coc.verify(ema.module, coc.reparameterize(ema.module), x, tolerance=1e-12) <= 1e-12


@every_map
def test_a_checkpoint_makes_the_round_trip(name, x):
    model = trained_net(name).float()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values()), "safetensors takes nothing else"
    for again in (converted_net(name), coc.convert_like(plain_net(name), state)):
        again.load_state_dict(state, strict=True)
        assert torch.equal(again(x.float()), model(x.float()))
        assert list(again.state_dict()) == list(model.state_dict())
        assert all(torch.equal(mine, state[key]) for key, mine in again.state_dict().items())


@every_map
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("copied", [False, True], ids=["", "into a copy"])
def test_a_plain_checkpoint_loads_strictly(name, copied, assign, x, recwarn):
    plain, model = plain_net(name), converted_net(name)
    model = copy.deepcopy(model) if copied else model
    model.load_state_dict(plain.state_dict(), strict=True, assign=assign)
    convs = [module for module in plain.modules() if isinstance(module, nn.Conv2d)]
    for mine, theirs in zip(converted_convs(model), convs, strict=True):
        assert torch.equal(mine.parametrizations.weight.original, theirs.weight)
    warned = [str(warning.message) for warning in recwarn]
    if keeps_the_function(model):
        assert torch.equal(model(x.float()), plain(x.float()))
        assert not warned
    else:
        assert all("plain kernels were loaded as basic kernels" in message for message in warned)
        assert warned


@every_map
def test_folding(name, x):
    """To the bit the kernels of the network, in a network of the plain architecture; the original is left alone."""
    model = trained_net(name)
    expected = model(x)
    with coc.no_kernel_cache():
        kernels = [conv.weight.detach() for conv in converted_convs(model)]
    plain = coc.reparameterize(model)
    assert list(plain.state_dict()) == list(plain_net(name).state_dict())
    assert [type(m) for m in plain.modules()] == [type(m) for m in plain_net(name).modules()]
    convs = [module for module in plain.modules() if isinstance(module, nn.Conv2d)]
    assert all(torch.equal(conv.weight, kernel) for conv, kernel in zip(convs, kernels, strict=True))
    assert coc.verify(model, plain, x, tolerance=1e-12) <= 1e-12
    assert torch.equal(model(x), expected)
    originals = [conv.parametrizations.weight.original for conv in converted_convs(model)]
    assert coc.reparameterize(model, inplace=True) is model
    assert all(conv.weight is p for conv, p in zip([model.stem[0], model.depthwise[0]], originals, strict=False))
    assert torch.equal(model(x), plain(x))


# ---- tensors without values


@every_map
def test_meta_device(name, x):
    """meta → convert → to_empty → reset_parameters, or → load_state_dict(assign=True): how large networks are built."""
    method, config = MAPS[name]
    with torch.device("meta"):
        built = coc.convert(plain_net(name), method, config)
        assert coc.reparameterize(built).stem[0].weight.is_meta
    assigned = copy.deepcopy(built)
    model = built.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    if not name.startswith("own"):  # which say nothing of their start
        assert all(p.isfinite().all() for p in model.parameters())
    trained, plain, x = trained_net(name).float(), plain_net(name), x.float()
    for loaded, assign in ((model, False), (copy.deepcopy(assigned), True)):
        loaded.load_state_dict(trained.state_dict(), assign=assign)
        assert torch.equal(loaded(x), trained(x))
    if keeps_the_function(assigned):
        assigned.load_state_dict(plain.state_dict(), assign=True)
        assert torch.equal(assigned(x), plain(x)) == (not name.startswith("own"))


@every_map
def test_a_step_of_shapes_alone(name):
    """Estimators of memory run a step on fake tensors; real ones of before or after must not get into it."""
    real, x = chain(name, 3, 6, 6), torch.randn(2, 3, 8, 8)
    expected = real.eval()(x)
    state = {key: tensor for key, tensor in real.state_dict().items() if "_extra" not in key}
    with FakeTensorMode() as mode:
        model = chain(name, 3, 6, 6)
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        tensors = {key: mode.from_tensor(tensor) for key, tensor in state.items()}
        assert torch.func.functional_call(real, tensors, (mode.from_tensor(x),)).shape == (2, 6, 8, 8)
    assert torch.equal(real(x), expected)


# ---- compilers


@pytest.mark.slow
@every_map
def test_compiled_without_breaks_and_without_recompiling_between_steps(name):
    model, x = chain(name, 3, 6, 6, 6), torch.randn(2, 3, 8, 8)
    expected_out, expected = model(x), gradients(model, x)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        model.zero_grad()
        out = compiled(x)
        out.square().sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert relative(out, expected_out) < 1e-5
    same({key: p.grad for key, p in model.named_parameters()}, expected, 1e-3)


@pytest.mark.slow
@every_map
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch looks
def test_layers_compiled_one_by_one_share_their_graphs(name):
    """Regional compilation: equal layers are compiled once, as those of a plain network."""
    model = chain(name, 3, 3, 3, 3, 6, 6, 6)
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    for layer in model:
        layer.compile(backend=counter)
    for _ in range(2):
        model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert counter.frame_count == 4, "the first (its input needs no gradient), its equals, the wider one, its equals"


@pytest.mark.slow
@every_map
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_exported_and_decomposed(name, mode):
    """Nothing of the export says that gradients are switched on, which no decomposition takes."""
    width = 3 + [torch.no_grad, torch.enable_grad, torch.inference_mode].index(mode)
    # Kernels of another geometry for every test: what is built once per geometry shall be built while exporting.
    model = nn.Sequential(nn.Conv2d(3, 8, (list(MAPS).index(name) + 2, width)), nn.BatchNorm2d(8))
    model = coc.convert(model, *MAPS[name]).eval()
    randomize(model)
    x = torch.randn(2, 3, 14, 9)
    with mode():
        exported = torch.export.export(model, (x,))
        assert not any("set_grad" in str(node.target) for node in exported.graph.nodes)
        assert relative(exported.run_decompositions({}).module()(x), model(x)) < 1e-5


@pytest.mark.slow
@every_map
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_traced_model_can_be_saved(name, tmp_path):
    model, x = chain(name, 3, 6, 6).eval(), torch.randn(2, 3, 8, 8)
    torch.jit.trace(model, x).save(tmp_path / "traced.pt")
    assert relative(torch.jit.load(tmp_path / "traced.pt")(x), model(x)) < 1e-5


def test_the_table_has_every_method_and_every_way_of_sharing():
    assert set(coc.METHODS) <= set(MAPS)
    assert {config.share for _, config in (MAPS | CONFIGURATIONS).values()} >= {"input", "output", "both"}
