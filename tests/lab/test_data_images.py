"""Decoding: images of any mode, masks as they are numbered, and what is said about broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchvision")

from PIL import ExifTags, Image

from convofconv import ConfigError
from convofconv.lab.data.decoding import VOID, open_image, open_mask, open_pair, read_lines

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def ramp(mode: str) -> Image.Image:
    """0 to 255 as an image of a mode; 16-bit and float ones have a wider range."""
    wide = {"I;16": (np.uint16, 16), "I": (np.int32, 100), "F": (np.float32, 0.5)}
    if mode in wide:
        dtype, factor = wide[mode]
        return Image.fromarray(RAMP.astype(dtype) * dtype(factor))
    if mode == "PA":
        return Image.fromarray(RAMP).convert("P").convert("PA")
    if mode == "RGBA":
        channels = [RAMP, RAMP.T, RAMP[::-1], np.full_like(RAMP, 128)]
        return Image.fromarray(np.stack(channels, -1), "RGBA")
    return Image.fromarray(RAMP).convert(mode)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("PA", "tiff"),
        ("RGB", "png"),
        ("RGBA", "png"),
        ("CMYK", "tiff"),
        ("I;16", "png"),
        ("I;16", "tiff"),
        ("I", "tiff"),
        ("F", "tiff"),
    ],
)
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str, ending: str) -> None:
    path = tmp_path / f"image.{ending}"
    ramp(mode).save(path)
    with Image.open(path) as stored:
        assert stored.mode in (mode, {"PA": "P"}.get(mode, mode))
    found = open_image(path)
    assert (found.mode, found.size) == ("RGB", (16, 16))
    pixels = np.asarray(found)
    if mode == "1":
        assert set(pixels.flat) == {0, 255}
    elif mode == "RGBA":
        assert np.array_equal(pixels, np.stack([RAMP, RAMP.T, RAMP[::-1]], -1))  # transparency is left out
    else:
        assert np.array_equal(pixels, np.stack([RAMP] * 3, -1))


def test_transparent_palettes_keep_their_colours(tmp_path: Path) -> None:
    ramp("P").save(tmp_path / "image.png", transparency=b"\x00\x80")
    assert np.array_equal(np.asarray(open_image(tmp_path / "image.png"))[..., 0], RAMP)


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_images_are_turned_upright_where_that_is_asked_for(
    tmp_path: Path, orientation: int, ending: str
) -> None:
    """EXIF 2.32, section 4.6.4: where the first row and the first column of the stored image belong.

    Pillow turns TIFFs itself when it decodes them.
    """
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    sides = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
    sides |= {5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"}
    row, column = sides[orientation].split()
    upright = stored
    if row in ("left", "right"):
        upright, row, column = upright.T, column, row
    upright = upright[:: -1 if row == "bottom" else 1, :: -1 if column == "right" else 1]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"camera.{ending}"
    Image.fromarray(stored).save(path, exif=exif)
    assert np.array_equal(np.asarray(open_image(path, upright=True))[..., 0], upright)
    assert np.array_equal(np.asarray(open_image(path))[..., 0], stored)
    assert np.array_equal(open_mask(path, 6), stored)


def test_exif_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    """Pillow raises where it is asked for it, or writes it anew; the pixels are fine."""
    path = tmp_path / "camera.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "maker"
    Image.new("RGB", (8, 6), (10, 20, 30)).save(path, exif=exif, dpi=(72, 72))
    assert open_image(path, upright=True).size == (6, 8)
    damaged = (
        path.read_bytes().replace(b"Exif\x00\x00MM", b"Exif\x00\x00XX").replace(b"Exif\x00\x00II", b"Exif\x00\x00XX")
    )
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with Image.open(path) as image, pytest.raises(SyntaxError):
        image.getexif()
    assert open_image(path, upright=True).size == (8, 6)


@pytest.mark.parametrize(
    ("size", "turned"), [((3, 2), False), ((2, 3), True)], ids=["annotated as stored", "annotated upright"]
)
@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_a_cameras_image_is_taken_as_it_was_annotated(
    tmp_path: Path, size: tuple[int, int], turned: bool, ending: str
) -> None:
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the first row is the right side
    Image.fromarray(stored).save(tmp_path / f"camera.{ending}", exif=exif)
    Image.new("L", size).save(tmp_path / "mask.png")
    image, _ = open_pair(tmp_path / f"camera.{ending}", tmp_path / "mask.png", 2)
    assert np.array_equal(np.asarray(image)[..., 0], np.rot90(stored, -1) if turned else stored)


def test_pixels_that_are_no_number_are_black_and_hide_no_others(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[0, :4] = [np.nan, np.inf, -np.inf, 3]
    for name, shown in (("some", values), ("all", np.full_like(values, np.nan))):
        Image.fromarray(shown).save(tmp_path / f"{name}.tiff")
    above = np.maximum(RAMP, 3) - 3.0  # of the darkest that is one
    expected = (255 * above / 252).astype(np.uint8)
    assert np.array_equal(np.asarray(open_image(tmp_path / "some.tiff"))[..., 0], expected)
    assert not np.asarray(open_image(tmp_path / "all.tiff")).any()


@pytest.mark.parametrize("size", [None, 32])
def test_large_jpegs_are_decoded_small_if_a_size_is_given(tmp_path: Path, size: int | None) -> None:
    Image.new("RGB", (640, 480), "red").save(tmp_path / "large.jpg")
    assert open_image(tmp_path / "large.jpg", size).size == ((160, 120) if size else (640, 480))


@pytest.mark.parametrize("palette", [True, False])
def test_masks_keep_their_numbers(tmp_path: Path, palette: bool) -> None:
    numbers = np.random.default_rng(0).choice(np.array([0, 1, 5, 20, VOID], np.uint8), (9, 7))
    image = Image.fromarray(numbers)
    if palette:
        image.putpalette([(91 * i) % 256 for i in range(768)])
    image.save(tmp_path / "mask.png")
    found = open_mask(tmp_path / "mask.png", 21)
    assert found.dtype == np.uint8
    assert np.array_equal(found, numbers)


@pytest.mark.parametrize("opener", [open_image, lambda path: open_mask(path, 2)])
@pytest.mark.parametrize("case", ["truncated", "no image", "empty", "missing"])
def test_broken_files_are_named(tmp_path: Path, opener, case: str) -> None:
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (40, 40), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    if case == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": whole[: len(whole) // 2], "no image": b"of text", "empty": b""}[case])
    with pytest.raises(ConfigError, match=r"broken\.png: not a readable (image|mask), repair or remove it"):
        opener(path)


@pytest.mark.parametrize(
    ("highest", "classes", "message"),
    [
        (11, 11, r"mask\.png: class 11 in the mask; with data\.classes = 11 there are 0 to 10, and 255 for void"),
        (254, 21, r"class 21, 22, 23, 24, 25, \.\.\. \(229 more\) in the mask"),
    ],
)
def test_unknown_classes_are_named(tmp_path: Path, highest: int, classes: int, message: str) -> None:
    Image.fromarray(np.arange(highest + 1, dtype=np.uint8)[None]).save(tmp_path / "mask.png")
    assert open_mask(tmp_path / "mask.png", highest + 1).max() == highest
    with pytest.raises(ConfigError, match=message):
        open_mask(tmp_path / "mask.png", classes)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "I;16"])
def test_masks_of_another_mode_are_refused(tmp_path: Path, mode: str) -> None:
    ramp(mode).save(tmp_path / "mask.png")
    with pytest.raises(ConfigError, match=rf"mask\.png: a mask is a palette or grey .*this one is {mode}"):
        open_mask(tmp_path / "mask.png", 256)


def test_pairs_of_different_size_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "image.png")
    Image.new("L", (8, 6)).save(tmp_path / "same.png")
    Image.new("L", (6, 8)).save(tmp_path / "turned.png")
    image, mask = open_pair(tmp_path / "image.png", tmp_path / "same.png", 2)
    assert (image.size, mask.shape) == ((8, 6), (6, 8))
    with pytest.raises(ConfigError, match=r"turned\.png: the mask is 6×8 but its image .*image\.png is 8×6"):
        open_pair(tmp_path / "image.png", tmp_path / "turned.png", 2)


def test_a_list_that_is_no_text_in_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(" a b \n\nä\n", encoding="utf-8")
    assert read_lines(tmp_path / "good.txt") == ["a b", "ä"]
    (tmp_path / "val.txt").write_bytes("ä".encode("latin-1"))
    for name in ("val.txt", "missing.txt"):
        with pytest.raises(ConfigError, match=rf"{name}: not readable as text in UTF-8 .*; write the list anew"):
            read_lines(tmp_path / name)
