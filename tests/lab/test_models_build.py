"""The network of a recipe: seeded, converted where it says, and folded into what it would be without."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import convofconv as coc

pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
pytest.importorskip("safetensors", reason="safetensors is not installed (extra [lab])")
from convofconv.lab.models.network import build_network
from convofconv.lab.recipe.schema import DataRecipe, ModelRecipe, Recipe, TrainingRecipe

TINY = {"channels": [8, 16, 24, 32]}
SCENES = DataRecipe("digit_scenes")
RECIPES = {
    "classifier": Recipe(model=ModelRecipe("resnet18", options=TINY)),
    "small images": Recipe(model=ModelRecipe("resnet18", options=TINY, small_images=True)),
    "mobilenet": Recipe(model=ModelRecipe("mobilenetv3_small_050")),
    "shufflenet": Recipe(model=ModelRecipe("torchvision/shufflenet_v2_x0_5")),
    "fcn": Recipe("segmentation", data=SCENES, model=ModelRecipe("resnet18", options=TINY)),
    "fcn, all": Recipe("segmentation", data=SCENES, model=ModelRecipe("resnet18", options=TINY, convert="all")),
    "fcn of hrnet": Recipe("segmentation", data=SCENES, model=ModelRecipe("hrnet_w18_small")),
}
all_recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())


def convs(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def converted(network: nn.Module) -> set[str]:
    return {name for name, conv in convs(network).items() if coc.kernel_maps(conv)}


def spatial(network: nn.Module) -> set[str]:
    return {name for name, conv in convs(network).items() if conv.kernel_size != (1, 1)}


@all_recipes
def test_coc_starts_as_the_plain_network_of_the_same_seed_to_the_bit(recipe):
    plain = build_network(recipe, 4).eval()
    network = build_network(dataclasses.replace(recipe, method="coc"), 4).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), plain(images))
    assert converted(plain) == set()
    assert len(converted(network)) > 10


@all_recipes
def test_folding_gives_the_plain_network(recipe):
    plain = build_network(recipe, 4)
    folded = coc.reparameterize(build_network(dataclasses.replace(recipe, method="coc+stnd"), 4))
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in folded.modules()] == [type(module) for module in plain.modules()]


@pytest.mark.parametrize("backbone", ["resnet18", "hrnet_w18_small"])
def test_what_convert_converts(backbone):
    options = TINY if backbone == "resnet18" else {}
    for convert, also in (("backbone", set()), ("all", {"head.conv"})):
        model = ModelRecipe(backbone, options=options, convert=convert)
        network = build_network(Recipe("segmentation", "coc", data=SCENES, model=model), 4)
        backbone_convs = {name for name in spatial(network) if name.startswith("backbone.")}
        # HRNet's head has 1×1 convs alone, which stay plain.
        assert converted(network) == backbone_convs | (also & spatial(network))
    assert ("head.conv" in converted(network)) == (backbone == "resnet18")


@pytest.mark.parametrize("convert", ["backbone", "all"])
def test_a_classifier_is_converted_as_a_whole(convert):
    model = ModelRecipe("resnet18", options=TINY, convert=convert)
    network = build_network(Recipe(method="coc", model=model), 4)
    assert converted(network) == spatial(network)
    assert "conv1" in converted(network)


def test_of_a_classifying_hrnet_the_neck_stays_plain():
    """What widens the branches before the pooling is behind the backbone in the paper's library (mmcls)."""
    for convert, plain_parts in (("backbone", {"incre_modules", "downsamp_modules"}), ("all", set())):
        network = build_network(Recipe(method="coc", model=ModelRecipe("hrnet_w18_small", convert=convert)), 10)
        plain = {name.partition(".")[0] for name in spatial(network) - converted(network)}
        assert plain == plain_parts


def test_kernels_are_shared_over_the_whole_networks_forward():
    network = build_network(dataclasses.replace(RECIPES["fcn"], method="coc"), 4)
    hooked = [name for name, module in network.named_modules() if module._forward_pre_hooks]
    assert hooked == [""]


def test_method_and_preset_are_the_recipes():
    network = build_network(dataclasses.replace(RECIPES["fcn"], method="coc+stnd", preset="released"), 4)
    maps = [type(m).__name__ for m in coc.kernel_maps(network.backbone.layer2[0].conv1)]
    assert maps == ["SpatialAssociation", "KernelLayerNorm", "Standardization"]
    assert coc.kernel_maps(network.backbone.conv1)[0].config == coc.PRESETS["released"]


def test_the_seed_decides_the_weights():
    def weights(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # what was drawn before must not matter
        recipe = dataclasses.replace(RECIPES["fcn"], training=TrainingRecipe(seed=seed))
        return nn.utils.parameters_to_vector(build_network(recipe, 4).parameters())

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
