"""On a GPU: what the CPU computes, in every precision, without waiting for it, compiled, captured and distributed."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torch.distributed as dist
from reference import associate_as, randomize, relative
from small_nets import small_net
from torch import nn

import convofconv as coc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
    # torch's own, of the first product in a thread of autograd's
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]

METHODS = [*coc.METHODS, "coc+stnd", "coc+orth", "coc+norm"]
CONFIGS = [
    coc.Config(share=share, depth=depth) for share in ("input", "output", "both", "none") for depth in (1, 2)
] + [coc.PRESETS["released"], coc.PRESETS["lightweight"]]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """Convs of a network compute in float32, not in TF32, so that only ours can differ."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def resnet(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    """Stages of several layers that are alike, a wide one, a depthwise one and a stem of 7×7."""

    def normed(channels: int) -> nn.Module:
        return norm(channels) if norm is nn.BatchNorm2d else norm(4, channels)

    def stage(ci: int, co: int, layers: int, groups: int = 1) -> list[nn.Module]:
        found: list[nn.Module] = []
        for i in range(layers):
            conv = nn.Conv2d(ci if i == 0 else co, co, 3, padding=1, groups=groups, bias=False)
            found += [conv, normed(co), nn.ReLU()]
        return found

    stem = [nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False), normed(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)]
    return nn.Sequential(*stem, *stage(16, 16, 4), *stage(16, 16, 2, 16), *stage(16, 256, 2), *head)


def batch(size: int = 8, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(size, 3, 32, 32, dtype=dtype)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> torch.Tensor:
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@layouts
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.share}-{config.depth}-{config.skip}")
@pytest.mark.parametrize("groups", [1, 4])
def test_an_association_and_its_gradients_are_the_literal_ones(config, layout, groups):
    conv = nn.Conv2d(8, 24, 3, groups=groups).double()
    module = coc.SpatialAssociation.for_conv(conv, config).double()
    randomize(module)
    weight = conv.weight.detach().to(memory_format=layout).requires_grad_()
    on_gpu = copy.deepcopy(module).cuda()
    there = weight.detach().cuda().requires_grad_()
    upstream = torch.randn_like(weight)

    expected = associate_as(module, weight)
    found = on_gpu(there)
    assert found.stride() == there.stride()
    assert relative(found.cpu(), expected) < 1e-13
    (expected_gradient,) = torch.autograd.grad(expected, weight, upstream)
    found_gradient, *of_parameters = torch.autograd.grad(found, [there, *on_gpu.parameters()], upstream.cuda())
    assert relative(found_gradient.cpu(), expected_gradient) < 1e-12
    again = torch.autograd.grad(module(weight), [*module.parameters()], upstream)
    for mine, theirs in zip(of_parameters, again, strict=True):
        assert relative(mine.cpu(), theirs) < 1e-11


@layouts
@pytest.mark.parametrize("method", METHODS)
def test_training_is_that_of_the_cpu(method, layout):
    model = coc.convert(resnet().double(), method)
    randomize(model)
    there = copy.deepcopy(model).cuda().to(memory_format=layout)
    optimizers = [torch.optim.SGD(coc.param_groups(m, 1e-4), lr=0.05, momentum=0.9) for m in (model, there)]
    for _ in range(3):
        x = batch(dtype=torch.float64)
        loss = float(step(model, optimizers[0], x))
        assert float(step(there, optimizers[1], x.cuda().to(memory_format=layout))) == pytest.approx(loss, rel=1e-9)
    for (name, mine), theirs in zip(there.state_dict().items(), model.state_dict().values(), strict=True):
        assert relative(mine.cpu().double(), theirs.double()) < 1e-7, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_mixed_precision_costs_no_more_digits_than_in_a_plain_network(method, dtype):
    plain = resnet().cuda()
    model = coc.convert(copy.deepcopy(plain), method)
    x, errors = batch(32).cuda(), []
    for network in (plain, model):
        exact = copy.deepcopy(network).double()
        exact(x.double()).square().mean().backward()
        with torch.autocast("cuda", dtype=dtype):
            value = network(x)
        scale = 2.0**10 if dtype == torch.float16 else 1.0
        (value.float().square().mean() * scale).backward()
        pairs = zip(weights(network), weights(exact), strict=True)
        errors.append([float((mine.grad / scale - exact.grad).norm() / exact.grad.norm()) for mine, exact in pairs])
        assert all(p.grad.isfinite().all() for p in network.parameters())
    for mine, theirs in zip(*errors[::-1], strict=True):
        assert mine < 2 * theirs + 8 * torch.finfo(dtype).eps


def weights(model: nn.Module) -> list[nn.Parameter]:
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return [conv.parametrizations.weight.original if coc.kernel_maps(conv) else conv.weight for conv in found]


def test_a_gradient_scaler_skips_steps_that_overflow():
    model = coc.convert(resnet().cuda())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps = 0
    for _ in range(40):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(batch().cuda()).float().square().mean()
        scaler.scale(loss).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if scaler.get_scale() < before and not steps:
            assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())
        steps += scaler.get_scale() >= before
    assert steps > 5
    assert not torch.equal(model[0].parametrizations.weight.original, start["0.parametrizations.weight.original"])
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_folding_is_exact(method):
    model = coc.convert(resnet().cuda(), method)
    randomize(model)
    on_cpu = coc.reparameterize(copy.deepcopy(model).cpu())
    plain = coc.reparameterize(model)
    assert {p.device.type for p in plain.parameters()} == {"cuda"}
    assert coc.verify(model, plain, batch().cuda()) <= 1e-5
    for mine, theirs in zip(plain.state_dict().values(), on_cpu.state_dict().values(), strict=True):
        assert relative(mine.cpu().double(), theirs.double()) < 1e-5


def test_verification_and_folding_ignore_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        model = coc.convert(resnet().cuda(), "coc+stnd")
        randomize(model)
        plain = coc.reparameterize(model)
        assert coc.verify(model, plain, batch().cuda()) <= 1e-5
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(precision)


@contextlib.contextmanager
def no_waiting():
    """Whatever makes the CPU wait for the GPU is an error."""
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("method", "config"), [*((method, "poster") for method in METHODS), ("coc", "released"), ("coc", "lightweight")]
)
def test_a_training_step_never_waits_for_the_gpu(method, config, precision):
    model = coc.convert(resnet().cuda(), method, config)
    optimizer = torch.optim.SGD(coc.param_groups(model, 1e-4), lr=0.01, momentum=0.9)
    x = batch().cuda()
    casting = torch.autocast("cuda", dtype=getattr(torch, precision), enabled=precision != "float32")
    for turn in range(3):
        with no_waiting() if turn else contextlib.nullcontext(), casting:
            step(model, optimizer, x)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # torch's own warm-up
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize(("method", "config"), [("coc", "poster"), ("coc+stnd", "released")])
def test_compiled_training_is_the_eager_one(method, config, mode):
    torch._dynamo.reset()
    model = coc.convert(resnet().cuda(), method, config)
    randomize(model, 0.01)
    compiled = copy.deepcopy(model)
    compiled.compile(mode=mode)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, compiled)]
    for _ in range(5):
        x = batch().cuda()
        losses = [float(step(m, o, x)) for m, o in zip((model, compiled), optimizers, strict=True)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for (name, mine), theirs in zip(compiled.state_dict().items(), model.state_dict().values(), strict=True):
        assert relative(mine.double(), theirs.double()) < 2e-2, name


@pytest.mark.parametrize(("method", "config"), [("coc", "poster"), ("coc+stnd", "poster"), ("coc", "released")])
def test_whole_steps_can_be_captured_in_a_graph(method, config):
    model = coc.convert(resnet().cuda(), method, config)
    randomize(model, 0.01)
    eager = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, eager)]
    x = batch().cuda()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step(model, optimizers[0], x)
    torch.cuda.current_stream().wait_stream(aside)
    for _ in range(3):
        step(eager, optimizers[1], x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(model, optimizers[0], x)
    for _ in range(4):
        x.normal_()
        graph.replay()
        assert float(loss) == pytest.approx(float(step(eager, optimizers[1], x)), rel=1e-3)


def test_a_model_goes_to_the_gpu_and_back_at_any_time():
    model = coc.convert(small_net(), "coc+stnd")
    randomize(model)
    model.eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
        assert relative(model.cuda()(x.cuda()).cpu(), expected) < 1e-5
        assert torch.equal(model.cpu()(x), expected)
        late = coc.convert(small_net().cuda(), "coc+stnd").eval()
        late.load_state_dict(model.state_dict())
        assert relative(late(x.cuda()).cpu(), expected) < 1e-5
        for dtype in (torch.float16, torch.bfloat16):
            half = copy.deepcopy(model).to("cuda", dtype)
            assert relative(half(x.to("cuda", dtype)).cpu().float(), expected) < 16 * torch.finfo(dtype).eps
    layer = coc.CoC2d(4, 8, 3, device="cuda", dtype=torch.float16)
    assert {p.device.type for p in layer.parameters()} == {"cuda"}
    with torch.device("cuda"):
        assert {p.device.type for p in coc.convert(small_net()).parameters()} == {"cuda"}


@pytest.mark.parametrize("how", ["ddp", "fsdp", "fsdp in bfloat16"])
def test_one_process_of_nccl_equals_none(how, tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Batch norm's averages stay float32, beside which a module in bfloat16 cannot run.
    norm = nn.GroupNorm if how.endswith("bfloat16") else nn.BatchNorm2d
    model = coc.convert(resnet(norm).cuda(), "coc+stnd")
    alone = copy.deepcopy(model)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        if how == "ddp":
            wrapped = nn.parallel.DistributedDataParallel(model, device_ids=[0])
        else:
            mesh = init_device_mesh("cuda", (1,))
            dtype = torch.bfloat16 if how.endswith("bfloat16") else None
            wrapped = fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (alone, wrapped)]
        rel = 3e-2 if how.endswith("bfloat16") else 1e-4
        for _ in range(3):
            x = batch().cuda()
            expected = float(step(alone, optimizers[0], x))
            assert float(step(wrapped, optimizers[1], x)) == pytest.approx(expected, rel=rel)
    finally:
        dist.destroy_process_group()
