"""The data of the demo: a balanced choice of pictures as two sets of normalised tensors."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from ...errors import ConfigError, listing
from ..data.labelled import LabelledImages
from ..progress import progress_bar
from .found_images import FoundImages, digits, find_pictures
from .settings import DemoSettings

#: The choice and the split of pictures are the same for all trainings, whatever their seeds.
_CHOICE_SEED = 0


@dataclasses.dataclass(frozen=True)
class Data:
    """Two sets of normalised pictures ``(n, channels, size, size)`` with their labels, and what they show."""

    name: str
    classes: tuple[str, ...]
    train: TensorDataset
    test: TensorDataset

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of a picture."""
        return tuple(self.train.tensors[0].shape[1:])

    def __str__(self) -> str:
        channels, height, width = self.shape
        return (
            f"{self.name}, {len(self.classes)} classes, {'grey' if channels == 1 else 'colour'} {height}×{width}: "
            f"{len(self.train):,} for training, {len(self.test):,} for testing"
        )


def load_data(settings: DemoSettings) -> Data:
    """Read the pictures that the settings ask for: an even choice of every class, normalised by the training set.

    Raises:
        ConfigError: the folder is missing or not understood, a picture cannot be read, a class or split is empty, there
            is a single class, or fewer pictures are asked for than there are classes.
    """
    source = digits() if settings.data is None else find_pictures(settings.data, settings.size)
    classes = len(source.classes)
    if classes < 2:
        raise ConfigError(f"{settings.data}: only one class, {source.classes[0]}; there must be two at least")
    if settings.train_images < classes:
        raise ConfigError(
            f"train-images must be at least the number of classes, {classes}; got {settings.train_images}"
        )
    generator = torch.Generator().manual_seed(_CHOICE_SEED)
    if source.test is None:
        test, share = source.train, 0.5 if settings.data is None else 0.2
        train_order, test_order = _split(source, share, generator)
    else:
        test = source.test
        train_order, test_order = (_even_order(part.labels, generator) for part in (source.train, test))
    train_order, test_order = train_order[: settings.train_images], test_order[: settings.test_images]
    with progress_bar(len(train_order) + len(test_order), "reading pictures") as bar:
        size = None if settings.data is None else settings.size
        train_x, train_y = _tensors(source.train, train_order, size, bar.update)
        test_x, test_y = _tensors(test, test_order, size, bar.update)
    std, mean = torch.std_mean(train_x, dim=(0, 2, 3), keepdim=True)
    std = std.clamp_min(1e-3)  # all pictures may be of one colour
    train, test_set = TensorDataset((train_x - mean) / std, train_y), TensorDataset((test_x - mean) / std, test_y)
    return Data(source.name, source.classes, train, test_set)


def _tensors(
    pictures: LabelledImages, order: Sequence[int], size: int | None, advance: Callable[[], object]
) -> tuple[Tensor, Tensor]:
    """The pictures and labels of ``order``; with a ``size``, scaled to it on the shorter side and cut square."""
    square = [v2.Resize(size), v2.CenterCrop(size)] if size else []
    transform = v2.Compose([v2.ToImage(), *square, v2.ToDtype(torch.float32, scale=True)])
    images = []
    for i in order:
        images.append(transform(pictures.read(i)).as_subclass(Tensor))
        advance()
    return torch.stack(images), torch.tensor([pictures.labels[i] for i in order])


def _even_order(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """A shuffled order of which every beginning holds as many pictures of each class as can be."""
    return [index for _, _, index in _ranked(labels, generator)]


def _split(source: FoundImages, share: float, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Even orders of two parts of a pool: one to train on, and ``share`` of every class to test on."""
    counts = collections.Counter(source.train.labels)
    if single := [source.classes[label] for label, count in counts.items() if count < 2]:
        raise ConfigError(f"a single picture of {listing(single)}: a class needs two at least, one of them for testing")
    testing = {label: max(1, round(share * count)) for label, count in counts.items()}
    ranked = _ranked(source.train.labels, generator)
    return [i for rank, label, i in ranked if rank >= testing[label]], [
        i for rank, label, i in ranked if rank < testing[label]
    ]


def _ranked(labels: Sequence[int], generator: torch.Generator) -> list[tuple[int, int, int]]:
    """``(rank, label, index)`` of all pictures, the rank drawn within each class, in ascending order."""
    seen: collections.Counter[int] = collections.Counter()
    ranked = []
    for index in torch.randperm(len(labels), generator=generator).tolist():
        label = labels[index]
        ranked.append((seen[label], label, index))
        seen[label] += 1
    return sorted(ranked)
