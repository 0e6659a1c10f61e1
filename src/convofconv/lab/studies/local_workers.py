"""Runs in worker processes on this machine."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from .worker import OUTPUT, outcome

#: Times that a run is resumed after something killed its process.
RETRIES = 2
#: Folder of a run, and what its record says.
Outcome = tuple[Path, Mapping[str, Any]]


class LocalWorkers:
    """Processes on this machine, one per run, so that none can harm another.

    Args:
        workers: how many at a time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # Of as many GPUs as there are, each worker has one.
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(workers):
            self._slots.put(slot)
        self.processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def run(self, folders: Sequence[Path], tick: Callable[[], None]) -> Iterator[Outcome]:
        """Do the runs of these folders, and give each one's outcome when it is there.

        Args:
            folders: with a ``job.json`` each.
            tick: called about once a second meanwhile.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: set[Future[Outcome]] = {pool.submit(self._run_one, folder) for folder in folders}
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                    tick()
            except BaseException:  # Ctrl-C too, and a caller that wants no more of it
                self._stopped.set()
                for future in waiting:
                    future.cancel()
                for process in list(self.processes):
                    process.kill()  # a run can be resumed at any moment
                raise

    def _run_one(self, folder: Path) -> Outcome:
        slot = self._slots.get()
        try:
            return self._attempt(folder, {**os.environ, **one_gpu(slot)})
        finally:
            self._slots.put(slot)

    def _attempt(self, folder: Path, environment: Mapping[str, str]) -> Outcome:
        code = 0
        for _ in range(RETRIES + 1):
            with (folder / OUTPUT).open("ab") as output:
                command = [sys.executable, "-m", "convofconv.lab.studies.worker", str(folder), str(os.getpid())]
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
                )
                self.processes.add(process)
                if self._stopped.is_set():
                    process.kill()
                code = process.wait()
                self.processes.discard(process)
            found = outcome(folder)
            if found or self._stopped.is_set():
                return folder, found or {}
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        reason = (
            f"its process ended {RETRIES + 1} times before it was done, last with {how}; signal 9 is often a lack of "
            f"memory. See {folder / OUTPUT}"
        )
        return folder, {"status": "failed", "reason": reason}


def one_gpu(slot: int) -> dict[str, str]:
    """Environment of a worker that is to see one of the GPUs that this process sees; empty where there are none."""
    if not (count := torch.cuda.device_count()):
        return {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": seen.split(",")[slot % count] if seen else str(slot % count)}
