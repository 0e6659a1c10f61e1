"""CIFAR-100, whole or a subset, in the folder of its python version."""

import functools

from ..cifar import read_cifar
from . import Source

SOURCE = Source({"label": functools.partial(read_cifar, "CIFAR-100")}, keys=("root", "download"))
