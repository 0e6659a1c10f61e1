"""A converted network inside the training code that people have."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from reference import randomize, relative
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import convofconv as coc
from convofconv.functional import association


class Net(nn.Module):
    """A stem, a depthwise conv, a conv that is called twice and one like it, a norm that batches do not couple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.twin = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)))
        x = F.silu(self.shared(x + self.depthwise(x)))
        x = self.twin(self.shared(F.avg_pool2d(x, 2)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(params=["coc", "coc+stnd", "released"])
def model(request):
    config = "released" if request.param == "released" else "poster"
    net = coc.convert(Net(), "coc" if config == "released" else request.param, config)
    randomize(net)
    return net


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8)


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def same(found, expected, tolerance=1e-5):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert relative(a, b) < tolerance


def test_accumulated_gradients_are_those_of_the_whole_batch(model, x):
    expected = gradients(model, x)
    model.zero_grad()
    for part in x.chunk(2):
        model(part).square().sum().backward()
    same([p.grad for p in model.parameters()], expected)


def test_two_forwards_then_two_backwards(model, x):
    expected = [a + b for a, b in zip(gradients(model, x), gradients(model, 2 * x), strict=True)]
    model.zero_grad()
    first, second = model(x), model(2 * x)
    first.square().sum().backward()
    second.square().sum().backward()
    same([p.grad for p in model.parameters()], expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(model, x, reentrant):
    expected = gradients(model, x)
    model.zero_grad()
    checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant).square().sum().backward()
    same([p.grad for p in model.parameters()], expected)


def test_double_backward(model, x):
    """A gradient penalty: the gradient of the gradient's norm, against finite differences in one direction."""
    model.double()
    x = x.double().requires_grad_()

    def penalty():
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return gradient.square().sum()

    parameters = [p for p in model.parameters() if p.dim() > 1]
    grads = torch.autograd.grad(penalty(), parameters)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(grads, directions, strict=True)).item()
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=step)
        values.append(penalty().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model, x, dtype):
    """Forward and gradients stay close to float32: the error is that of autocast in the plain network, not more."""
    expected = model(x)
    plain = coc.reparameterize(model)
    with torch.autocast("cpu", dtype=dtype):
        found, common = model(x).float(), plain(x).float()
        found.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())
    assert relative(found, expected) < 3 * relative(common, expected) + torch.finfo(dtype).eps


def test_channels_last(model, x):
    expected, plain = model(x), coc.reparameterize(model)
    model.to(memory_format=torch.channels_last)
    plain.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    assert model.shared.weight.stride() == plain.shared.weight.stride()
    assert relative(model(x), expected) < 1e-5
    assert model.stem(x).is_contiguous(memory_format=torch.channels_last)


def test_half_precision_modules(model, x):
    model.to(torch.bfloat16)
    plain = coc.reparameterize(model)
    assert model(x.bfloat16()).dtype == torch.bfloat16
    assert relative(model(x.bfloat16()).float(), plain(x.bfloat16()).float()) < 0.1


def test_functional_call_and_vmap(model, x):
    expected = model(x)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert torch.equal(torch.func.functional_call(model, parameters, (x,)), expected)

    def loss(parameters, sample):
        return torch.func.functional_call(model, parameters, (sample[None],)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    total = {name: g.sum(0) for name, g in per_sample.items()}
    same([total[name] for name, _ in model.named_parameters()], gradients(model, x), 1e-4)


@pytest.mark.parametrize("config", ["poster", "released"])
@pytest.mark.parametrize("channels", [6, 256])  # 256: backward works on runs of groups
def test_many_gradients_at_once(channels, config):
    """torch's two ways to a Jacobian with respect to parameters."""
    model = coc.convert(nn.Sequential(nn.Conv2d(channels, channels, 3), nn.BatchNorm2d(channels)), config=config).eval()
    randomize(model)
    y = model(torch.randn(1, channels, 3, 3)).flatten()[:3]
    parameters = [p for p in model.parameters() if p.requires_grad]

    def each(upstream):
        return torch.autograd.grad(y, parameters, upstream, retain_graph=True)

    expected = [torch.stack(rows) for rows in zip(*map(each, torch.eye(len(y))), strict=True)]
    same(torch.vmap(each)(torch.eye(len(y))), expected)
    batched = torch.autograd.grad(y, parameters, torch.eye(len(y)), is_grads_batched=True, retain_graph=True)
    same(batched, expected)


@pytest.mark.parametrize("config", ["poster", "released", "order"])
def test_a_step_of_shapes_alone(config):
    """Estimators of memory run a step on fake tensors; real ones of before or after must not get into it."""
    config = coc.Config(grouping="similar") if config == "order" else config
    real = coc.convert(Net(), config=config)
    x = torch.randn(2, 3, 8, 8)
    real(x)
    state = {name: tensor for name, tensor in real.state_dict().items() if "_extra" not in name}
    with FakeTensorMode() as mode:
        model = coc.convert(Net(), "coc+stnd+doconv", config)
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        tensors = {name: mode.from_tensor(tensor) for name, tensor in state.items()}
        assert torch.func.functional_call(real, tensors, (mode.from_tensor(x),)).shape == (2, 4)
    assert real(x).isfinite().all()


def test_ema_averages_basic_and_super_kernels(model, x):
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    ema.update_parameters(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    ema.update_parameters(model)
    for name, p in ema.module.named_parameters():
        assert torch.allclose(p, before[name] + 0.5, atol=1e-6), name
    plain = coc.reparameterize(ema.module)
    assert coc.verify(ema.module, plain, x) <= 1e-5
    assert torch.isfinite(ema(x)).all()


def test_ema_of_timm(model, x):
    timm_utils = pytest.importorskip("timm.utils", reason="timm is not installed (extra [lab])")
    ema = timm_utils.ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    ema.update(model)
    for averaged, p in zip(ema.module.parameters(), model.parameters(), strict=True):
        assert torch.allclose(averaged, p * 0.75, atol=1e-6)
    assert coc.verify(ema.module, coc.reparameterize(ema.module), x) <= 1e-5


@pytest.mark.parametrize("fused", [False, True])
def test_optimizers_go_on_after_folding_in_place(fused, x):
    """Momentum of the kernels is kept: the plain network takes the step that its optimizer would have taken."""
    model = coc.convert(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    momentum = optimizer.state[model.stem.parametrizations.weight.original]["momentum_buffer"].clone()
    coc.reparameterize(model, inplace=True)
    before = model.stem.weight.detach().clone()
    optimizer.zero_grad()
    model(x).square().sum().backward()
    expected = before - 0.1 * (0.9 * momentum + model.stem.weight.grad)
    optimizer.step()
    assert torch.allclose(model.stem.weight, expected, atol=1e-6)


@pytest.mark.parametrize("how", ["fused", "foreach"])
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_fused_and_foreach_optimizers_move_every_parameter_as_the_loop_does(optimizer, how, x):
    model = coc.convert(Net(), config="released")
    twin, start = copy.deepcopy(model), copy.deepcopy(model)
    for net, way in ((model, {how: True}), (twin, {how: False})):
        steps = getattr(torch.optim, optimizer)(net.parameters(), lr=1e-2, **way)
        for _ in range(3):
            steps.zero_grad()
            net(x).square().sum().backward()
            steps.step()
    same(list(model.parameters()), list(twin.parameters()), 1e-4)
    moved = zip(model.parameters(), start.parameters(), strict=True)
    assert not any(torch.equal(parameter, before) for parameter, before in moved)


def test_compiled_without_breaks_and_without_recompiling_between_steps(model, x):
    expected_out, expected_grads = model(x), gradients(model, x)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        out = compiled(x)
        out.square().sum().backward()
        optimizer.step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert relative(out, expected_out) < 1e-5
    same([p.grad for p in model.parameters()], expected_grads)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_compiled_before_its_first_forward(x, dtype):
    """What is looked up once and kept must have been looked up before: a graph cannot do it."""
    model = coc.convert(Net(), "coc+stnd")
    randomize(model)
    torch._dynamo.reset()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        out = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        assert relative(out, model(x)) < (1e-5 if dtype is None else 0.02)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_compiled_part_of_a_converted_model(x, dtype, broken):
    """Also where something of the user breaks its graphs, so that Python runs between them."""

    class Breaking(nn.Module):
        def forward(self, w):
            torch._dynamo.graph_break()
            return w * 1

    model = coc.convert(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), Net()), "coc+stnd")
    randomize(model)
    if broken:
        for conv in (model[1].stem, model[1].shared):
            parametrize.register_parametrization(conv, "weight", Breaking())
    other = copy.deepcopy(model)
    torch._dynamo.reset()
    other[1].compile(backend="aot_eager")
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about the break
        for side in (8, 10, 12):
            part = F.interpolate(x, size=(side, side))
            assert relative(other(part), model(part)) < (1e-5 if dtype is None else 0.02)


def test_compiled_with_inductor(x):
    model = coc.convert(Net(), "coc+stnd")
    randomize(model)
    expected_out, expected_grads = model(x), gradients(model, x)
    torch._dynamo.reset()
    out = torch.compile(model, fullgraph=True)(x)
    model.zero_grad()
    out.square().sum().backward()
    assert relative(out, expected_out) < 1e-5
    same([p.grad for p in model.parameters()], expected_grads, 1e-4)


class Block(nn.Module):
    """A residual block; wider ones begin with a stride."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, out // channels, padding=1)
        self.norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1, 2) if channels != out else nn.Identity()

    def forward(self, x):
        return self.skip(x) + self.second(F.relu(self.norm(self.first(x))))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch looks
@pytest.mark.parametrize("method", [None, *coc.METHODS, "coc+stnd"])
def test_blocks_compiled_one_by_one_share_their_graphs(method, x):
    """Regional compilation: equal blocks are compiled once, as those of a plain network."""
    widths = [3, 3, 3, 3, 6, 6, 6, 6]
    model = nn.Sequential(*(Block(*pair) for pair in itertools.pairwise(widths)))
    if method is not None:
        coc.convert(model, method)
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    for block in model:
        block.compile(backend=counter)
    for _ in range(2):
        model(x).sum().backward()
    assert counter.frame_count == 4, "the first (its input needs no gradient), its equals, the wider one, its equals"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("method", [*coc.METHODS, "coc+stnd", "coc+orth"])
def test_exported_and_decomposed(method, mode):
    """Nothing of the export says that gradients are switched on, which no decomposition takes."""
    model = coc.convert(nn.Sequential(nn.Conv2d(3, 8, (3, 4)), nn.BatchNorm2d(8)), method).eval()
    randomize(model)
    x = torch.randn(2, 3, 9, 9)
    association._shift_tensors.clear()  # built while exporting
    with mode():
        exported = torch.export.export(model, (x,))
        assert not any("set_grad" in str(node.target) for node in exported.graph.nodes)
        assert relative(exported.run_decompositions({}).module()(x), model(x)) < 1e-6


def test_exported_and_traced(x):
    model = coc.convert(Net()).eval()
    randomize(model)
    expected = model(x)
    assert relative(torch.export.export(model, (x,)).module()(x), expected) < 1e-6


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_traced_model_can_be_saved(x, tmp_path):
    model = coc.convert(Net()).eval()
    randomize(model)
    torch.jit.trace(model, x).save(tmp_path / "traced.pt")
    assert relative(torch.jit.load(tmp_path / "traced.pt")(x), model(x)) < 1e-6


def test_backward_under_autocast_after_a_forward_outside(x):
    model = coc.convert(nn.Conv2d(8, 8, 3))
    randomize(model)
    upstream = torch.randn(8, 8, 3, 3)
    model.weight.backward(upstream)
    expected = model.parametrizations.weight.original.grad.clone()
    model.zero_grad()
    kernel = model.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernel.backward(upstream)
    assert torch.equal(model.parametrizations.weight.original.grad, expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_second_derivatives_under_autocast_after_a_forward_outside(layers):
    """Of one layer alone, and of several that are computed together."""
    model = coc.convert(nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(layers))))
    randomize(model)
    x = torch.randn(2, 4, 6, 6)
    weights = [conv.parametrizations.weight.original for conv in model]
    found = []
    for enabled in (False, True):
        loss = sum((conv.weight**3).sum() for conv in model) if layers == 1 else _cubes(model, x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(torch.autograd.grad(loss, weights, create_graph=True))
    for exact, cast in zip(*found, strict=True):
        assert torch.equal(exact, cast)


def _cubes(model, x):
    """Of kernels that one forward keeps, and so computes together."""
    kept = []
    handles = [conv.register_forward_pre_hook(lambda conv, _: kept.append(conv.weight)) for conv in model]
    model(x)
    for handle in handles:
        handle.remove()
    return sum((kernel**3).sum() for kernel in kept)


def test_a_model_compiled_in_place_is_refused():
    model = Net()
    model.compile()
    with pytest.raises(coc.SurgeryError, match="already compiled; convert before that; to fold, give its weights to"):
        coc.convert(model)


@pytest.mark.parametrize(("own", "cast"), [(torch.bfloat16, torch.float16), (torch.float16, torch.bfloat16)])
def test_half_precision_under_autocast_of_the_other_kind(own, cast):
    """Of many layers together and of one alone: autocast casts halves into halves too."""
    for layers in (1, 3):
        net = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(layers)))
        plain, model = copy.deepcopy(net).to(own), coc.convert(net).to(own)
        x = torch.randn(2, 4, 6, 6, dtype=own)
        with torch.autocast("cpu", dtype=cast):
            out = model(x)
            assert out.dtype == cast
            assert relative(out.float(), plain(x).float()) < 0.02
        out.float().square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
