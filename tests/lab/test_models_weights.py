"""Networks that start from a finished run: the same method goes on, any other starts from folded kernels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convofconv as coc
from convofconv.errors import ConfigError

pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
pytest.importorskip("safetensors", reason="safetensors is not installed (extra [lab])")
import safetensors.torch

from convofconv.lab.files.state_dicts import write_state_dict
from convofconv.lab.models.network import build_network
from convofconv.lab.recipe.comparing import plain_values
from convofconv.lab.recipe.schema import DataRecipe, ModelRecipe, Recipe, TrainingRecipe

RESNET = ModelRecipe("resnet18", options={"channels": [8, 16, 24, 32]})
CLASSIFIER = Recipe(model=RESNET)
SEGMENTER = Recipe("segmentation", data=DataRecipe("digit_scenes"), model=dataclasses.replace(RESNET, output_stride=32))
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def randomize(network: nn.Module) -> None:
    """Super kernels and batch norms as training would leave them: anything but their start."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, coc.KernelMap):
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(0, 0.1)
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)


def finish(folder: Path, recipe: Recipe, classes: int = 4) -> nn.Module:
    """Leave in ``folder`` what a run leaves, and give its network."""
    network = build_network(recipe, classes).eval()
    randomize(network)
    write_state_dict(folder / "model.safetensors", coc.reparameterize(network).state_dict())
    if recipe.method != "plain":
        write_state_dict(folder / "converted.safetensors", network.state_dict())
    (folder / "results.json").write_text(json.dumps({"recipe": plain_values(recipe)}), encoding="utf-8")
    return network


def start(folder: Path, recipe: Recipe, classes: int = 4, seed: int = 1, **model: Any) -> nn.Module:
    """Build a network that starts from that run; by another seed, so that nothing is equal by chance."""
    changed = dataclasses.replace(recipe.model, weights=str(folder), **model)
    recipe = dataclasses.replace(recipe, model=changed, training=TrainingRecipe(seed=seed))
    return build_network(recipe, classes).eval()


def output(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(IMAGES)


def basic_kernels(network: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in network.named_parameters() if "parametrizations" in name}


@pytest.mark.parametrize("method", ["plain", "stnd", "coc", "coc+stnd"])
def test_the_same_method_goes_on_with_basic_and_super_kernels(tmp_path, method):
    recipe = dataclasses.replace(CLASSIFIER, method=method)
    theirs = finish(tmp_path, recipe)
    ours = start(tmp_path, recipe)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert torch.equal(output(ours), output(theirs))
    assert bool(basic_kernels(ours)) == (method != "plain")


@pytest.mark.parametrize(
    ("theirs", "ours"), [("plain", "coc"), ("coc", "plain"), ("coc+stnd", "coc"), ("coc+stnd", "plain")]
)
def test_another_method_starts_from_the_folded_network(tmp_path, theirs, ours):
    folded = coc.reparameterize(finish(tmp_path, dataclasses.replace(CLASSIFIER, method=theirs)))
    network = start(tmp_path, dataclasses.replace(CLASSIFIER, method=ours))
    assert torch.equal(output(network), output(folded))
    for name, kernels in basic_kernels(network).items():
        if name.endswith("super_kernel"):
            assert not kernels.any(), "kernel maps start anew"


@pytest.mark.parametrize("backbones", [("resnet18", "resnet18.tv_in1k"), ("resnet18.a1_in1k", "timm/resnet18")])
def test_which_of_timms_weights_a_backbone_names_does_not_matter_to_a_run(tmp_path, backbones):
    theirs, ours = (
        dataclasses.replace(CLASSIFIER, model=dataclasses.replace(RESNET, backbone=name)) for name in backbones
    )
    network = finish(tmp_path, theirs)
    assert torch.equal(output(start(tmp_path, ours)), output(network))


def test_another_preset_starts_from_the_folded_network(tmp_path):
    folded = coc.reparameterize(finish(tmp_path, dataclasses.replace(CLASSIFIER, method="coc")))
    with pytest.warns(coc.ConversionWarning, match="looks trained"):
        network = start(tmp_path, dataclasses.replace(CLASSIFIER, method="coc", preset="lightweight"))
    assert torch.equal(network.layer1[0].conv1.parametrizations.weight.original, folded.layer1[0].conv1.weight)


def features(network: nn.Module, last: nn.Module) -> list[Tensor]:
    """What a part of a network puts out, a list for HRNet's last stage."""
    seen: list[Any] = []
    handle = last.register_forward_hook(lambda module, inputs, out: seen.append(out))
    output(network)
    handle.remove()
    return list(seen[0]) if isinstance(seen[0], list | tuple) else [seen[0]]


@pytest.mark.parametrize("method", ["coc", "plain"])
@pytest.mark.parametrize(
    ("backbone", "options", "last"),
    [
        ("resnet18", RESNET.options, "layer4"),
        ("resnet18d", RESNET.options, "layer4"),
        ("hrnet_w18_small", {}, "stage4"),
        ("mobilenetv3_small_050", {}, "blocks"),
        ("resnetv2_18", RESNET.options, "stages"),
    ],
)
def test_a_classifiers_weights_reach_all_of_a_segmentation_networks_backbone(tmp_path, backbone, options, last, method):
    model = ModelRecipe(backbone, options=options, output_stride=32)
    own = dataclasses.replace(model, output_stride=8)  # says nothing to a classifier
    classifier = finish(tmp_path, dataclasses.replace(CLASSIFIER, method="coc", model=own), classes=9)
    network = start(tmp_path, dataclasses.replace(SEGMENTER, method=method, model=model))
    expected = features(classifier, classifier.get_submodule(last))
    with torch.no_grad():
        found = network.backbone(IMAGES)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    fresh = build_network(dataclasses.replace(SEGMENTER, model=model, training=TrainingRecipe(seed=1)), 4)
    assert torch.equal(network.head.predict.weight, fresh.head.predict.weight), "the head is random"


def test_a_segmentation_run_gives_its_backbone(tmp_path):
    theirs = finish(tmp_path, dataclasses.replace(SEGMENTER, method="coc"))
    ours = start(tmp_path, dataclasses.replace(SEGMENTER, method="coc"), classes=7, convert="all", output_stride=8)
    for name, value in theirs.backbone.state_dict().items():
        assert torch.equal(ours.backbone.state_dict()[name], value), name
    assert ours.head.predict.out_channels == 7


@pytest.mark.parametrize("backbone", ["resnet18", "torchvision/shufflenet_v2_x0_5", "torchvision/squeezenet1_1"])
@pytest.mark.parametrize("method", ["plain", "coc"])
def test_another_number_of_classes_leaves_only_the_last_layer_random(tmp_path, backbone, method):
    model = ModelRecipe(backbone, options=RESNET.options if backbone == "resnet18" else {})
    recipe = dataclasses.replace(CLASSIFIER, method=method, model=model)
    theirs = finish(tmp_path, recipe, classes=9).state_dict()
    ours = start(tmp_path, recipe, classes=4).state_dict()
    fresh = build_network(dataclasses.replace(recipe, training=TrainingRecipe(seed=1)), 4).state_dict()
    last = [name for name in theirs if theirs[name].shape != ours[name].shape]
    assert [name.rpartition(".")[2] for name in last] == ["weight", "bias"]
    for name, value in ours.items():
        assert torch.equal(value, (fresh if name in last else theirs)[name]), name


def change(folder: Path, edit: Any) -> None:
    """Edit the weights of a run in place."""
    state = safetensors.torch.load_file(folder / "model.safetensors")
    edit(state)
    write_state_dict(folder / "model.safetensors", state)


def test_missing_entries_are_named(tmp_path):
    finish(tmp_path, CLASSIFIER)
    change(tmp_path, lambda state: state.pop("layer2.0.bn1.running_var"))
    for recipe, name in ((CLASSIFIER, "layer2"), (SEGMENTER, "backbone.layer2")):
        with pytest.raises(ConfigError, match=rf"model.safetensors: nothing in it for {name}\.0\.bn1\.running_var;"):
            start(tmp_path, recipe)


def test_other_widths_are_named(tmp_path):
    finish(tmp_path, CLASSIFIER)
    for recipe in (CLASSIFIER, SEGMENTER):
        with pytest.raises(ConfigError, match=r"does not fit this network: size mismatch for .*layer4.*model.options"):
            start(tmp_path, recipe, options={"channels": [8, 16, 24, 40]})


def test_other_settings_of_the_same_name_are_named(tmp_path):
    recipe = dataclasses.replace(CLASSIFIER, method="coc")
    finish(tmp_path, recipe)
    other = coc.convert(build_network(CLASSIFIER, 4), "coc", coc.Config(grid_side=3))
    write_state_dict(tmp_path / "converted.safetensors", other.state_dict())
    with pytest.raises(ConfigError, match=r"does not fit this network: .*other settings"):
        start(tmp_path, recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (dataclasses.replace(CLASSIFIER, model=ModelRecipe("resnet34")), "has the backbone resnet18, not resnet34"),
        (dataclasses.replace(CLASSIFIER, model=ModelRecipe("torchvision/resnet18")), "not torchvision/resnet18"),
        (dataclasses.replace(CLASSIFIER, model=dataclasses.replace(RESNET, small_images=True)), "another stem"),
    ],
)
def test_runs_of_other_networks_are_refused(tmp_path, recipe, message):
    finish(tmp_path, CLASSIFIER)
    with pytest.raises(ConfigError, match=f"model.weights: .*{message}"):
        start(tmp_path, recipe)


def test_two_functions_of_one_package_are_two_networks(tmp_path, monkeypatch):
    """What stands behind a dot says which weights are meant in timm's names alone."""
    (tmp_path / "nets").mkdir()
    for name in ("first", "second"):
        (tmp_path / "nets" / f"{name}.py").write_text("from timm.models import resnet18 as net\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = dataclasses.replace(CLASSIFIER, model=ModelRecipe("nets.first:net", options=RESNET.options))
    finish(tmp_path, first)
    start(tmp_path, first)
    with pytest.raises(ConfigError, match=r"has the backbone nets\.first:net, not nets\.second:net"):
        start(tmp_path, first, backbone="nets.second:net")


def test_a_segmentation_run_starts_no_classifier(tmp_path):
    finish(tmp_path, SEGMENTER)
    with pytest.raises(ConfigError, match="one of segmentation"):
        start(tmp_path, CLASSIFIER)


@pytest.mark.parametrize("content", ["{", "{}", '{"recipe": {"method": "coc"}}', "[]"])
def test_results_without_a_recipe(tmp_path, content):
    finish(tmp_path, CLASSIFIER)
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"results.json names no recipe"):
        start(tmp_path, CLASSIFIER)


@pytest.mark.parametrize(
    ("file", "message"),
    [("results.json", "there is no results.json"), ("converted.safetensors", "there is no such file")],
)
def test_unfinished_runs(tmp_path, file, message):
    recipe = dataclasses.replace(CLASSIFIER, method="coc")
    finish(tmp_path, recipe)
    (tmp_path / file).unlink()
    with pytest.raises(ConfigError, match=message):
        start(tmp_path, recipe)
