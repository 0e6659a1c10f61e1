"""Orders of training images: each once an epoch, shared out without overlap, by groups, resumed in the middle."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

pytest.importorskip("torchvision")

from torch.utils.data import default_collate

from convofconv.errors import ConfigError
from convofconv.lab.data.loading import ResumableLoader, TrainingOrder, evaluation_loader, seed_of
from convofconv.lab.data.objects import collate_objects

pytestmark = pytest.mark.lab

#: 38 images of the first group, 12 of the second.
GROUPS = [int(index % 4 == 3) for index in range(50)]
LENGTH, BATCH = 50, 4


def indices(order: TrainingOrder) -> list[list[int]]:
    return [[index for _, index in batch] for batch in order]


def test_without_groups_an_epoch_is_a_permutation_cut_into_batches() -> None:
    order = TrainingOrder(LENGTH, BATCH, seed=3)
    order.set_epoch(2)
    whole = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(seed_of(3, 2))).tolist()
    assert indices(order) == [whole[first : first + BATCH] for first in range(0, 48, BATCH)]


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_every_image_comes_at_most_once_and_few_are_left_out(groups: list[int] | None) -> None:
    order = TrainingOrder(LENGTH, BATCH, seed=0, groups=groups)
    seen = list(itertools.chain.from_iterable(indices(order)))
    assert len(seen) == len(set(seen)) == 48
    assert len(indices(order)) == len(order) == 12
    assert indices(TrainingOrder(LENGTH, BATCH, seed=0, groups=groups)) == indices(order)
    before = indices(order)
    order.set_epoch(1)
    assert indices(order) != before
    assert indices(TrainingOrder(LENGTH, BATCH, seed=1, groups=groups)) != before


def test_batches_are_of_one_group_but_the_last() -> None:
    for epoch in range(5):
        order = TrainingOrder(LENGTH, BATCH, seed=0, groups=GROUPS)
        order.set_epoch(epoch)
        mixed = [len({GROUPS[index] for index in batch}) > 1 for batch in indices(order)]
        assert not any(mixed[:-1])


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_processes_share_global_batches(groups: list[int] | None) -> None:
    alone = indices(TrainingOrder(LENGTH, 2 * BATCH, seed=0, groups=groups))
    shares = [indices(TrainingOrder(LENGTH, BATCH, 0, rank, 2, groups)) for rank in (0, 1)]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert all(len(part) == BATCH for part in parts)
        assert sorted(itertools.chain(*parts)) == sorted(batch)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_an_epoch_is_gone_on_with(groups: list[int] | None) -> None:
    class Keys:
        def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
            return key

        def __len__(self) -> int:
            return LENGTH

    def made() -> ResumableLoader:
        return ResumableLoader(Keys(), TrainingOrder(LENGTH, BATCH, 0, groups=groups), collate_fn=list)

    whole = list(made())
    broken = made()
    first = list(itertools.islice(iter(broken), 5))
    resumed = made()
    resumed.load_state_dict(broken.state_dict())
    assert first + list(resumed) == whole
    assert list(resumed) == whole  # the next epoch starts at its beginning


@pytest.mark.parametrize("collate", [default_collate, collate_objects], ids=["masks", "objects"])
def test_images_of_one_size_are_evaluated_together(collate: Any) -> None:
    sizes = [(4, 6), (6, 4), (4, 6), (4, 6), (6, 4)]

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(sizes)

        def __getitem__(self, index: int) -> Any:
            return torch.full((3, *sizes[index]), float(index)), torch.tensor(index)

    found = list(evaluation_loader(Images(), batch=4, workers=0, collate=collate))
    numbers = [[[int(number) for number in target] for _, target in batch] for batch in found]
    assert numbers == [[[0, 2, 3], [1]], [[4]]]
    for images, target in itertools.chain(*found):
        for image, number in zip(images, target, strict=True):
            assert image.shape == (3, *sizes[number])
            assert (image == number).all()


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_accumulated_batches_are_the_parts_of_a_step(groups: list[int] | None) -> None:
    """So that accumulating changes memory, not training: the same images per step, and as many steps."""
    whole = indices(TrainingOrder(LENGTH, 12, seed=0, groups=groups))
    order = TrainingOrder(LENGTH, 4, seed=0, groups=groups, accumulate=3)
    parts = indices(order)
    assert len(parts) == len(order) == 12
    assert [list(itertools.chain(*parts[first : first + 3])) for first in range(0, 12, 3)] == whole
    order.start = 5
    assert indices(order) == parts[5:]
    both = [indices(TrainingOrder(LENGTH, 2, 0, rank, 2, groups, accumulate=3)) for rank in (0, 1)]
    for step in range(4):
        seen = [index for part in both for batch in part[3 * step : 3 * step + 3] for index in batch]
        assert sorted(seen) == sorted(whole[step])
    with pytest.raises(ConfigError, match="at most the number of training images, 50; got 60"):
        TrainingOrder(LENGTH, 20, seed=0, accumulate=3)
