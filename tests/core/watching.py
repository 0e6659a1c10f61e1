"""What can be seen of a network from outside: its gradients, its kernels, and whose code runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from map_cases import Shifted
from reference import relative
from torch import Tensor, nn

import convofconv as coc

PACKAGE = str(Path(coc.__file__).parent)


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """How many layers a map was computed for each time that it was computed for several at once."""
    found: list[int] = []
    for cls in (*coc.METHODS.values(), Shifted):

        def watched(cls, maps, kernels, stack, honest=cls.batched.__func__):
            found.append(len(maps))
            return honest(cls, maps, kernels, stack)

        monkeypatch.setattr(cls, "batched", classmethod(watched))
    return found


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """Of a loss, by parameter; ``None`` for what it does not use."""
    model.zero_grad()
    model(x).double().square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def same(found: dict[str, Tensor | None], expected: dict[str, Tensor | None], tolerance: float = 1e-10) -> None:
    """Gradients are equal up to rounding, and missing for the same parameters."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] is not None, name
            assert relative(found[name], value) < tolerance, name


def kernels_in_forward(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The kernels that converted convs have while the model's forward runs."""
    kept: list[Tensor] = []
    convs = [module for module in model.modules() if coc.kernel_maps(module)]
    hooks = [conv.register_forward_pre_hook(lambda conv, _: kept.append(conv.weight)) for conv in convs]
    model(x)
    for hook in hooks:
        hook.remove()
    return kept


def our_functions(run: Callable[[], object]) -> set[str]:
    """The functions of the package that run in a call."""
    called: set[str] = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            called.add(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return called
