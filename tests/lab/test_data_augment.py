"""What happens to images and masks on the way to the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("torchvision")

from torchvision import tv_tensors

from convofconv.lab.data.decoding import VOID
from convofconv.lab.data.object_transforms import training_transform as detection_transform
from convofconv.lab.data.transforms import RandomResize, evaluation_transform, training_transform
from convofconv.lab.recipe.schema import DataRecipe

#: Normalisation that gives back the values of the uint8 image.
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


def pair(height: int, width: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An image whose first two channels are a pixel's row and column, 1 being the first, and whose mask is both."""
    rows, columns = torch.meshgrid(torch.arange(1, height + 1), torch.arange(1, width + 1), indexing="ij")
    image = torch.stack([rows, columns, torch.full_like(rows, 77)]).to(torch.uint8)
    return tv_tensors.Image(image), tv_tensors.Mask((rows * 16 + columns).to(torch.uint8))


def train(recipe: DataRecipe, image: torch.Tensor, target: Any, times: int = 1) -> list[tuple[torch.Tensor, Any]]:
    transform = training_transform(
        recipe, 0 if isinstance(target, int) else [round(255 * mean) for mean in recipe.mean]
    )
    torch.manual_seed(0)
    return [transform(image, target) for _ in range(times)]


def test_items_are_plain_tensors_of_the_right_kind() -> None:
    recipe = DataRecipe(crop=(8, 8), flip=True, photometric=True, scale=(0.5, 2.0), padding=1)
    for image, mask in (*train(recipe, *pair(10, 12)), evaluation_transform(recipe)(*pair(10, 12))):
        assert type(image) is type(mask) is torch.Tensor
        assert (image.dtype, mask.dtype) == (torch.float32, torch.int64)
    ((image, label),) = train(recipe, pair(10, 12)[0], 3)
    assert type(image) is torch.Tensor
    assert label == 3
    assert type(label) is int


def test_normalisation() -> None:
    image = tv_tensors.Image(torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None].expand(3, 4, 4))
    recipe = DataRecipe(mean=(0.1, 0.2, 0.5), std=(0.5, 1.0, 0.25), crop=(4, 4))
    for transform in (training_transform(recipe), evaluation_transform(recipe)):
        found, _ = transform(image, 0)
        torch.testing.assert_close(found[:, 0, 0], torch.tensor([-0.2, 0.0, 2.0]))
        assert found.shape == (3, 4, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": (5, 7)},
        {"crop": (5, 7), "flip": True},
        {"crop": (8, 9), "padding": 3},
        {"crop": (9, 14), "padding": 3},
        {"crop": (20, 30)},
        {"crop": (20, 4), "padding": 2, "flip": True},
    ],
)
def test_mask_and_image_move_together(changes: dict[str, Any]) -> None:
    """Rows and columns are in both: they must agree everywhere, and void must be where the image is filled."""
    seen = []
    for image, mask in train(DataRecipe(**RAW, **changes), *pair(10, 12), times=20):
        assert image.shape[1:] == mask.shape == changes["crop"]
        rows, columns, inside = image.round().long()
        void = mask == VOID
        assert torch.equal(void, inside == 0)
        assert torch.equal(mask[~void], (rows * 16 + columns)[~void])
        steps = columns.diff(dim=1)[~void[:, 1:] & ~void[:, :-1]].unique().tolist()
        assert steps in ([1], [-1])
        seen.append((tuple(steps), mask.numpy().tobytes(), bool(void.any())))
    assert len({where for _, where, _ in seen}) > 3
    assert any(filled for _, _, filled in seen) == (changes["crop"] != (5, 7))
    assert {way for way, _, _ in seen} == ({(1,), (-1,)} if changes.get("flip") else {(1,)})
    if min(changes["crop"]) >= 12:
        assert all(int((mask != VOID).sum()) == 120 for _, mask in train(DataRecipe(**RAW, **changes), *pair(10, 12)))


def test_what_is_filled_is_zero_to_a_segmentation_network_and_black_in_classification() -> None:
    recipe = DataRecipe(crop=(32, 32))
    ((image, mask),) = train(recipe, *pair(10, 12))
    assert image[:, mask == VOID].abs().max() < 0.01
    ((image, _),) = train(recipe, pair(10, 12)[0], 0)
    black = -torch.tensor(recipe.mean) / torch.tensor(recipe.std)
    assert int((image == black[:, None, None]).all(0).sum()) == 32 * 32 - 120


@pytest.mark.parametrize(
    ("shorter", "scale", "least", "most"),
    [(0, (1.0, 1.0), (20, 30), (20, 30)), (40, (1.0, 1.0), (40, 60), (40, 60)), (40, (0.5, 2.0), (20, 30), (80, 120)),
     (0, (0.01, 0.02), (2, 2), (2, 2))],
)  # fmt: skip
def test_resizing(shorter: int, scale: tuple[float, float], least: tuple[int, int], most: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image, mask = pair(20, 30)
    sizes = set()
    for _ in range(40):
        found, found_mask = RandomResize(shorter, scale)(image, mask)
        assert found.shape[1:] == found_mask.shape
        assert set(found_mask.unique().tolist()) <= set(mask.unique().tolist())  # no new classes by interpolation
        sizes.add(tuple(found_mask.shape))
    heights = [height for height, _ in sizes]
    assert min(sizes) >= least
    assert max(sizes) <= most
    if least == most:
        assert sizes == {least}
    else:
        assert min(heights) < 1.2 * least[0]
        assert max(heights) > most[0] / 1.2
        assert all(abs(width - 1.5 * height) <= 1 for height, width in sizes)


def test_random_resized_crops_keep_mask_and_image_together() -> None:
    recipe = DataRecipe(crop=(16, 24), random_resized_crop=True, **RAW)
    halves = torch.zeros(40, 60, dtype=torch.uint8)
    halves[:, 30:] = 200
    image, mask = tv_tensors.Image(halves.expand(3, 40, 60)), tv_tensors.Mask((halves > 0).to(torch.uint8))
    shares = set()
    for found, found_mask in train(recipe, image, mask, times=20):
        assert found.shape == (3, 16, 24)
        assert found_mask.shape == (16, 24)
        assert ((found[0] > 100).long() != found_mask).float().mean() < 0.1  # they may part at the edge alone
        shares.add(int(found_mask.sum()))
    assert len(shares) > 5


@pytest.mark.parametrize("on", [True, False])
def test_photometric_changes_leave_the_mask_and_the_places(on: bool) -> None:
    grey = tv_tensors.Image(torch.tensor([90, 120, 60], dtype=torch.uint8)[:, None, None].repeat(1, 8, 8))
    grey[:, 4:] = 30
    _, mask = pair(8, 8)
    colours = set()
    for image, found in train(DataRecipe(crop=(8, 8), photometric=on, **RAW), grey, mask, times=30):
        assert torch.equal(found, mask.long())
        assert (image[:, :4] == image[:, :1, :1]).all()
        assert (image[:, :4].mean((1, 2)) > image[:, 4:].mean((1, 2)) - 1).all()
        colours.add(tuple(image[:, 0, 0].tolist()))
    assert len(colours) > 20 if on else colours == {(90.0, 120.0, 60.0)}


@pytest.mark.parametrize(
    ("changes", "task", "size"),
    [
        ({}, "segmentation", (40, 60)),
        ({"eval_resize": 20}, "segmentation", (20, 30)),
        ({}, "classification", (40, 60)),
        ({"eval_resize": 20, "eval_crop": 16}, "classification", (16, 16)),
        ({"eval_crop": 50}, "classification", (50, 50)),
    ],
)
def test_evaluation_sizes(changes: dict[str, int], task: str, size: tuple[int, int]) -> None:
    image, mask = pair(40, 60)
    transform = evaluation_transform(DataRecipe(flip=True, photometric=True, scale=(0.5, 2.0), **changes))
    found, target = transform(image, mask if task == "segmentation" else 1)
    assert found.shape[1:] == size
    if task == "segmentation":
        assert target.shape == size
    again, _ = transform(image, mask if task == "segmentation" else 1)
    assert torch.equal(found, again)


def disc(side: int = 120, radius: int = 20) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A white disc and its mask."""
    places = torch.arange(side) + 0.5
    inside = (places[:, None] - 47.3) ** 2 + (places - 61.8) ** 2 <= radius**2
    return tv_tensors.Image(255 * inside.to(torch.uint8).repeat(3, 1, 1)), tv_tensors.Mask(inside.to(torch.uint8))


def boxed(image: torch.Tensor, mask: torch.Tensor, how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc as a detector learns from it."""
    one = torch.ones(1, dtype=torch.int64)
    box = tv_tensors.BoundingBoxes(torch.tensor([[40.0, 20.0, 90.0, 80.0]]), format="XYXY", canvas_size=(120, 120))  # type: ignore[call-overload]
    objects = {"boxes": box, "labels": one, "area": one, "iscrowd": one, "masks": tv_tensors.Mask(mask[None])}
    varied, found = detection_transform((90,), None, flip=False, mask_resize=how)(image, objects)
    return varied, found["masks"][0]


RESIZED = {
    "scale": ({"scale": (0.75, 0.75), "crop": (90, 90)}, training_transform),
    "eval_resize": ({"eval_resize": 90}, evaluation_transform),
    "random_resized_crop": ({"random_resized_crop": True, "crop": (60, 60)}, training_transform),
}


@pytest.mark.parametrize("resized", [*RESIZED, "shorter"])
def test_masks_lie_where_their_images_do_if_that_is_asked_for(resized: str) -> None:
    """torchvision's nearest pixel is that at the beginning of a pixel, and not in its middle."""
    overlaps = {}
    for how in ("nearest", "nearest-exact"):
        torch.manual_seed(0)
        if resized == "shorter":
            image, mask = boxed(*disc(), how)
        else:
            values, transform = RESIZED[resized]
            image, mask = transform(DataRecipe(**RAW, **values, mask_resize=how))(*disc())
        shown = image[0] > (0.5 if image.max() <= 1 else 128)
        overlaps[how] = float((shown & (mask == 1)).sum() / (shown | (mask == 1)).sum())
        assert mask.unique().tolist() == [0, 1]
        assert type(mask) is torch.Tensor
    assert overlaps["nearest-exact"] > 0.97
    assert overlaps["nearest"] < overlaps["nearest-exact"] - 0.01


@pytest.mark.parametrize("how", ["nearest", "nearest-exact"])
def test_masks_are_resized_as_torch_does_by_that_name(how: str) -> None:
    mask = torch.randint(0, 21, (40, 60), dtype=torch.uint8)
    recipe = DataRecipe(eval_resize=30, **({} if how == "nearest" else {"mask_resize": how}))  # the default
    _, found = evaluation_transform(recipe)(pair(40, 60)[0], tv_tensors.Mask(mask))
    expected = torch.nn.functional.interpolate(mask[None, None].float(), (30, 45), mode=how)[0, 0]
    assert torch.equal(found, expected.long())


def test_what_is_filled_is_void_however_masks_are_resized() -> None:
    recipe = DataRecipe(crop=(20, 30), scale=(0.7, 0.9), padding=3, flip=True, mask_resize="nearest-exact", **RAW)
    for image, mask in train(recipe, *pair(12, 12), times=5):
        assert mask.dtype == torch.int64
        assert (mask == VOID).any()
        assert torch.equal(mask == VOID, image[2].round() == 0)
