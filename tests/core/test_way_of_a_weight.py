"""The way of a weight is as the docstring of ``convofconv.surgery`` tells it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import convofconv as coc
from convofconv import surgery

PACKAGE = Path(coc.__file__).parent
#: The files that each step names, in their order, without what it refers to in passing.
STEPS = [
    re.findall(r"``((?:maps|surgery|runtime|functional)/\w+\.py)``", step)
    for step in re.split(r"\n\d\. ", surgery.__doc__ or "")[1:]
]


def files_of(function: Callable[[], object]) -> list[str]:
    """The files of the package whose functions a call runs, in the order in which they come first."""
    seen: dict[str, None] = {}

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            seen.setdefault(path.relative_to(PACKAGE).as_posix())

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return list(seen)


def test_a_weight_goes_the_way_that_is_told():
    coc.reparameterize(coc.convert(nn.Conv2d(8, 8, 3)))  # importing a file runs it too
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))  # alike, so that they are computed in a batch
    x = torch.randn(2, 8, 6, 6)
    phases = [
        (lambda: coc.convert(model), STEPS[:3]),
        (lambda: model(x).sum().backward(), STEPS[3:5]),
        (lambda: coc.reparameterize(model), STEPS[5:]),
    ]
    assert len(STEPS) == 6
    for function, steps in phases:
        told = [file for step in steps for file in step]
        assert told
        assert [file for file in files_of(function) if file in told] == told
