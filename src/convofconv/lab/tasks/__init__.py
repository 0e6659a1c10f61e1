"""What a network is trained for: one object per task, in a file of its own, found by the name of the file.

``NAME.py`` in this room makes ``task: NAME`` one of the tasks of recipes; it defines ``TASK``, an object of a class
derived from :class:`Task`. All that depends on the task is asked of that object: nothing else lists tasks, or looks at
the class of a network.

Nothing heavy is imported here: a recipe lists the names of the files, and imports one only to check what its values say
to the task.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from ..data.build_data import DataSets, EvaluationData
    from ..metrics.base import Metrics
    from ..predict.finished_run import FinishedRun
    from ..recipe.schema import DataRecipe, Recipe


@dataclasses.dataclass(frozen=True)
class Answer:
    """What ``coc predict`` reports about an image.

    Args:
        drawing: the image with the answer in it or beside it.
        printed: the answer in a line.
        entries: of the image in ``predictions.json``.
        mask: the class of every pixel.
        objects: in COCO's format of results, except for the image's id.
    """

    drawing: Image.Image
    printed: str
    entries: dict[str, Any]
    mask: Image.Image | None = None
    objects: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def six_digits(value: float) -> float:
    """A number with the digits that float32 is good for."""
    return float(f"{value:.6g}")


class Task(ABC):
    """A task. What is not abstract here has a default that suits networks from a batch of images to a tensor."""

    #: What belongs to an image: ``label``, ``mask``, ``boxes`` or ``objects``, which have masks; a data source says
    #: what it gives. Empty for a task that makes its own data.
    target = ""
    #: Keys of a recipe that say something to this task, of those that do not to every one: ``KEYS_OF_SOME_TASKS``.
    keys: tuple[str, ...] = ()
    #: What the names of the backbone's modules begin with; empty where the network is one as a whole.
    backbone = ""
    #: Whether images are of one size, so that cuDNN's search for the fastest way is worth its time.
    one_size = False
    #: Whether the loss of every step is looked at before the next one, although a GPU has to be waited for.
    losses_at_once = False
    #: Whether the targets of evaluation stay where they are, and only images move to a GPU.
    targets_stay = False
    #: Whether answers are lists of objects, which are written as results in COCO's format too.
    lists_objects = False
    #: Whether ``coc test`` prints the figures of every class.
    prints_classes = True

    def check(self, recipe: Recipe) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuse values of a recipe that do not suit the task; not asked about a recipe of defaults alone.

        Raises:
            ConfigError: the message names the key.
        """

    # Data

    @abstractmethod
    def build_data(self, recipe: DataRecipe, seed: int) -> DataSets:
        """Find the recipe's data and check all of it that can be checked without decoding every image.

        Args:
            recipe: what is read and how it is varied.
            seed: of the variations.

        Raises:
            ConfigError: data is missing, or is not what the recipe says.
        """

    @abstractmethod
    def build_evaluation(self, recipe: DataRecipe, split: str) -> EvaluationData:
        """Find one split of the recipe's data to evaluate on; others need not be there.

        Raises:
            ConfigError: see :meth:`build_data`.
        """

    # Network

    @abstractmethod
    def build_network(self, recipe: Recipe, classes: int) -> nn.Module:
        """Build the network of a recipe, plain.

        Raises:
            ConfigError: it cannot be built as asked.
        """

    def check_outputs(  # noqa: B027 (the libraries' networks give what they are asked for)
        self, network: nn.Module, recipe: Recipe, classes: int, height: int, width: int
    ) -> None:
        """Refuse a network whose outputs are not what the loss takes, for images of a size that it takes.

        Raises:
            ConfigError: the message says what they are.
        """

    def compile(self, network: nn.Module) -> None:
        """Compile what computes the same way for every batch."""
        network.compile()

    # Training and evaluation

    @abstractmethod
    def loss(self, network: nn.Module, images: Any, target: Any, recipe: Recipe) -> Tensor:
        """Of a batch in training: images and targets as the data sets' ``collate`` has put them together."""

    @abstractmethod
    def build_metrics(self, recipe: Recipe, classes: Sequence[str]) -> Metrics:
        """What evaluation measures.

        Raises:
            ConfigError: the recipe asks for what cannot be measured with these classes.
        """

    # Comparison with the folded network

    def batch(self, images: Sequence[Tensor]) -> Any:
        """The network's input for images of one size."""
        import torch

        return torch.stack(list(images))

    def noise(self, normal: Tensor) -> Any:
        """A random input of the network, made of a batch of normally distributed numbers."""
        return normal

    def compared(self, network: nn.Module) -> nn.Module:
        """What gives all that the network computes before it chooses anything, which a rounding error can turn."""
        return network

    # Prediction

    @abstractmethod
    def answer(self, run: FinishedRun, image: Image.Image, score: float, top: int) -> Answer:
        """Ask the network of a run about an image.

        Args:
            run: of this task.
            image: as it is in its file.
            score: the least of objects that are drawn and printed.
            top: how many of the likeliest classes are reported.

        Raises:
            ConfigError: the network cannot take this image, or puts out what is no number.
        """
