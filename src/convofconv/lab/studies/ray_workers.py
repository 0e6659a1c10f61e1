"""Runs on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from .local_workers import Outcome
from .worker import outcome, run_job

#: Times that a run is started again after its worker or machine was lost.
_RETRIES = 3
#: A file in the run's folder with a character for each time that it was started.
_STARTS = "starts"


class RayWorkers:
    """Tasks of a Ray cluster, one process per run.

    The folder of runs must be one that all machines share; a run whose machine is lost goes on from its last
    checkpoint on another.

    Args:
        address: of the cluster, ``auto`` for the one that this machine is part of.
        cpus: CPUs per run.
        gpus: GPUs per run, fractions allowed.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str, cpus: float, gpus: float) -> None:
        # Ray's advice about an environment variable; its default is what is wanted here.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ConfigError("--address needs Ray; in a clone, run: pip install '.[lab,cluster]'") from error
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--address {address}: no Ray cluster can be reached there ({error})") from error
        self._ray: Any = ray
        # A process of its own for every run: no memory, seed or setting is left over from the one before.
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=1, max_retries=_RETRIES)(_run)
        self._on_gpu = gpus > 0

    def run(self, folders: Sequence[Path], tick: Callable[[], None]) -> Iterator[Outcome]:
        """As :meth:`LocalWorkers.run`."""
        for folder in folders:
            (folder / _STARTS).unlink(missing_ok=True)
        folder_of = {self._task.remote(str(folder.resolve()), self._on_gpu): folder for folder in folders}
        waiting = list(folder_of)
        try:
            while waiting:
                done, waiting = self._ray.wait(waiting, timeout=1)
                for task in done:
                    yield folder_of[task], self._outcome(task)
                tick()
        finally:
            for task in waiting:
                self._ray.cancel(task, force=True)

    def _outcome(self, task: Any) -> Any:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:  # a RayError too, but the run's own
            return {"status": "failed", "reason": " ".join(str(error.cause).split())}
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[0]
            return {"status": "failed", "reason": f"lost by the cluster {_RETRIES + 1} times: {first}"}


def _run(name: str, on_gpu: bool) -> Any:
    folder = Path(name)
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # or all runs of a machine would take its first GPU
    # Ray starts a task that its memory monitor has killed again without end.
    if folder.is_dir():
        with (folder / _STARTS).open("ab") as starts:
            starts.write(b".")
            if starts.tell() > _RETRIES + 1:
                return {"status": "failed", "reason": f"ended {_RETRIES + 1} times before it was done: lack of memory?"}
    run_job(folder)
    return outcome(folder)
