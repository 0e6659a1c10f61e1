"""Detectors: torchvision's own where the recipe is theirs, and what recipes change; their backbones and raw outputs."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from safetensors.torch import save_file
from torchvision import tv_tensors
from torchvision.models import detection
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from convofconv import ConfigError, reparameterize, summary, verify
from convofconv.lab.data.object_transforms import training_transform
from convofconv.lab.data.objects import collate_objects
from convofconv.lab.found_by_name import find_task
from convofconv.lab.metrics.coco_metrics import DetectionMetrics
from convofconv.lab.models.detector import AntialiasedResizing, BeforeSelection, build_detector
from convofconv.lab.models.network import build_network
from convofconv.lab.recipe.comparing import plain_values
from convofconv.lab.recipe.schema import Convert, DataRecipe, ModelRecipe, Recipe, TaskName, TrainingRecipe

pytestmark = pytest.mark.lab

SCENES = DataRecipe("digit_scenes", classes=11, eval_resize=64)
SMALL = ModelRecipe(
    options={"channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4},
    fpn_channels=16,
    smallest_anchor=8,
    head_norm="group",
    rois=16,
)
TASKS: tuple[TaskName, ...] = ("detection", "instance_segmentation")


def small(task: TaskName, **changes: Any) -> Any:
    recipe = Recipe(task, **{"data": SCENES, "model": SMALL, **changes})
    return build_network(recipe, 11)


def target(masks: bool) -> dict[str, Tensor]:
    found = {"boxes": torch.tensor([[4.0, 4.0, 30.0, 40.0]]), "labels": torch.tensor([3])}
    return {**found, "masks": torch.ones(1, 48, 64, dtype=torch.uint8)} if masks else found


@pytest.mark.parametrize("task", TASKS)
def test_images_are_shrunk_in_evaluation_as_in_training(task: TaskName) -> None:
    """Lines of one pixel in eight are grey then; a resizing that leaves out pixels would lose some."""
    detector = small(task, data=DataRecipe("digit_scenes", classes=11, eval_resize=64, longest=90)).eval()
    image = torch.zeros(3, 256, 512)
    image[..., ::8] = 1
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[8.0, 8.0, 99.0, 99.0]]), format="XYXY", canvas_size=(256, 512))
    one = torch.ones(1)
    objects = {"boxes": boxes, "labels": one, "area": one, "iscrowd": one}
    shown, _ = training_transform([64], 90, flip=False)(tv_tensors.Image(image), objects)
    assert shown.shape == (3, 45, 90)
    resized, _ = detector.transform.resize(image)
    assert torch.equal(resized, shown)


@pytest.mark.parametrize("masks", [False, True], ids=["retinanet", "maskrcnn"])
def test_the_papers_recipe_is_torchvisions_detector(masks: bool) -> None:
    """Same shapes of everything but the backbone's body, same anchors, same sizes."""
    data = DataRecipe("digit_scenes", classes=91, eval_resize=800, longest=1333)
    with torch.device("meta"):
        ours: Any = build_detector(ModelRecipe("resnet50"), data, 91, masks)
        theirs: Any = (detection.maskrcnn_resnet50_fpn if masks else detection.retinanet_resnet50_fpn)(
            weights=None, weights_backbone=None
        )

    def shapes(model: nn.Module) -> dict[str, torch.Size]:
        return {key: v.shape for key, v in model.state_dict().items() if not key.startswith("backbone.body.")}

    assert shapes(ours) == shapes(theirs)
    anchors = [(m.rpn if masks else m).anchor_generator for m in (ours, theirs)]
    assert anchors[0].aspect_ratios == anchors[1].aspect_ratios
    for mine, other in zip(*(a.sizes for a in anchors), strict=True):
        assert mine == pytest.approx(other, abs=1)  # torchvision cuts off, we round
    for name in ("min_size", "max_size", "image_mean", "image_std"):
        assert getattr(ours.transform, name) == getattr(theirs.transform, name)


@pytest.mark.parametrize("backbone", ["resnet18", "hrnet_w18_small", "mobilenetv3_small_050"])
@pytest.mark.parametrize(("masks", "strides"), [(False, [8, 16, 32, 64, 128]), (True, [4, 8, 16, 32, 64])])
def test_levels_have_their_strides(backbone: str, masks: bool, strides: list[int]) -> None:
    model = dataclasses.replace(SMALL, backbone=backbone, options={})
    network = build_detector(model, SCENES, 11, masks).eval()
    levels = network.backbone(torch.zeros(1, 3, 256, 128))
    assert [tuple(level.shape) for level in levels.values()] == [(1, 16, 256 // s, 128 // s) for s in strides]


@pytest.mark.parametrize(
    "backbone", ["resnet18", "hrnet_w18_small", "mobilenetv3_small_050", "regnetx_002", "convnext_atto"]
)
@pytest.mark.parametrize("task", TASKS)
def test_all_that_learns_has_a_gradient(task: TaskName, backbone: str) -> None:
    """Processes that share gradients refuse a network with parameters that get none."""
    options = SMALL.options if backbone == "resnet18" else {}
    network = small(task, method="coc", model=dataclasses.replace(SMALL, backbone=backbone, options=options))
    losses = network([torch.rand(3, 48, 64)] * 2, [target(task == TASKS[1])] * 2)
    sum(losses.values()).backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("task", TASKS)
def test_training_gives_losses_and_evaluation_gives_objects_in_the_images_pixels(task: TaskName) -> None:
    network = small(task)
    images = [torch.rand(3, 48, 64), torch.rand(3, 48, 64)]
    nothing = {key: value[:0] for key, value in target(task == TASKS[1]).items()}
    losses = network(images, [target(task == TASKS[1]), nothing])
    assert sum(losses.values()).requires_grad
    assert all(loss.isfinite() for loss in losses.values())
    getattr(network, "roi_heads", network).score_thresh = 0  # nothing learnt would find nothing
    found = network.eval()([torch.rand(3, 31, 200), torch.rand(3, 500, 40)])
    for objects, (height, width) in zip(found, [(31, 200), (500, 40)], strict=True):
        boxes = objects["boxes"]
        assert len(boxes)
        assert objects["labels"].max() < 11
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        if task == TASKS[1]:
            assert objects["masks"].shape[1:] == (1, height, width)


@pytest.mark.parametrize(("most", "retinanet", "maskrcnn"), [(0, 300, 100), (7, 7, 7), (400, 400, 400), (1500, 0, 0)])
def test_as_many_objects_are_put_out_as_are_asked_for(most: int, retinanet: int, maskrcnn: int) -> None:
    """torchvision's own numbers by default. More than it looks at by default are looked at too."""
    model = dataclasses.replace(SMALL, max_detections=most)
    boxes, masks = (small(task, model=model).eval() for task in TASKS)
    for chooser in (boxes, masks.roi_heads):
        chooser.score_thresh, chooser.nms_thresh = 0.0, 1.0  # everything is an object
    if most > 1000:
        assert boxes.topk_candidates == masks.rpn.pre_nms_top_n() == masks.rpn.post_nms_top_n() == most
        return
    with torch.no_grad():
        found = [network([torch.rand(3, 64, 64)])[0]["boxes"] for network in (boxes, masks)]
    assert [len(one) for one in found] == [retinanet, maskrcnn]


def test_masks_are_those_of_torchvision_above_a_half() -> None:
    """Whose probabilities of every pixel nobody has the memory for."""
    own, theirs = (cls(60, 80, [0.0] * 3, [1.0] * 3).eval() for cls in (AntialiasedResizing, GeneralizedRCNNTransform))
    corners = torch.rand(5, 2, 2).sort(1).values * torch.tensor([60.0, 50.0])
    answers = {"boxes": corners.flatten(1), "labels": torch.ones(5), "masks": torch.rand(5, 1, 28, 28)}
    nothing = {name: values[:0] for name, values in answers.items()}
    sizes, originals = [(50, 60)] * 2, [(100, 121)] * 2
    found, expected = (
        transform.postprocess([dict(answers), dict(nothing)], sizes, originals) for transform in (own, theirs)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert one["masks"].dtype == torch.bool
        assert torch.equal(one["masks"], other["masks"] > 0.5)
        assert torch.equal(one["boxes"], other["boxes"])
    assert found[0]["masks"].any()


@pytest.mark.parametrize("task", TASKS)
def test_bfloat16_rounds_no_boxes_scores_or_losses(task: TaskName) -> None:
    """Behind 256 pixels it has even numbers alone. Copies and pickles are as careful."""
    network = pickle.loads(pickle.dumps(copy.deepcopy(small(task))))
    seen: dict[str, Any] = {}
    for name, part in network.named_modules():
        if name in ("rpn", "anchor_generator", "rpn.anchor_generator"):
            part.register_forward_hook(lambda module, inputs, found, name=name[-9:]: seen.update({name: found}))
    images, targets = [torch.rand(3, 300, 620)], [target(task == TASKS[1])]
    if "masks" in targets[0]:
        targets[0]["masks"] = torch.ones(1, 300, 620, dtype=torch.uint8)
    network(images, targets)
    expected = seen["generator"]
    with torch.autocast("cpu", torch.bfloat16):
        losses = network(images, targets)
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert all(torch.equal(*pair) for pair in zip(seen["generator"], expected, strict=True))
        if "rpn" in seen:
            assert seen["rpn"][0][0].dtype == torch.float32, "proposals"
        getattr(network, "roi_heads", network).score_thresh = 0
        (found,) = network.eval()(images)
        assert len(found["boxes"])
        assert {found[name].dtype for name in ("boxes", "scores")} == {torch.float32}
        assert {output.dtype for output in BeforeSelection(network)(images)} == {torch.float32}


@pytest.mark.parametrize(
    ("task", "side", "width", "rate", "steps", "figures"),
    [
        ("detection", 64, 8, 0.005, 40, {"AP50"}),
        ("instance_segmentation", 96, 16, 0.003, 60, {"AP50", "mask_AP50"}),
    ],
)
def test_a_few_scenes_are_learned_by_heart(
    task: TaskName, side: int, width: int, rate: float, steps: int, figures: set[str]
) -> None:
    """Which needs the same labels, boxes and masks in training and in evaluation, whatever size images are given."""
    options = {"channels": [width] * 4, "stem_type": "deep", "stem_width": width // 2, "norm_layer": "groupnorm1"}
    model = dataclasses.replace(SMALL, options=options, fpn_channels=2 * width, rois=64)
    data = dataclasses.replace(SCENES, eval_resize=side, val_split="train", limit=2)
    sets, masks = find_task(task).build_data(data, 0), task == TASKS[1]
    network = small(task, method="coc", model=model, data=data)
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    for step in range(steps):
        losses = network(*collate_objects(sets.train[step, number] for number in range(2)))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    metrics = DetectionMetrics(11, masks)
    with torch.no_grad():
        images, targets = collate_objects(sets.val[number] for number in range(2))
        metrics.update(network.eval()(images), targets)
    found = metrics.compute()
    assert min(found[name] for name in figures) > 50, found


@pytest.mark.parametrize("convert", ["backbone", "all"])
@pytest.mark.parametrize("task", TASKS)
def test_the_backbone_or_everything_is_converted_and_folds_back(task: TaskName, convert: Convert) -> None:
    model = dataclasses.replace(SMALL, convert=convert)
    network = build_network(Recipe(task, "coc", data=SCENES, model=model), 11)
    converted = [conv.name for conv in summary(network).convs if conv.maps]
    assert converted
    assert all(name.startswith("backbone.body.") for name in converted) == (convert == "backbone")
    for name, parameter in network.named_parameters():
        if "parametrizations" in name:
            nn.init.normal_(parameter, std=0.1)
    plain = reparameterize(network)
    images = [torch.rand(3, 60, 50)] * 2
    assert verify(BeforeSelection(network), BeforeSelection(plain), images, 1e-4) < 1e-4
    with torch.no_grad():
        weight = plain.get_parameter("backbone.fpn.layer_blocks.0.0.weight")
        weight.add_(torch.rand_like(weight) / 10)
    with pytest.raises(Exception, match="outputs differ"):
        verify(BeforeSelection(network), BeforeSelection(plain), images, 1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_raw_outputs_hold_every_part_of_the_network(task: TaskName) -> None:
    """A change of any parameter shows in them, so that folding it wrongly would be seen."""
    network = small(task).eval()
    raw = BeforeSelection(network)
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in network.parameters():
            if not parameter.any():
                parameter.uniform_()  # timm's blocks start with nothing but their shortcuts
        before = raw(images)
        for name, parameter in network.named_parameters():
            saved = parameter.clone()
            parameter.add_(torch.randn_like(parameter))
            after = raw(images)
            assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), name
            parameter.copy_(saved)


_DEFAULTS: dict[str, Any] = {"fpn_channels": 256, "smallest_anchor": 32, "head_norm": "none", "rois": 512}


def classifier_run(folder: Path, method: str = "coc", **model: Any) -> nn.Module:
    """What the run of a classifier leaves, and its network."""
    recipe = Recipe("classification", method, model=dataclasses.replace(SMALL, **_DEFAULTS, **model))
    network = build_network(recipe, 10)
    save_file({key: v.contiguous() for key, v in network.state_dict().items()}, folder / "converted.safetensors")
    plain = reparameterize(network).state_dict()
    save_file({key: v.contiguous() for key, v in plain.items()}, folder / "model.safetensors")
    (folder / "results.json").write_text(json.dumps({"recipe": plain_values(recipe)}))
    return network


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050"], ids=["plain", "with activation"])
@pytest.mark.parametrize("task", TASKS)
def test_frozen_norms_neither_learn_nor_look_at_batches(task: TaskName, backbone: str, tmp_path: Path) -> None:
    options = SMALL.options if backbone == "resnet18" else {}
    classifier_run(tmp_path, backbone=backbone, options=options)
    model = dataclasses.replace(SMALL, backbone=backbone, options=options, weights=str(tmp_path))
    recipe = Recipe(task, "coc", data=SCENES, model=model)
    learning = build_network(recipe, 11)
    frozen = build_network(dataclasses.replace(recipe, model=dataclasses.replace(model, freeze_norm=True)), 11)
    assert list(frozen.state_dict()) == list(learning.state_dict())
    frozen = copy.deepcopy(frozen).train()
    body = frozen.get_submodule("backbone.body")
    norms = {name: module for name, module in body.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: copy.deepcopy(module.state_dict()) for name, module in norms.items()}
    seen = []
    for norm in norms.values():
        norm.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        frozen([torch.rand(3, 64, 64)], [{**target(False), "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}])
    assert seen == [(torch.bfloat16, torch.bfloat16)] * len(norms)
    for name, norm in norms.items():
        assert all(torch.equal(value, before[name][key]) for key, value in norm.state_dict().items())
        assert not any(parameter.requires_grad for parameter in norm.parameters())
    # The heads' norms go on learning.
    assert any(module.training for module in frozen.modules() if isinstance(module, nn.GroupNorm))
    plain = reparameterize(frozen)
    assert verify(BeforeSelection(frozen), BeforeSelection(plain), [torch.rand(3, 60, 50)] * 2, 1e-4) < 1e-4


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("method", "freeze"), [("coc", False), ("coc", True), ("coc+stnd", True)])
def test_a_detector_starts_from_a_classifiers_run(task: TaskName, method: str, freeze: bool, tmp_path: Path) -> None:
    theirs = classifier_run(tmp_path, method).state_dict()
    model = dataclasses.replace(SMALL, weights=str(tmp_path), freeze_norm=freeze)
    training = TrainingRecipe(seed=5)
    detector = build_network(Recipe(task, method, data=SCENES, model=model, training=training), 11)
    ours = {key.removeprefix("backbone.body."): v for key, v in detector.state_dict().items() if ".body." in key}
    assert len(ours) > 50
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "torchvision/resnet18"}, "model.backbone: torchvision/resnet18 gives no feature maps"),
        ({"backbone": "vit_tiny_patch16_224", "options": {}}, "model.backbone: .* no map of stride 4"),
        ({"backbone": "resnot", "options": {}}, "no architecture|resnot"),
    ],
)
def test_impossible_backbones_are_named(changes: dict[str, Any], message: str) -> None:
    model = dataclasses.replace(SMALL, **changes)
    with pytest.raises(ConfigError, match=message):
        build_network(Recipe("instance_segmentation", data=SCENES, model=model), 11)


def test_norms_are_only_frozen_behind_the_kernels_that_they_have_seen(tmp_path: Path) -> None:
    """Otherwise the maps of later layers have many times the deviation that these expect."""
    classifier_run(tmp_path)
    model = dataclasses.replace(SMALL, weights=str(tmp_path), freeze_norm=True)
    kept: list[tuple[str, dict[str, Any]]] = [("plain", {}), ("coc", {}), ("coc", {"grid_side": 3}), ("doconv", {})]
    changed: list[tuple[str, dict[str, Any]]] = [
        (method, {}) for method in ("stnd", "orth", "norm", "coc+stnd", "coc+orth")
    ]
    changed += [("coc", {"kernel_norm": True}), ("coc", {"init": "kaiming"})]
    for method, association in kept:
        build_network(Recipe("detection", method, association=association, data=SCENES, model=model), 11)
    for method, association in changed:
        recipe = Recipe("detection", method, association=association, data=SCENES, model=model)
        with pytest.raises(
            ConfigError, match=r"model.freeze_norm: .* changes pretrained kernels.*freeze_norm to false"
        ):
            build_network(recipe, 11)
        free = dataclasses.replace(recipe, model=dataclasses.replace(model, freeze_norm=False))
        build_network(free, 11)


def test_there_must_be_norms_to_freeze(tmp_path: Path) -> None:
    options = {"channels": [8, 8, 8, 8], "norm_layer": "groupnorm1"}
    classifier_run(tmp_path, options=options)
    model = dataclasses.replace(SMALL, weights=str(tmp_path), freeze_norm=True, options=options)
    with pytest.raises(ConfigError, match=r"model.freeze_norm: the backbone has no batch norms"):
        build_network(Recipe("detection", data=SCENES, model=model), 11)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("data", {"eval_resize": 0}, "data.eval_resize is missing"),
        ("data", {"crop": (64, 64)}, "data.crop says nothing to detection"),
        ("data", {"shorter": (0,)}, "data.shorter must be lengths of at least 1"),
        ("model", {"dropout": 0.5}, "model.dropout says nothing to detection"),
        ("model", {"freeze_norm": True}, "model.freeze_norm needs model.weights"),
        ("model", {"rois": 0}, "model.rois must be at least 1"),
        ("training", {"label_smoothing": 0.1}, "training.label_smoothing says nothing"),
    ],
)
def test_keys_without_meaning_are_refused(section: str, changes: dict[str, Any], message: str) -> None:
    sections = {"data": SCENES, "model": SMALL, "training": TrainingRecipe()}
    with pytest.raises(ConfigError, match=message):
        Recipe("detection", **{**sections, section: dataclasses.replace(sections[section], **changes)})


def test_keys_of_detectors_are_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"model.fpn_channels says nothing to classification"):
        Recipe("classification", model=ModelRecipe(fpn_channels=64))
    with pytest.raises(ConfigError, match=r"data.shorter says nothing to segmentation"):
        Recipe("segmentation", data=DataRecipe("digit_scenes", classes=11, shorter=(64,)))
