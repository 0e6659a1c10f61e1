"""Loaders whose order depends on the seed and the epoch alone, and that go on in the middle of an epoch.

A training set is asked for ``(epoch, index)``, so that its augmentation can be derived from both whatever process reads
the image. The order is drawn for the whole epoch and dealt out to all processes, so that several processes see
together what one would see alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ...errors import ConfigError, ConvOfConvError

#: Makes a batch of items.
Collate = Callable[[list[Any]], Any]


def seed_of(*numbers: int) -> int:
    """One seed for some numbers, unlike that of any other numbers in practice (splitmix64's mixing).

    Examples:
        >>> seed_of(0, 1) != seed_of(1, 0)
        True
    """
    mixed = 0
    for number in numbers:
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1  # torch takes 63 bits


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of one process: its share of the images of every step, of a shuffled epoch.

    What is left over at the end of an epoch, too little for a step, is left out.

    Args:
        length: images in the training set.
        batch: images per batch of this process.
        seed: of the order.
        rank: number of this process.
        world: number of processes.
        groups: a number per image; a step's images are of one group, except for a few of what is left over at the end.
        accumulate: batches per step.

    Raises:
        ConfigError: there are fewer images than in one step.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        groups: Sequence[int] | None = None,
        accumulate: int = 1,
    ) -> None:
        self.step = batch * world * accumulate
        if length < self.step:
            raise ConfigError(
                f"training.batch must be at most the number of training images, {length}; got {self.step}"
            )
        self.length, self.batch, self.seed, self.rank, self.world = length, batch, seed, rank, world
        self.accumulate = accumulate
        self.groups = [0] * length if groups is None else groups
        self.epoch = self.start = 0
        self.sampler = self  # where Lightning looks for set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.step * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        yield from itertools.islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        for step in self._steps():
            mine = [(self.epoch, index) for index in step[self.rank :: self.world]]
            for first in range(0, len(mine), self.batch):
                yield mine[first : first + self.batch]

    def _steps(self) -> Iterator[list[int]]:
        """The epoch's shuffled images, every group gathered until it fills a step."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        gathered: dict[int, list[int]] = {group: [] for group in sorted(set(self.groups))}
        for index in torch.randperm(self.length, generator=generator).tolist():
            waiting = gathered[self.groups[index]]
            waiting.append(index)
            if len(waiting) == self.step:
                yield waiting.copy()
                waiting.clear()
        rest = list(itertools.chain.from_iterable(gathered.values()))
        for first in range(0, len(rest) - self.step + 1, self.step):
            yield rest[first : first + self.step]


class _Batches(Dataset[Any]):
    """A data set that is asked for whole batches; an error of this package takes the place of the batch."""

    def __init__(self, dataset: Dataset[Any], collate: Collate) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        assert isinstance(self.dataset, Sized)
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[Any]) -> Any:
        try:
            return self.collate([self.dataset[key] for key in keys])
        except ConvOfConvError as error:
            return error


class Loader(DataLoader[Any]):
    """A loader that raises what is wrong with an image as it was said, also where a worker process reads it.

    Torch would raise an error of a worker with that process's traceback as its message.
    """

    def __init__(self, dataset: Dataset[Any], collate_fn: Collate = default_collate, **options: Any) -> None:
        # From pinned memory, batches are copied to a GPU while it works.
        pinned = torch.cuda.is_available()
        super().__init__(_Batches(dataset, collate_fn), collate_fn=_as_it_is, pin_memory=pinned, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, ConvOfConvError):
                raise batch
            yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


class ResumableLoader(Loader):
    """A loader of training batches that Lightning's checkpoints can put back to where it was in an epoch."""

    def __init__(self, dataset: Dataset[Any], order: TrainingOrder, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=order, **options)
        self.order = order
        self._given = self._resume_at = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._given = self.order.start = self._resume_at
        self._resume_at = 0
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given out; none after the last one."""
        return {"given": self._given % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next epoch there."""
        self._resume_at = state["given"]


def training_loader(
    dataset: Dataset[Any],
    batch: int,
    seed: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    collate: Collate = default_collate,
    groups: Sequence[int] | None = None,
    accumulate: int = 1,
) -> ResumableLoader:
    """Loader of this process's training batches; see :class:`TrainingOrder`."""
    assert isinstance(dataset, Sized)
    order = TrainingOrder(len(dataset), batch, seed, rank, world, groups, accumulate)
    return ResumableLoader(dataset, order, num_workers=workers, persistent_workers=workers > 0, collate_fn=collate)


def evaluation_loader(
    dataset: Dataset[Any], batch: int, workers: int, collate: Collate = default_collate, rank: int = 0, world: int = 1
) -> Loader:
    """Loader of this process's share of an evaluation set; gives lists of batches, see :func:`collate_by_size`."""
    assert isinstance(dataset, Sized)
    # Every image exactly once over all processes, also where their number is no multiple of theirs.
    order = range(rank, len(dataset), world)
    by_size = functools.partial(collate_by_size, collate)
    stay = workers > 0  # from epoch to epoch
    return Loader(
        dataset, batch_size=batch, sampler=order, num_workers=workers, persistent_workers=stay, collate_fn=by_size
    )


def collate_by_size(collate: Collate, items: Sequence[Sequence[Any]]) -> list[Any]:
    """A batch for every size of image among the items.

    Padded to one size, images would be scored by what else is in their batch: a network sees the padding.
    """
    alike: dict[Any, list[Any]] = {}
    for item in items:
        alike.setdefault(item[0].shape, []).append(item)
    return [collate(batch) for batch in alike.values()]
