"""What the receptive fields of a layer cost, against plain forward-backward passes over the same images.

python -m benchmarks.receptive_field
"""

from __future__ import annotations

import argparse
import functools

import timm
import torch
from torch import Tensor, nn

from convofconv.lab.inspect.effective_field import effective_field
from convofconv.lab.inspect.theoretical_field import theoretical_field

from .records import add_common_arguments, has_record, write_record
from .timing import race

#: Networks of timm, and layers early and late.
LAYERS = (("resnet50", "layer4"), ("resnet50", "layer2"), ("resnet18", "layer4"))
IMAGES, PIXELS, BATCH = 32, 224, 4
#: The largest ratio that the project set itself.
TARGET = 1.3


def passes(model: nn.Module, images: Tensor) -> None:
    """Plain passes, forward and backward, over all images."""
    for part in images.split(BATCH):
        model.zero_grad(set_to_none=True)
        model(part).sum().backward()
    model.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser, turns=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for network, layer in LAYERS:
        settings = {"network": network, "layer": layer, "images": IMAGES, "pixels": PIXELS, "batch": BATCH}
        if has_record("receptive_field", settings, arguments):
            continue
        model = timm.create_model(network).to(arguments.device).eval()
        images = torch.randn(IMAGES, 3, PIXELS, PIXELS, device=arguments.device)
        known = theoretical_field(model, layer)
        contenders = {
            "plain": functools.partial(passes, model, images),
            "effective field": functools.partial(effective_field, model, layer, images, theoretical=known, batch=BATCH),
            "both fields": functools.partial(effective_field, model, layer, images, batch=BATCH),
        }
        times = race(contenders, arguments.turns, warmup=1)
        record = {"target": TARGET, "times": {name: vars(timing) for name, timing in times.items()}}
        write_record("receptive_field", settings, record, arguments)
        print(network, layer, {name: str(timing) for name, timing in times.items()}, flush=True)


if __name__ == "__main__":
    main()
