"""Shares of activation maps on objects: held to areas that are known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("timm", reason="needs the extra [lab]")

from convofconv.errors import ConfigError, ShapeError
from convofconv.lab.found_by_name import find_task
from convofconv.lab.inspect.annotated_shares import annotated_shares
from convofconv.lab.inspect.object_shares import (
    ObjectShare,
    ObjectShares,
    by_size,
    difference_by_size,
    energy_share,
    object_shares,
    object_size,
)
from convofconv.lab.inspect.t_interval import t_interval
from convofconv.lab.recipe.recipe_files import recipe_from

pytestmark = pytest.mark.lab
SHARED = Path(__file__).parents[3] / "shared/data"


def square(side, at=(0, 0), size=(12, 16)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[at[0] : at[0] + side, at[1] : at[1] + side] = True
    return mask


def test_the_share_of_a_known_map():
    map = torch.zeros(12, 16)
    map[:4, :4], map[6:8, 6:8], map[10:] = 1.0, 2.0, -5.0  # 16 on the object, 8 beside it, less than none below
    share, chance = energy_share(map, square(4))
    assert share == pytest.approx(16 / 24)
    assert chance == pytest.approx(16 / 192)
    assert energy_share(torch.ones(12, 16), square(4)) == pytest.approx((chance, chance))


def test_void_pixels_do_not_count():
    share, chance = energy_share(torch.ones(12, 16), square(4), counted=~square(2))
    assert (share, chance) == pytest.approx((12 / 188, 12 / 188))


@pytest.mark.parametrize(
    ("map", "mask", "message"),
    [
        (torch.ones(12, 16), torch.zeros(12, 16, dtype=torch.bool), "the mask is empty"),
        (-torch.ones(12, 16), square(4), "nowhere positive"),
        (torch.ones(12, 16), square(4).float(), "must be bool"),
        (torch.ones(12, 15), square(4), "as the map"),
    ],
)
def test_a_share_of_nothing_is_refused(map, mask, message):
    with pytest.raises(ShapeError, match=message):
        energy_share(map, mask)


def test_the_size_of_objects():
    assert object_size(square(5)) == 5
    two = square(6) | square(2, (9, 9))
    mean = (36 * 6 + 4 * 2) / 40  # over the pixels of objects
    assert object_size(two) == pytest.approx(mean)
    assert object_size([square(6), square(2, (9, 9))]) == pytest.approx(mean)
    touching = [square(3), square(3, (3, 0))]
    assert object_size(touching) == 3
    assert object_size(touching[0] | touching[1]) == pytest.approx(math.sqrt(18))
    assert object_size(square(2) | square(2, (2, 2))) == pytest.approx(math.sqrt(8))  # corners hang together


def test_what_cannot_be_measured_is_counted():
    empty = torch.zeros(12, 16, dtype=torch.bool)
    one = torch.ones(12, 16)
    found = object_shares([one, one, -one, None], [square(4), empty, square(4), []], [1] * 4, images=[5, 6, 7, 8])
    assert [(share.image, share.size) for share in found.shares] == [(5, 4.0)]
    assert (found.empty, found.silent) == (2, 1)
    json.dumps(found.numbers(), allow_nan=False)
    with pytest.raises(ConfigError, match="need as many"):
        object_shares([one], [square(4), square(4)], [1])


def made_up(gain=0.0):
    sizes = {0: 4.0, 1: 4.5, 2: 10.0, 3: 15.0, 4: 40.0, 5: 50.0, 6: 60.0}
    shares = [ObjectShare(image, 1, size, 0.1 * image + gain * size, 0.1) for image, size in sizes.items()]
    return ObjectShares((*shares, ObjectShare(6, 2, 70.0, 0.8 + gain * 70, 0.3)))


def test_shares_are_binned_by_size_over_the_field():
    bins = by_size(made_up(), field=10.0)
    assert [bin.label for bin in bins] == ["≤ 0.5", "0.5 to 1", "1 to 2", "> 2"]
    assert [bin.images for bin in bins] == [2, 1, 1, 3]
    # Image 6 has two objects and counts once.
    assert bins[3].mean == pytest.approx((0.4 + 0.5 + (0.6 + 0.8) / 2) / 3)
    assert bins[3].interval == pytest.approx(t_interval([0.4, 0.5, 0.7]))
    assert bins[3].chance == pytest.approx(0.15)
    assert (bins[1].mean, bins[1].interval) == (pytest.approx(0.2), None)
    empty = by_size(made_up(), field=1000.0)[3]
    assert (empty.images, empty.mean, empty.chance) == (0, None, None)
    json.dumps([bin.numbers() for bin in [*bins, empty]], allow_nan=False)
    with pytest.raises(ConfigError, match="must have a size"):
        by_size(made_up(), 0.0)


def test_networks_are_compared_on_the_same_objects():
    bins = difference_by_size(made_up(gain=0.01), made_up(), field=10.0)
    assert [bin.mean for bin in bins] == pytest.approx([0.0425, 0.1, 0.15, (0.4 + 0.5 + 0.65) / 3])
    fewer = ObjectShares(made_up().shares[:2])
    assert [bin.images for bin in difference_by_size(made_up(), fewer, 10.0)] == [2, 0, 0, 0]
    with pytest.raises(ConfigError, match="no object in common"):
        difference_by_size(made_up(), ObjectShares(()), 10.0)


class Bright(nn.Module):
    """A segmenter that gives class 1 to bright pixels, or to none."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.features.weight)

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return torch.cat([torch.full_like(found, 0.5), found, torch.full_like(found, -1.0)], 1)


def test_a_segmenters_shares_on_annotated_objects():
    mask = torch.zeros(12, 16, dtype=torch.int64)
    mask[:4, :4], mask[8:, :], mask[5, 5] = 1, 255, 2
    image = torch.zeros(1, 12, 16)
    image[:, :3, :4] = image[:, 6, 6:10] = image[:, 9] = 1.0  # 12 on the object, 4 beside it, the rest where it is void
    found = annotated_shares(Bright(), [(image, mask), (torch.zeros(1, 12, 16), mask)], "features", "layer-cam")
    assert found.silent == 3  # nothing of class 2, and nothing of both in the second image
    assert [dataclasses.astuple(one)[:3] for one in found.shares] == [(0, 1, 4.0)]
    assert (found.shares[0].share, found.shares[0].chance) == pytest.approx((12 / 16, 16 / 128))
    alone = annotated_shares(Bright(), [(image, mask)], "features", "layer-cam", labels=[0])
    assert (alone.shares, alone.silent) == (
        (),
        1,
    )  # class 0 is an object if it is listed, but its map is nowhere positive


def test_a_detectors_shares_on_annotated_objects():
    from test_inspect_activation_maps import detector

    masks = torch.stack([square(6, (0, 0), (20, 30)), square(3, (10, 10), (20, 30)), square(5, (15, 20), (20, 30))])
    target = {"labels": torch.tensor([1, 1, 1]), "masks": masks.byte(), "iscrowd": torch.tensor([0, 0, 1])}
    found = annotated_shares(detector(), [(torch.rand(3, 20, 30), target)], "backbone.2")
    assert len(found.shares) == 1
    assert found.shares[0].size == pytest.approx((36 * 6 + 9 * 3) / 45)
    assert found.shares[0].chance == pytest.approx(45 / 575)  # without the pixels of the crowd


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data sets of ../shared/data")
def test_shares_on_real_objects():
    recipe = recipe_from("voc2012-subset-fcn-resnet18-w16", {"data.limit": 3}, SHARED)
    task = find_task(recipe.task)
    images = task.build_evaluation(recipe.data, recipe.data.val_split).images
    network = task.build_network(recipe, 21)
    # All pixels are given to dog or cat, so that other classes are silent.
    nn.init.constant_(network.head.predict.bias, -100.0)
    network.head.predict.bias.data[[8, 12]] = 0.0
    found = annotated_shares(network, [images[index] for index in range(3)], "backbone.layer3")
    assert len(found.shares) + found.silent >= 3
    assert all(0 <= one.share <= 1 and 0 < one.chance < 1 for one in found.shares)
