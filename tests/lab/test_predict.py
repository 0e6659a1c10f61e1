"""`coc predict`: what is written is what the network says, whatever the image, and mistakes are reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("lightning", reason="needs the extra [lab]")

from PIL import ExifTags, Image, ImageChops
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.v2.functional import to_image

from convofconv.cli import main
from convofconv.lab.data.digit_images import digit_images
from convofconv.lab.data.scenes import compose_scene
from convofconv.lab.data.transforms import evaluation_transform
from convofconv.lab.drawing.canvas import palette
from convofconv.lab.found_by_name import find_task
from convofconv.lab.models.network import build_network
from convofconv.lab.predict import prediction as module
from convofconv.lab.predict.finished_run import FinishedRun
from convofconv.lab.predict.image_files import image_paths, output_names
from convofconv.lab.recipe.recipe_files import recipe_of
from convofconv.lab.recipe.schema import DataRecipe, Recipe
from convofconv.lab.tasks import detection

pytestmark = pytest.mark.lab

TINY = ["--training.epochs=1", "--training.warmup_steps=0", "--machine.threads=1", "--machine.accelerator=cpu"]
NARROW = "--model.options={'channels': [8, 8, 8, 8]}"
RUNS = {
    "classification": ["digits-resnet18", NARROW, "--data.limit=32", "--training.batch=16", "--method=coc+stnd"],
    "segmentation": ["scenes-fcn-resnet18", NARROW, "--data.limit=8", "--training.batch=4", "--model.head_channels=8"],
    "instance_segmentation": [
        "scenes-maskrcnn-resnet18", NARROW, "--data.limit=8", "--training.batch=4", "--model.fpn_channels=16",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Gives the folder of a tiny finished run of a task."""
    made = {}

    def run(task):
        if task not in made:
            made[task] = tmp_path_factory.mktemp("runs") / task
            assert main(["fit", *RUNS[task], *TINY, f"--out={made[task]}"]) == 0
        return made[task]

    return run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*arguments):
    return main(["predict", *map(str, arguments), "--device=cpu"])


def told(folder):
    return json.loads((folder / "predictions.json").read_text())


def changed(run, to, section="data", **values):
    """A copy of a run whose recipe has other values."""
    shutil.copytree(run, to)
    results = json.loads((to / "results.json").read_text())
    results["recipe"][section].update(values)
    (to / "results.json").write_text(json.dumps(results))
    return to


def network_of(run):
    """The run's plain network, and its recipe, without what is tested here."""
    results = json.loads((run / "results.json").read_text())
    recipe = recipe_of({**results["recipe"], "method": "plain"})
    network = build_network(recipe, len(results["classes"]))
    network.load_state_dict(load_file(run / "model.safetensors"))
    return network.eval(), recipe, results["classes"]


def opened(path):
    """An image, its file closed."""
    with Image.open(path) as image:
        image.load()
    return image


def scene(path, seed=10**6, size=(96, 96)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(compose_scene(*digit_images(), seed).image).resize(size).save(path)
    return path


def blank(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(name, format="PNG")


def test_classes_are_the_likeliest_ones_by_the_definition(runs, here, capsys):
    digit = digit_images()[0][7]
    Image.fromarray(digit).save("seven.png")
    run = runs("classification")
    capsys.readouterr()
    assert predict(run, "seven.png", "--top=3") == 0
    network, recipe, classes = network_of(run)
    pixels = (torch.tensor(digit).double() / 255 - 0.13) / 0.31
    with torch.no_grad():
        shares = network(pixels.float().expand(1, 3, -1, -1))[0].softmax(0)
    expected = sorted(zip(shares.tolist(), classes, strict=True), reverse=True)[:3]
    found = told(run / "predictions")
    assert recipe.data.mean == (0.13,) * 3
    assert (found["task"], found["classes"], found["failed"]) == ("classification", list("0123456789"), [])
    (one,) = found["images"]
    assert (one["file_name"], one["width"], one["height"], one["drawing"]) == ("seven.png", 28, 28, "seven.png")
    assert [guess["class"] for guess in one["classes"]] == [name for _, name in expected]
    assert [guess["probability"] for guess in one["classes"]] == pytest.approx([s for s, _ in expected], rel=1e-4)
    assert opened(run / "predictions/seven.png").width > 600
    printed = ", ".join(f"{name} ({100 * share:.1f} %)" for share, name in expected)
    numbers = run / "predictions/predictions.json"
    assert capsys.readouterr().out == f"seven.png: {printed}\n1 image: {numbers}\n"


@pytest.mark.parametrize("size", [(96, 96), (61, 130)])
@pytest.mark.parametrize("eval_resize", [0, 48])
def test_masks_are_the_classes_of_the_pixels_by_the_definition(runs, here, capsys, size, eval_resize):
    scene(here / "scene.png", size=size)
    run = changed(runs("segmentation"), here / "run", eval_resize=eval_resize)
    capsys.readouterr()
    assert predict(run, "scene.png", "--out=out") == 0
    network, recipe, classes = network_of(run)
    prepared, _ = evaluation_transform(recipe.data)(to_image(opened("scene.png")), 0)
    assert (min(prepared.shape[-2:]) == eval_resize) == bool(eval_resize)
    with torch.no_grad():
        logits = network(prepared[None])
    numbers = F.interpolate(logits, size=size[::-1], mode="bilinear")[0].argmax(0).numpy()
    mask = opened("out/scene.mask.png")
    assert (mask.mode, mask.size) == ("P", size)
    np.testing.assert_array_equal(np.asarray(mask), numbers)
    assert tuple(mask.getpalette()[3:6]) == palette(background=True)[1]
    (one,) = told(here / "out")["images"]
    assert one["mask"] == "scene.mask.png"
    assert one["shares"] == pytest.approx(
        {classes[number]: (numbers == number).mean() for number in np.unique(numbers)}, rel=1e-5
    )
    assert list(one["shares"].values()) == sorted(one["shares"].values(), reverse=True)
    printed = capsys.readouterr().out.splitlines()[0]
    for name, share in list(one["shares"].items())[:5]:
        assert f"{name} ({'<0.1' if share < 0.0005 else f'{100 * share:.1f}'} %)" in printed
    assert printed.startswith(f"scene.png: {next(iter(one['shares']))} (")


def test_the_background_is_left_as_it_is_and_other_pixels_are_coloured():
    from convofconv.lab.drawing.region_drawing import draw_regions

    image, mask = Image.new("RGB", (600, 400), (200, 200, 200)), Image.new("P", (600, 400))
    mask.paste(2, (300, 0, 600, 400))
    mask.putpalette([part for colour in palette(background=True) for part in colour])
    drawn = draw_regions(image, mask, ("background", "a", "b"), {0: 0.5, 2: 0.5}, background=True)
    assert drawn.getpixel((100, 200)) == (200, 200, 200)
    mixed = [(200 + part) / 2 for part in palette(background=True)[2]]
    assert drawn.getpixel((500, 200)) == pytest.approx(mixed, abs=1)
    assert drawn.width > 600  # the legend


def test_objects_are_what_the_network_finds_by_the_definition(runs, here):
    names = [scene(here / "in" / name, 10**6 + i, (96, 80)).name for i, name in enumerate(("a.png", "b.png"))]
    run = runs("instance_segmentation")
    assert predict(run, "in", "--out=out") == 0
    network, _, classes = network_of(run)
    pixels = [torch.tensor(np.asarray(opened(here / "in" / name))).permute(2, 0, 1) / 255 for name in names]
    with torch.no_grad():
        expected = [network([one])[0] for one in pixels]
    assert sum(len(one["boxes"]) for one in expected) > 20, "the network finds too little for a test"
    coco = COCO("out/predictions.json")
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["in/a.png", "in/b.png"]
    assert {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())} == dict(enumerate(classes[1:], 1))
    loaded = coco.loadRes("out/detections.json")
    for number, one in enumerate(expected, start=1):
        found = loaded.loadAnns(loaded.getAnnIds(imgIds=number))
        assert len(found) == len(one["boxes"])
        for i, each in enumerate(found):
            left, top, right, bottom = one["boxes"][i].tolist()
            assert each["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=0.002)
            assert each["score"] == pytest.approx(one["scores"][i].item(), rel=1e-5)
            assert each["category_id"] == one["labels"][i].item()
            assert isinstance(each["segmentation"]["counts"], str)
            decoded = coco_mask.decode(each["segmentation"])
            np.testing.assert_array_equal(decoded, one["masks"][i, 0].numpy() > 0.5)


class BeeAndAnt(nn.Module):
    """Finds a bee surely and an ant hardly in every image."""

    def forward(self, images):
        assert all(image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1 for image in images)
        boxes = torch.tensor([[10.0, 40.0, 60.0, 70.0], [100.0, 100.0, 150.0, 140.0]])
        return [{"boxes": boxes, "labels": torch.tensor([2, 1]), "scores": torch.tensor([0.9, 0.4])} for _ in images]


class OneAnt(BeeAndAnt):
    """Finds the ant alone."""

    def forward(self, images):
        return [{name: values[1:] for name, values in found.items()} for found in super().forward(images)]


@pytest.mark.parametrize("categories", [(None, 3, 90), ()])
@pytest.mark.parametrize("score", [0.5, 0.3, 0.95])
def test_all_objects_are_written_and_the_sure_ones_drawn_and_printed(here, monkeypatch, capsys, categories, score):
    Image.new("RGB", (1000, 600), (255, 255, 255)).save("white.png")  # drawn as large as it is
    recipe = Recipe("detection", data=DataRecipe("digit_scenes", classes=11, eval_resize=96))
    run = FinishedRun(recipe, ("background", "ant", "bee"), categories, BeeAndAnt(), torch.device("cpu"))
    monkeypatch.setattr(module, "load_run", lambda path, device: run)
    assert predict("run", "white.png", f"--score={score}", "--out=out") == 0
    ant, bee = categories[1:] or (1, 2)
    assert json.loads(Path("out/detections.json").read_text()) == [
        {"image_id": 1, "category_id": bee, "bbox": [10.0, 40.0, 50.0, 30.0], "score": 0.9},
        {"image_id": 1, "category_id": ant, "bbox": [100.0, 100.0, 50.0, 40.0], "score": 0.4},
    ]
    assert told(here / "out")["categories"] == [{"id": ant, "name": "ant"}, {"id": bee, "name": "bee"}]
    drawn = opened("out/white.png")
    for label, least, (right, bottom) in ((2, 0.9, (60, 70)), (1, 0.4, (150, 140))):
        expected = palette(background=False)[label - 1] if least >= score else (255, 255, 255)
        assert drawn.getpixel((right - 1, bottom - 1)) == expected, label
        assert drawn.getpixel((right, bottom)) == (255, 255, 255)
    printed = {
        0.3: "1 bee (0.90), 1 ant (0.40); 2 boxes in all",
        0.5: "1 bee (0.90); 2 boxes in all",
        0.95: "nothing found above 0.95; 2 boxes in all, the highest score is 0.9",
    }
    assert capsys.readouterr().out.splitlines()[0] == f"white.png: {printed[score]}"


@pytest.mark.parametrize(("classes", "names"), [(("ant", "bee"), ["bee", "ant"]), (("ant",), [""])])
def test_names_are_left_out_where_there_is_only_one(here, monkeypatch, classes, names):
    Image.new("RGB", (200, 200)).save("black.png")
    recipe = Recipe("detection", data=DataRecipe("digit_scenes", classes=11, eval_resize=96))
    network = BeeAndAnt() if len(classes) == 2 else OneAnt()
    run = FinishedRun(recipe, ("background", *classes), (), network, torch.device("cpu"))
    monkeypatch.setattr(module, "load_run", lambda path, device: run)
    drawn = []
    monkeypatch.setattr(detection, "draw_objects", lambda image, found: drawn.extend(found) or image)
    assert predict("run", "black.png", "--score=0.1", "--out=out") == 0
    assert [one.name for one in drawn] == names


class Ants(nn.Module):
    """Finds several ants of falling scores."""

    def forward(self, images):
        boxes = torch.tensor([[10.0, 40.0, 60.0, 70.0]]).expand(4, 4)
        return [{"boxes": boxes, "labels": torch.ones(4).long(), "scores": torch.tensor([0.9, 0.7, 0.6, 0.1])}]


def test_objects_of_a_class_are_counted_with_their_scores(here, monkeypatch, capsys):
    blank("a.png", "b/c.png")
    recipe = Recipe("detection", data=DataRecipe("digit_scenes", classes=11, eval_resize=96))
    run = FinishedRun(recipe, ("background", "ant"), (), Ants(), torch.device("cpu"))
    monkeypatch.setattr(module, "load_run", lambda path, device: run)
    assert predict("run", "a.png", "b", "--out=out") == 0
    first, second, end = capsys.readouterr().out.splitlines()
    assert first == "a.png: 3 ant (0.90 to 0.60); 4 boxes in all"
    assert second.startswith("b/c.png: 3 ant ")
    assert end == "2 images: out/predictions.json"


@pytest.mark.parametrize("size", [(700, 500), (2, 300), (3000, 4), (40, 40)])
def test_that_nothing_was_found_is_drawn_where_it_can_be_read(size):
    from convofconv.lab.drawing.canvas import drawn_size, font, text_size
    from convofconv.lab.drawing.object_drawing import draw_nothing

    image, text = Image.new("RGB", size, (0, 200, 0)), "nothing found above 0.02"
    drawn = draw_nothing(image, text)
    width, height = drawn_size(*size, 960)
    letters = text_size((width, height))
    assert drawn.width >= font(letters).getlength(text) + 8
    assert drawn.height >= 2 * letters
    assert drawn.getpixel((0, 0)) != (0, 200, 0)
    below = (
        drawn.crop((0, 2 * letters, width, height)) if height > 2 * letters else drawn.crop((1000, 0, width, height))
    )
    assert below.getcolors() == [(below.width * below.height, (0, 200, 0))]


def test_nothing_found_is_an_empty_list_and_said(here, monkeypatch, capsys):
    class Blind(nn.Module):
        def forward(self, images):
            nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
            return [{**nothing, "masks": torch.zeros(0, 1, *image.shape[-2:])} for image in images]

    blank("a.png")
    recipe = Recipe("instance_segmentation", data=DataRecipe("digit_scenes", classes=11, eval_resize=96))
    run = FinishedRun(recipe, ("background", "ant"), (), Blind(), torch.device("cpu"))
    monkeypatch.setattr(module, "load_run", lambda path, device: run)
    drawn = []
    monkeypatch.setattr(detection, "draw_nothing", lambda image, text: drawn.append(text) or image)
    assert predict("run", "a.png", "--score=0.02", "--out=out") == 0
    assert json.loads(Path("out/detections.json").read_text()) == []
    assert capsys.readouterr().out.splitlines()[0] == "a.png: nothing found above 0.02"
    assert drawn == ["nothing found above 0.02"]


def odd_images(folder):
    """Of every mode, and of every shape."""
    folder.mkdir()
    grey = Image.fromarray(digit_images()[0][3])
    for mode, ending in (("1", "png"), ("L", "jpg"), ("LA", "png"), ("RGBA", "png"), ("CMYK", "tif"), ("F", "tif")):
        grey.convert(mode).save(folder / f"{mode}.{ending}")
    grey.convert("P").save(folder / "transparent.png", transparency=5)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "16.png")
    for name, size in {"pixel": (1, 1), "wide": (700, 2), "high": (1, 300), "large": (2100, 40)}.items():
        grey.resize(size).save(folder / f"{name}.png")
    return 12


@pytest.mark.parametrize("task", RUNS)
def test_images_of_any_mode_and_size_are_taken(runs, here, task, capsys):
    count = odd_images(here / "odd")
    assert predict(runs(task), "odd", "--out=out") == 0, capsys.readouterr().err
    images = told(here / "out")["images"]
    assert len(images) == count
    for one in images:
        drawing = opened(here / "out" / one["drawing"])
        assert (drawing.format, drawing.mode) == ("PNG", "RGB")
        assert 300 <= max(drawing.size) <= 4000
        if task == "segmentation":
            assert opened(here / "out" / one["mask"]).size == (one["width"], one["height"])
            assert sum(one["shares"].values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("task", RUNS)
def test_a_cameras_image_is_answered_upright(runs, here, task):
    grey = Image.fromarray(digit_images()[0][3]).resize((60, 40))
    grey.save(here / "upright.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the stored image lies on its left side
    grey.transpose(Image.Transpose.ROTATE_90).save(here / "camera.png", exif=exif)
    assert predict(runs(task), "upright.png", "camera.png", "--out=out") == 0
    drawings = [opened(here / "out" / name) for name in ("upright.png", "camera.png")]
    camera, upright = told(here / "out")["images"]
    assert (camera["width"], camera["height"]) == (60, 40)
    assert ImageChops.difference(*drawings).getbbox() is None
    own = {"id", "file_name", "drawing", "mask"}
    assert {key: camera[key] for key in camera.keys() - own} == {key: upright[key] for key in upright.keys() - own}


def test_the_same_images_give_the_same_files(runs, here):
    odd_images(here / "odd")
    for out in ("one", "two"):
        assert predict(runs("segmentation"), "odd", f"--out={out}") == 0
    files = sorted(path.name for path in (here / "one").iterdir())
    assert len(files) == 25
    for name in files:
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes(), name


def test_what_cannot_be_read_is_told_and_the_others_go_on(runs, here, capsys):
    blank("in/a.png", "in/c.png")
    Path("in/b.jpg").write_bytes(b"no image")
    assert predict(runs("classification"), "in", "--out=out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("coc: left out in/b.jpg: not a readable image")
    assert lines[1] == "coc: 1 of 3 images failed: in/b.jpg; the others are in out"
    found = told(here / "out")
    assert [(one["id"], one["file_name"]) for one in found["images"]] == [(1, "in/a.png"), (3, "in/c.png")]
    (failed,) = found["failed"]
    assert failed["file_name"] == "in/b.jpg"
    assert failed["reason"].startswith("not a readable image")
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "c.png", "predictions.json"]


def test_after_ctrl_c_the_numbers_are_those_of_what_was_drawn(runs, here, monkeypatch):
    for name in "abc":
        scene(here / "in" / f"{name}.png", seed=ord(name))
    assert predict(runs("classification"), "in", "--out=out") == 0
    task = find_task("classification")
    honest = task.answer

    def answer(run, image, *rest):
        if len(answered) == 1:
            raise KeyboardInterrupt
        answered.append(image)
        return honest(run, image, *rest)

    answered = []
    monkeypatch.setattr(task, "answer", answer)
    assert predict(runs("classification"), "in", "--out=out") == 130
    assert [one["file_name"] for one in told(here / "out")["images"]] == ["in/a.png"]


def test_a_image_that_the_network_cannot_take_is_told(here, monkeypatch, capsys):
    class Picky(nn.Module):
        def forward(self, images):
            if images.shape[-1] < 4:
                raise RuntimeError("Kernel size can't be greater than actual input size\nat line 7")
            assert images.shape[-1] != 6, "Input width (6) doesn't match model (4)."
            return torch.full((1, 2), float("nan" if images.shape[-1] == 5 else "0"))

    Path("in").mkdir()
    for width in (3, 4, 5, 6):
        Image.new("L", (width, 4)).save(f"in/{width}.png")
    run = FinishedRun(Recipe(), ("ant", "bee"), (), Picky(), torch.device("cpu"))
    monkeypatch.setattr(module, "load_run", lambda path, device: run)
    assert predict("run", "in", "--out=out") == 2
    assert "left out in/3.png: the network cannot take 3×4 pixels (Kernel size" in capsys.readouterr().err
    reasons = {one["file_name"]: one["reason"] for one in told(here / "out")["failed"]}
    assert list(reasons) == ["in/3.png", "in/5.png", "in/6.png"]
    assert "(Input width (6) doesn't match model (4).)" in reasons["in/6.png"]
    assert reasons["in/5.png"] == "the network puts out what is no number for this image"


@pytest.mark.parametrize(("shorter", "resized"), [(56, None), (57, [28, 56]), (560, [28, 56])])
def test_a_photo_is_scaled_down_to_what_a_classifier_of_small_images_has_seen(runs, here, shorter, resized):
    Image.effect_noise((shorter, 2 * shorter), 50).save("photo.png")
    assert predict(runs("classification"), "photo.png", "--out=out") == 0
    (said,) = told(here / "out")["images"]
    assert said.get("resized_to") == resized


@pytest.mark.parametrize("task", RUNS)
def test_a_strip_is_not_resized_to_more_than_the_memory(runs, here, capsys, task):
    Image.new("L", (9000, 4)).save("strip.png")
    run = changed(runs(task), here / "run", eval_resize=256)
    assert predict(run, "strip.png") == 2
    message = "left out strip.png: 9000×4 pixels are too many when the shorter side is 256 (data.eval_resize)"
    assert message in capsys.readouterr().err
    if task == "instance_segmentation":
        assert predict(changed(run, here / "limited", longest=9000), "strip.png") == 0


@pytest.mark.parametrize("task", RUNS)
def test_a_network_whose_weights_are_no_numbers_is_named(runs, here, capsys, task):
    """A detector would seem to find no objects."""
    blank("a.png")
    run = changed(runs(task), here / "run")
    weights = load_file(run / "model.safetensors")
    name = next(name for name in weights if name.endswith("conv1.weight"))
    weights[name][0] = float("nan")
    save_file(weights, run / "model.safetensors")
    assert predict(run, "a.png") == 2
    assert f"model.safetensors: weights that are no numbers, in {name}" in capsys.readouterr().err


def test_the_data_set_and_the_first_weights_need_not_be_there(runs, here):
    blank("a.png")
    moved = changed(runs("classification"), here / "moved", name="image_folder", root="/no/such/folder")
    moved = changed(moved, here / "again", "model", weights="timm", small_images=True)
    assert predict(moved, "a.png") == 0
    assert told(moved / "predictions")["images"][0]["file_name"] == "a.png"


def test_files_folders_and_patterns_sorted_and_each_once(here):
    blank("b/2.png", "b/1.PNG", "b/deep/3.jpg", "b/.hidden/4.png", "b/._1.png", "a.tif", "odd[1].png", "other.xyz")
    blank("b/__MACOSX/5.png", "b/deep/@eaDir/6.jpg")
    Path("b/notes.txt").write_text("no image")

    def found(*given, out="out"):
        return [path.as_posix() for path in image_paths(given, Path(out))]

    assert found("b") == ["b/1.PNG", "b/2.png", "b/deep/3.jpg"]
    assert found("b/*") == found("b")
    assert found("b/*.png") == ["b/2.png"]
    assert found("b/**/*.*") == found("b")
    assert found("b/__MACOSX") == found("b/__MACOSX/*") == found("*/__MACOSX/*.png") == ["b/__MACOSX/5.png"]
    assert found("b/.hidden/*") == found("*/.hidden/*.png") == ["b/.hidden/4.png"]
    assert found("**/*.jpg", "./b/2.png", "b/2.png", "b/../b/2.png", "a.tif", "b") == ["a.tif", *found("b")]
    assert found("odd[1].png") == ["odd[1].png"]  # a file, not the pattern of odd1.png
    assert found("other.xyz") == ["other.xyz"]
    assert found("b", str(here / "b")) == found("b")
    assert found(str(here / "b"), "b") == [f"{here}/{name}" for name in found("b")]


def test_results_below_the_searched_folder_are_no_images(here):
    blank("in/a.png", "in/out/a.png")
    for given in ("in", "in/**/*.png", "."):
        assert [path.as_posix() for path in image_paths([given], Path("in/out"))] == ["in/a.png"]
    assert [path.as_posix() for path in image_paths(["in/out"], Path("in/out"))] == ["in/out/a.png"]


def test_names_are_paths_below_the_common_folder_and_never_alike():
    def names(*paths):
        return output_names([Path(path) for path in paths])

    assert names("x/a.png") == ["a"]
    assert names("x/a/1.png", "x/b/1.png", "x/2.png") == ["a/1", "b/1", "2"]
    assert names("x/a/1.png", "x/a/2.png") == ["1", "2"]
    assert names("a.jpg", "a.png", "b.png") == ["a.jpg", "a.png", "b"]
    assert names("a.jpg", "A.png") == ["a.jpg", "A.png"]
    assert names("a.jpg", "a.mask.jpg") == ["a", "a.mask.jpg"]  # the first one's mask is a.mask.png
    assert names("a.b.jpg", "a.b.jpg.png", "a.b.png") == ["a.b.jpg", "a.b.jpg.png", "a.b.png"]
    for clash in (("a.jpg", "a.jpg.png", "a.png"), ("a.mask.jpg", "a.mask.mask.jpg", "a.png", "a.gif")):
        found = names(*clash)
        files = [f"{name}{ending}" for name in found for ending in (".png", ".mask.png")]
        assert len(set(files)) == len(files), found


def test_images_of_one_name_in_two_folders_both_get_their_results(runs, here):
    scene(here / "in/a/1.png", 1)
    scene(here / "in/b/1.png", 2)
    scene(here / "in/b/1.bmp", 3)
    assert predict(runs("segmentation"), "in", "--out=out") == 0
    files = {path.relative_to(here / "out").as_posix() for path in (here / "out").rglob("*.png")}
    assert files == {f"{name}{ending}" for name in ("a/1", "b/1.png", "b/1.bmp") for ending in (".png", ".mask.png")}
    for one in told(here / "out")["images"]:
        assert {one["drawing"], one["mask"]} <= files


def test_a_image_is_never_written_over(runs, here, capsys):
    blank("in/a.png")
    before = Path("in/a.png").read_bytes()
    assert predict(runs("classification"), "in/a.png", "--out=in") == 2
    assert "--out: a result would take the place of the image in/a.png" in capsys.readouterr().err
    assert Path("in/a.png").read_bytes() == before
    Image.new("L", (3, 3)).save("in/b.bmp")
    for _ in range(2):  # takes nothing's place, but that of what was drawn before
        assert predict(runs("classification"), "in/b.bmp", "--out=in") == 0
    capsys.readouterr()
    Image.new("L", (3, 3)).save("in/a.bmp")  # a.png lies beside it, and is not asked about
    assert predict(runs("classification"), "in/a.bmp", "--out=in") == 2
    assert "--out: a result would take the place of the image in/a.png" in capsys.readouterr().err
    assert Path("in/a.png").read_bytes() == before


MISTAKES = [
    (["nowhere", "a.png"], "nowhere holds no finished run, there is no results.json, model.safetensors"),
    (["RUN", "b.png"], "b.png: no such image, and no pattern of any"),
    (["RUN", "a.png", "*.jpg"], "*.jpg: no such image, and no pattern of any"),
    (["RUN", "empty"], "empty: no images in this folder"),
    (["RUN", "a.png", "--score=2"], "--score must be from 0 to 1, got 2.0"),
    (["RUN", "a.png", "--top=0"], "--top must be at least 1, got 0"),
    (["RUN", "a.png", "--out=a.png"], "a.png: no results can be written there"),
    (["RUN"], "images"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[-30:])
def test_mistakes_are_told_in_one_line_before_anything_is_written(runs, here, arguments, message, capsys):
    blank("a.png")
    Path("empty").mkdir()
    run = runs("classification")
    capsys.readouterr()
    before = sorted(run.rglob("*")), sorted(here.rglob("*"))
    assert predict(*(str(run) if one == "RUN" else one for one in arguments)) == 2
    told_line = capsys.readouterr().err
    assert told_line.startswith("coc: ")
    assert told_line.count("\n") == 1
    assert message in told_line
    assert (sorted(run.rglob("*")), sorted(here.rglob("*"))) == before


def test_cuda_without_a_gpu_is_told(here, runs, monkeypatch, capsys):
    blank("a.png")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["predict", str(runs("classification")), "a.png", "--device=cuda"]) == 2
    assert "--device cuda: torch finds no GPU here" in capsys.readouterr().err


def test_runs_that_are_broken_or_of_another_version_are_named(runs, here, capsys):
    blank("a.png")
    unfinished = here / "unfinished"
    shutil.copytree(runs("classification"), unfinished)
    (unfinished / "results.json").unlink()
    assert predict(unfinished, "a.png") == 2
    assert "unfinished holds no finished run, there is no results.json" in capsys.readouterr().err
    for text in ("{", "[]", '{"recipe": {"data": {"unknown": 1}, "model": {}}, "classes": []}', '{"recipe": []}'):
        (unfinished / "results.json").write_text(text)
        assert predict(unfinished, "a.png") == 2
        assert "results.json: not the results of a run of this version" in capsys.readouterr().err
    other = changed(runs("classification"), here / "other", "model", options={"channels": [8, 8, 8, 16]})
    assert predict(other, "a.png") == 2
    assert "model.safetensors: not the network of results.json: size mismatch" in capsys.readouterr().err


def test_a_run_of_an_older_version_has_the_defaults_of_newer_keys(runs, here):
    """Studies keep runs for long; keys come in the meantime."""
    blank("a.png")
    old = here / "old"
    shutil.copytree(runs("classification"), old)
    results = json.loads((old / "results.json").read_text())
    for key in ("shorter", "longest"):
        del results["recipe"]["data"][key]
    del results["recipe"]["machine"], results["categories"]
    (old / "results.json").write_text(json.dumps(results))
    assert predict(old, "a.png") == 0
