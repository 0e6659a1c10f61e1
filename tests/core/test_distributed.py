"""DDP and both FSDPs with two processes on the CPU give what one process gives."""

from __future__ import annotations

import datetime
import socket
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from reference import randomize
from small_nets import ReusingNet
from torch import nn

import convofconv as coc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo here"),
    pytest.mark.skipif(sys.platform == "win32", reason="gloo with file descriptors of this test needs POSIX"),
]

STEPS = 3
TOLERANCE = 1e-5  # relative: gradients are summed in another order


def build() -> nn.Module:
    torch.manual_seed(0)
    model = coc.convert(ReusingNet(), "coc+stnd")
    randomize(model)
    return model


def train(model: nn.Module, batches: list[torch.Tensor], parameters: nn.Module | None = None) -> None:
    optimizer = torch.optim.SGD((parameters or model).parameters(), lr=0.5, momentum=0.9)
    for x in batches:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(STEPS)]


def ddp(rank: int) -> dict[str, torch.Tensor]:
    model = build()
    wrapped = nn.parallel.DistributedDataParallel(model)
    with pytest.raises(coc.SurgeryError, match="already wrapped in DistributedDataParallel"):
        coc.convert(wrapped)
    train(wrapped, [x.chunk(2)[rank] for x in batches()])
    return coc.reparameterize(model).state_dict()


def fsdp(rank: int) -> dict[str, torch.Tensor]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = build()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model.stem, model.shared):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with pytest.raises(coc.SurgeryError, match="already wrapped in FSDPModule"):
        coc.reparameterize(model)
    train(model, [x.chunk(2)[rank] for x in batches()])
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    bare = coc.convert(ReusingNet(), "coc+stnd")
    if rank == 0:
        bare.load_state_dict(full)
    return coc.reparameterize(bare).state_dict()


def first_fsdp(rank: int) -> dict[str, torch.Tensor]:
    """FullyShardedDataParallel, whose default leaves its modules without registered parameters."""
    from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

    found = {}
    for keeps_parameters in (False, True):
        model = build()
        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=keeps_parameters)
        with pytest.raises(coc.SurgeryError, match="already wrapped in FullyShardedDataParallel"):
            coc.reparameterize(model)
        train(model, [x.chunk(2)[rank] for x in batches()])
        with FullyShardedDataParallel.state_dict_type(
            model, StateDictType.FULL_STATE_DICT, FullStateDictConfig(rank0_only=False)
        ):
            state = model.state_dict()
        bare = coc.convert(ReusingNet(), "coc+stnd")
        bare.load_state_dict(state)
        found[keeps_parameters] = coc.reparameterize(bare).state_dict()
    for name, value in found[False].items():
        assert torch.equal(value, found[True][name]), name
    return found[False]


class Chain(nn.Module):
    """Convs of one geometry, which are computed together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        for conv in self.body:
            x = conv(x).tanh()
        return x


def chain() -> nn.Module:
    torch.manual_seed(0)
    model = coc.convert(Chain())
    randomize(model)
    return model


def train_in_parts(model: nn.Module, batches: list[torch.Tensor]) -> None:
    """Gradients of two parts are accumulated, as FSDP2's documentation has it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for x in batches:
        optimizer.zero_grad()
        for last, part in enumerate(x.chunk(2)):
            if hasattr(model, "set_is_last_backward"):
                model.set_is_last_backward(bool(last))
                model.set_requires_gradient_sync(bool(last))
                model.set_reshard_after_backward(bool(last))
            (model(part).square().mean() / 2).backward()
        optimizer.step()


def fsdp_of_layers_alike(rank: int) -> dict[str, torch.Tensor]:
    """Units whose layers would be computed together, gathered until the last part's backward."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = chain()
    model(torch.randn(1, 3, 8, 8))  # a plan is made before the model is sharded
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.body:
        fully_shard(layer, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    train_in_parts(model, [x.chunk(2)[rank] for x in batches()])
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    bare = coc.convert(Chain())
    if rank == 0:
        bare.load_state_dict(full)
    return coc.reparameterize(bare).state_dict()


def fsdp_from_meta(rank: int) -> dict[str, torch.Tensor]:
    """Initialised after it is sharded, a conv that is a unit of its own and others; for both starts of a stack."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, found = init_device_mesh("cpu", (2,)), {}
    for init in ("identity", "kaiming"):
        with torch.device("meta"):
            model = coc.convert(Chain(), config=coc.Config(depth=2, init=init))
        fully_shard(model.body[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        torch.manual_seed(rank)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        found |= {f"{init}.{name}": value for name, value in full.items()}
    return found


def worker(rank: int, job: str, port: int, queue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    jobs = {"ddp": ddp, "fsdp": fsdp, "first fsdp": first_fsdp, "alike": fsdp_of_layers_alike, "meta": fsdp_from_meta}
    state = jobs[job](rank)
    if rank == 0:
        queue.put({name: value.numpy() for name, value in state.items()})
    dist.barrier()
    dist.destroy_process_group()


needs_streams = pytest.mark.skipif(
    not hasattr(torch.cpu.current_stream(), "record_event"), reason="fully_shard of this torch does not run on the CPU"
)


def by_two_processes(job: str) -> dict[str, torch.Tensor]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    processes = mp.spawn(worker, (job, port, queue), nprocs=2, join=False)
    while not processes.join(timeout=1):
        pass
    return {name: torch.from_numpy(value) for name, value in queue.get().items()}


@pytest.mark.parametrize(
    "job", ["ddp", "first fsdp", *(pytest.param(job, marks=needs_streams) for job in ("fsdp", "alike"))]
)
def test_two_processes_equal_one(job):
    found = by_two_processes(job)
    alone = chain() if job == "alike" else build()
    start = coc.reparameterize(alone).state_dict()
    (train_in_parts if job == "alike" else train)(alone, batches())
    expected = coc.reparameterize(alone).state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        moved = (value - start[name]).abs().max()
        assert (found[name] - value).abs().max() <= TOLERANCE * value.abs().max(), name
        assert moved > 100 * TOLERANCE * value.abs().max(), f"{name} hardly moved: the comparison shows nothing"


@needs_streams
def test_a_network_is_initialised_when_it_is_sharded():
    state = by_two_processes("meta")
    assert all(value.isfinite().all() for name, value in state.items() if not name.endswith("_extra_state"))
    kernels = {name: value for name, value in state.items() if name.endswith("super_kernel")}
    assert len(kernels) == 8
    for name, kernel in kernels.items():
        last = kernel[-1]
        assert not last.any() if name.startswith("identity") else last.std() > 0.1, name
        assert kernel[0].std() > 0.1, name
    for name, value in state.items():
        if name.endswith("original"):
            bound = value[0].numel() ** -0.5
            assert 0.8 * bound < value.abs().max() <= bound, name
