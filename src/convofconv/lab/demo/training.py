"""One training of the demo, its evaluation, and the time of a training step."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ... import convert, reparameterize, verify
from .data import Data
from .net import small_resnet

_BATCH = 64
#: Steps of each model that are timed.
_ROUNDS = 40


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training gave: a number per epoch, then the state at its end; accuracies are fractions."""

    method: str
    seed: int
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    folded_accuracy: float
    difference: float
    trained_parameters: int
    deployed_parameters: int
    seconds: float


def build(method: str, channels: int, classes: int, seed: int) -> nn.Module:
    """The network with its kernel maps; of one seed, all methods start from the same weights.

    Raises:
        ConfigError: there is no such method.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = small_resnet(channels, classes)
        return model if method == "plain" else convert(model, method)


def train(
    method: str, seed: int, data: Data, epochs: int, after_epoch: Callable[[float, float], object]
) -> tuple[Run, nn.Module]:
    """Train one network, fold it, and check that the folded one is the same function.

    Args:
        method: the kernel maps.
        seed: decides weights and order.
        data: what is learned and tested.
        epochs: how many.
        after_epoch: called with each one's loss and accuracy.

    Returns:
        The record of the training, and the trained network, not folded.

    Raises:
        VerificationError: the folded network puts out something else.
    """
    start = time.perf_counter()
    model = build(method, data.shape[0], len(data.classes), seed)
    # The order of the pictures is drawn by the loader's own generator: the same for all methods.
    generator = torch.Generator().manual_seed(seed)
    full = len(data.train) >= _BATCH  # a rest may be a single picture, of which BatchNorm has no statistics
    loader = DataLoader(data.train, _BATCH, shuffle=True, drop_last=full, generator=generator)
    optimizer = _optimizer(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    losses, accuracies = [], []
    for _ in range(epochs):
        model.train()
        steps = []
        for images, labels in loader:
            steps.append(_step(model, optimizer, images, labels))
            schedule.step()
        losses.append(float(torch.stack(steps).mean()))
        accuracies.append(evaluate(model, data.test))
        after_epoch(losses[-1], accuracies[-1])
    plain = reparameterize(model)
    run = Run(
        method,
        seed,
        tuple(losses),
        tuple(accuracies),
        folded_accuracy=evaluate(plain, data.test),
        difference=verify(model, plain, data.test.tensors[0][:256]),
        trained_parameters=sum(p.numel() for p in model.parameters()),
        deployed_parameters=sum(p.numel() for p in plain.parameters()),
        seconds=time.perf_counter() - start,
    )
    return run, model


@torch.no_grad()
def evaluate(model: nn.Module, dataset: TensorDataset) -> float:
    """The fraction of ``dataset`` that ``model`` gets right, in eval mode, in which it is left."""
    model.eval()
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in DataLoader(dataset, 500))
    return right / len(dataset)


def step_seconds(models: Mapping[str, nn.Module], data: Data) -> dict[str, float]:
    """The median time of one training step of each model.

    The models take turns step by step, so that whatever else the machine does slows all of them alike.
    """
    images, labels = data.train[:_BATCH]
    trained = {name: copy.deepcopy(model).train() for name, model in models.items()}
    optimizers = {name: _optimizer(model) for name, model in trained.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(_ROUNDS):
        for name, model in trained.items():
            start = time.perf_counter()
            _step(model, optimizers[name], images, labels)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
