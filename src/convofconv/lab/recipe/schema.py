"""A recipe: everything that decides a training run, as checked dataclasses, read from one YAML per network × data set.

Values are checked when a recipe is made, before any data is read or network built; errors name the dotted key.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from ...config import PRESETS, Config, resolve_config
from ...errors import ConfigError, ConvOfConvError, listing
from ...maps import method_names
from ..found_by_name import find, find_task, names_in

if TYPE_CHECKING:
    from ..data.sources import Source

# Any text to mypy. Not in a branch on TYPE_CHECKING, whose other one jsonargparse would read.
TaskName: TypeAlias = Literal[names_in("tasks")]  # type: ignore[valid-type]
DataName: TypeAlias = Literal[names_in("data.sources")]  # type: ignore[valid-type]
Schedule = Literal["constant", "step", "poly", "linear", "cosine"]
Warmup = Literal["linear", "constant"]
Optimizer = Literal["sgd", "adamw"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Convert = Literal["backbone", "all"]
HeadNorm = Literal["none", "batch", "group"]
MaskResize = Literal["nearest", "nearest-exact"]

#: Keys of the data that say something to some sources only: where it is read, what can be fetched, and VOC's years.
KEYS_OF_SOURCES = ("root", "download", "year")
#: Keys that say something to some tasks only; each task names those that it knows.
KEYS_OF_SOME_TASKS = (
    *("data.crop", "data.resize", "data.scale", "data.random_resized_crop", "data.padding", "data.photometric"),
    *("model.dropout", "training.label_smoothing"),
    *("data.eval_crop", "model.small_images"),
    "data.mask_resize",
    *("data.focus", "model.output_stride", "model.head_channels"),
    *("data.shorter", "data.longest"),
    *("model.fpn_channels", "model.smallest_anchor", "model.head_norm", "model.rois", "model.max_detections"),
)


def find_source(name: str) -> Source:
    """The data source of a name; the first one that is imported takes time, for torch comes with it.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in (known := names_in("data.sources")):
        raise _refuse("data.name", f"one of {', '.join(known)}", name)
    source: Source = find("data.sources", name).SOURCE
    return source


def sources_of(task: str) -> list[str]:
    """Names of the data sources of a task, those that are built in first; none of a task that makes its own data."""
    sources = {name: find_source(name) for name in names_in("data.sources")}
    of_task = [name for name, source in sources.items() if find_task(task).target in source.reads]
    return sorted(of_task, key=lambda name: "root" in sources[name].keys)


def _refuse(key: str, rule: str, got: object) -> ConfigError:
    return ConfigError(f"{key} must be {rule}, got {got!r}")


def _check_finite(config: Any, section: str) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        several = value if isinstance(value, tuple) else (value,)
        if any(isinstance(one, float) and not math.isfinite(one) for one in several):
            raise _refuse(f"{section}.{field.name}", "finite", value)


def _at_least(config: object, section: str, bounds: Iterable[tuple[str, float]]) -> None:
    for name, least in bounds:
        value = getattr(config, name)
        if not value >= least:
            raise _refuse(f"{section}.{name}", f"at least {least:g}", value)


@dataclasses.dataclass(frozen=True)
class DataRecipe:
    """What is trained and evaluated on, and how training images are varied.

    Args:
        name: the data set; digits and digit_scenes are built in.
        root: the data set's folder, in the layout that docs/lab.md describes; none for what is built in.
        download: fetch the data set into root if it is missing; cifar10, cifar100 and voc only.
        train_split: split to train on.
        val_split: split to choose the best epoch by.
        test_split: split that `coc test` evaluates; empty for the validation split.
        year: year of a VOC folder, VOCdevkit/VOC2012 for example.
        classes: number of classes; the data must have as many. The background counts, except for classification.
        crop: height and width of a training crop.
        resize: length of an image's shorter side before cropping; 0 leaves images as they are.
        eval_resize: the same when evaluating; detectors need it.
        eval_crop: side of the centre crop when evaluating classification; 0 for none.
        scale: training images are resized by a random factor between these two.
        random_resized_crop: crop a random part of random shape (ImageNet's augmentation) in place of a plain crop.
        padding: pixels added on every side before cropping.
        flip: mirror half of the images.
        shorter: of a detector's training images, lengths of the shorter side to choose from; none for eval_resize.
        longest: of a detector's images, the most of the longer side, in training and evaluation; 0 for no limit.
        mask_resize: how masks are resized with their images; nearest, the usual way, moves them by up to half a pixel.
        photometric: vary brightness, contrast, saturation and hue.
        mean: mean of the channels, for normalisation.
        std: deviation of the channels.
        focus: classes whose mean IoU is reported besides, as mIoU_focus; for data with too few images of the others.
        limit: use only so many images of every split, evenly chosen; 0 for all.
        workers: processes that read images.
    """

    name: DataName = "digits"
    root: Path | None = None
    download: bool = False
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = ""
    year: str = "2012"
    classes: int = 10
    crop: tuple[int, int] = (32, 32)
    resize: int = 0
    eval_resize: int = 0
    eval_crop: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    random_resized_crop: bool = False
    padding: int = 0
    flip: bool = False
    shorter: tuple[int, ...] = ()
    longest: int = 0
    mask_resize: MaskResize = "nearest"
    photometric: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    focus: tuple[str, ...] = ()
    limit: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        if self.root is not None:
            object.__setattr__(self, "root", self.root.expanduser())  # it is frozen for everybody else
        _check_finite(self, "data")
        sizes = ("resize", "eval_resize", "eval_crop", "padding", "longest", "limit", "workers")
        _at_least(self, "data", [*((name, 0) for name in sizes), ("classes", 2)])
        if min(self.crop) < 1:
            raise _refuse("data.crop", "two numbers of at least 1", self.crop)
        if any(side < 1 for side in self.shorter):
            raise _refuse("data.shorter", "lengths of at least 1", self.shorter)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise _refuse("data.scale", "two positive factors, the smaller first", self.scale)
        if min(self.std) <= 0:
            raise _refuse("data.std", "positive", self.std)
        if self.root is None and self.name != DataRecipe.name and "root" in find_source(self.name).keys:
            raise ConfigError(f"data.root is missing: the folder of the data set {self.name}")
        if self.root is not None and not self.download and not self.root.is_dir():
            raise ConfigError(f"data.root: no such folder, {self.root}")


@dataclasses.dataclass(frozen=True)
class ModelRecipe:
    """The network.

    Args:
        backbone: name of a classifier of timm, torchvision/NAME, or module:function of your own.
        weights: where the backbone's weights come from: empty for random ones, "timm" for timm's pretrained ones, or
            the folder of a finished run of the same backbone.
        options: arguments of the backbone's constructor.
        small_images: replace the stem of a ResNet by a 3×3 conv without pooling, as is done for CIFAR.
        output_stride: of the backbone of a segmentation network.
        head_channels: channels of the head's 3×3 conv of a segmentation network; 0 for a
            quarter of its input (HRNet: as many as its input).
        dropout: share of features dropped before the last layer.
        fpn_channels: channels of a detector's feature pyramid and heads.
        smallest_anchor: side of the smallest boxes that a detector starts from; every level of the pyramid doubles it.
        head_norm: norms in a detector's pyramid and heads; without pretrained weights it learns far better with them.
        rois: boxes of a training image that Mask R-CNN's heads learn from.
        max_detections: objects that a detector puts out per image at most, and detections of a class in an image that
            AP counts; 0 for torchvision's own number (RetinaNet 300, Mask R-CNN 100) and COCO's 100.
        freeze_norm: leave the backbone's batch norms as they are, for pretrained ones and small batches; the kernels
            must be those that they were trained with, or a method that changes them a run of the same method.
        convert: convert the backbone only, as the paper does, or the whole network.
        pointwise: also convert 1×1 convs, c1x1 in the paper.
    """

    backbone: str = "resnet18"
    weights: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    small_images: bool = False
    output_stride: int = 8
    head_channels: int = 0
    dropout: float = 0.0
    fpn_channels: int = 256
    smallest_anchor: int = 32
    head_norm: HeadNorm = "none"
    rois: int = 512
    max_detections: int = 0
    freeze_norm: bool = False
    convert: Convert = "backbone"
    pointwise: bool = False

    def __post_init__(self) -> None:
        _check_finite(self, "model")
        if self.output_stride not in (8, 16, 32):
            raise _refuse("model.output_stride", "8, 16 or 32", self.output_stride)
        if not 0 <= self.dropout < 1:
            raise _refuse("model.dropout", "at least 0 and less than 1", self.dropout)
        bounds = [("head_channels", 0), ("fpn_channels", 1), ("smallest_anchor", 1), ("rois", 1), ("max_detections", 0)]
        _at_least(self, "model", bounds)
        if self.freeze_norm and not self.weights:
            raise ConfigError("model.freeze_norm needs model.weights: norms of random weights have seen no images")


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """The optimization.

    Args:
        epochs: passes over the training images.
        batch: images per optimizer step, over all processes and accumulated batches.
        eval_batch: images per process when evaluating.
        optimizer: sgd or adamw.
        lr: learning rate after the warm-up.
        momentum: of sgd.
        nesterov: Nesterov's momentum.
        weight_decay: on kernels, basic and super, and linear layers.
        decay_norms: also on norms and biases.
        super_kernel_rate: learning rate of super kernels, as a multiple of lr.
        schedule: how the learning rate falls.
        milestones: epochs at which the step schedule multiplies the rate by gamma.
        gamma: factor of the step schedule.
        power: of the poly schedule.
        min_lr: learning rate at the end of the poly, linear and cosine schedules.
        warmup: rise linearly from the share warmup_start of the rate, or stay constant at it.
        warmup_steps: length of the warm-up in optimizer steps; 0 for none.
        warmup_epochs: length of the warm-up in epochs, fractions allowed, in place of warmup_steps; 0 for those.
        warmup_start: share of the rate that the warm-up starts from.
        label_smoothing: of the cross-entropy.
        ema: decay of the moving average of the weights that is evaluated and kept; 0 for none.
        accumulate: batches per optimizer step.
        clip: largest norm of the gradient; 0 for no limit.
        precision: of the computation.
        channels_last: memory format of kernels and images.
        compile: compile the network.
        checkpoint_steps: also save every so many steps, not only after epochs; 0 for never.
        seed: decides weights, order and augmentation.
    """

    epochs: int = 10
    batch: int = 64
    eval_batch: int = 64
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norms: bool = True
    super_kernel_rate: float = 1.0
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    power: float = 0.9
    min_lr: float = 0.0
    warmup: Warmup = "linear"
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    warmup_start: float = 0.001
    label_smoothing: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    clip: float = 0.0
    precision: Precision = "32-true"
    channels_last: bool = False
    compile: bool = False
    checkpoint_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_finite(self, "training")
        ones = ("epochs", "batch", "eval_batch", "accumulate")
        zeros = ("weight_decay", "min_lr", "warmup_steps", "clip", "checkpoint_steps", "seed", "power", "gamma")
        _at_least(self, "training", [(name, 1) for name in ones] + [(name, 0) for name in zeros])
        _at_least(self, "training", [("super_kernel_rate", 0), ("warmup_epochs", 0)])
        if self.seed >= 1 << 63:
            raise _refuse("training.seed", "less than 2^63", self.seed)
        if self.lr <= 0:
            raise _refuse("training.lr", "positive", self.lr)
        for name in ("momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise _refuse(f"training.{name}", "at least 0 and less than 1", getattr(self, name))
        if not 0 < self.warmup_start <= 1:
            raise _refuse("training.warmup_start", "more than 0 and at most 1", self.warmup_start)
        if list(self.milestones) != sorted(set(self.milestones)) or any(m < 1 for m in self.milestones):
            raise _refuse("training.milestones", "rising epochs of at least 1", self.milestones)
        if self.schedule == "step" and not self.milestones:
            raise ConfigError("training.milestones is missing: the step schedule needs the epochs of its steps")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("training.nesterov needs training.momentum above 0")
        if self.batch % self.accumulate:
            raise _refuse("training.batch", f"a multiple of training.accumulate ({self.accumulate})", self.batch)


@dataclasses.dataclass(frozen=True)
class MachineRecipe:
    """Where the run is computed; decides nothing about its result but rounding, and the part of a batch that norms see.

    Args:
        accelerator: cpu, gpu or auto.
        devices: processes per machine, one per GPU.
        nodes: machines.
        strategy: auto or ddp.
        threads: CPU threads per process; 0 leaves torch's choice.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        _at_least(self, "machine", [("devices", 1), ("nodes", 1), ("threads", 0)])


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training run.

    Args:
        task: what the network learns; detection is RetinaNet, instance_segmentation Mask R-CNN.
        method: plain, or kernel maps joined with +: METHODS.
        preset: hyper-parameters of the association: poster, released or lightweight.
        association: hyper-parameters that differ from the preset's, grid_side for example.
        data: what is trained on.
        model: the network.
        training: the optimization.
        machine: where it is computed.

    Raises:
        ConfigError: a value is impossible, alone or together with another; the message names the key.
    """

    task: TaskName = "classification"
    method: str = "plain"
    preset: str = "poster"
    association: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: DataRecipe = dataclasses.field(default_factory=DataRecipe)
    model: ModelRecipe = dataclasses.field(default_factory=ModelRecipe)
    training: TrainingRecipe = dataclasses.field(default_factory=TrainingRecipe)
    machine: MachineRecipe = dataclasses.field(default_factory=MachineRecipe)

    def __post_init__(self) -> None:
        if self.task not in get_args(TaskName):
            raise _refuse("task", listing(get_args(TaskName)), self.task)
        if self.preset not in PRESETS:
            raise _refuse("preset", f"one of {', '.join(PRESETS)}", self.preset)
        try:
            config = self.config
        except ConvOfConvError as error:
            raise ConfigError(f"association: {error}") from error
        if self.method != "plain":
            from ...surgery.conversion import maps_for  # here, for it imports torch, and coc --help imports this file

            try:
                maps_for(self.method, config)
            except ConvOfConvError as error:
                raise ConfigError(f"method: {error}; or plain") from error
        if self.task != Recipe.task or self.data.name != DataRecipe.name:  # the defaults fit, and import nothing
            target = find_task(self.task).target
            if target and target not in find_source(self.data.name).reads:
                known = ", ".join(sources_of(self.task))
                raise _refuse("data.name", f"one of {known} for {self.task}", self.data.name)
        self._check_task()
        processes = self.machine.devices * self.machine.nodes * self.training.accumulate
        if self.training.batch % processes:
            raise _refuse(
                "training.batch", f"a multiple of processes × accumulated batches, {processes}", self.training.batch
            )

    def _check_task(self) -> None:
        """Ask the task, unless all is as by default: importing its file takes longer than ``coc --help`` may."""
        given = [key for key in KEYS_OF_SOME_TASKS if not self._by_default(*key.split("."))]
        if not given and self.task == type(self).task:
            return
        task = find_task(self.task)
        if unknown := [key for key in given if key not in task.keys]:
            raise ConfigError(f"{unknown[0]} says nothing to {self.task}; leave it out")
        task.check(self)

    def _by_default(self, section: str, name: str) -> bool:
        values = getattr(self, section)
        return bool(getattr(values, name) == getattr(type(values), name))

    @functools.cached_property
    def config(self) -> Config:
        """Hyper-parameters of the association: the preset's with the recipe's changes."""
        return resolve_config(self.preset).replace(**self.association)


# The help of the option, which must not be written by hand for every map.
Recipe.__doc__ = (Recipe.__doc__ or "").replace("METHODS", method_names())
