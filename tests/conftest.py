"""What all tests share: one thread per worker, quick garbage collection, and what quick tests must not do."""

from __future__ import annotations

import gc
import multiprocessing.process
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if "OMP_NUM_THREADS" not in os.environ:  # several workers with a thread per core each would fight for the cores
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beside the core all is slow: importing what the lab stands on alone takes a while."""
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent / "core"):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """The libraries' own objects, hundreds of thousands, are not looked through by every collection in a test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not marked ``slow`` starts no process, compiles nothing and trains no run."""
    if request.node.get_closest_marker("slow"):
        return

    def refuse(what: str):
        def refused(*_, **__):
            pytest.fail(f"{what} in a quick test: mark it slow (pytest.mark.slow)")

        return refused

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse("a process"))
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse("a process"))
    for owner, name in ((torch, "compile"), (torch.nn.Module, "compile"), (torch.export, "export")):
        monkeypatch.setattr(owner, name, refuse("compiling"))
    if (lightning := sys.modules.get("lightning.pytorch")) is not None:
        monkeypatch.setattr(lightning.Trainer, "fit", refuse("training"))
