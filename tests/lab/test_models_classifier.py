"""Classifiers by name: every library, small images, dropout, timm's weights, and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from convofconv.errors import ConfigError

pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
pytest.importorskip("torchvision", reason="torchvision is not installed (extra [lab])")
import timm

from convofconv.lab.models.classifier import build_classifier
from convofconv.lab.recipe.schema import ModelRecipe

TINY = {"channels": [8, 16, 24, 32]}


@pytest.mark.parametrize(
    ("backbone", "options", "kind"),
    [
        ("resnet18", TINY, "ResNet"),
        ("timm/resnet18", TINY, "ResNet"),
        ("hrnet_w18_small", {}, "HighResolutionNet"),
        ("mobilenetv3_small_050", {}, "MobileNetV3"),
        ("torchvision/shufflenet_v2_x0_5", {}, "ShuffleNetV2"),
        ("torchvision/googlenet", {}, "GoogLeNet"),
        ("torchvision/googlenet", {"aux_logits": False}, "GoogLeNet"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_any_classifier_by_its_name(backbone, options, kind, training):
    network = build_classifier(ModelRecipe(backbone, options=options), classes=7).train(training)
    assert type(network).__name__ == kind
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [("resnet18", TINY), ("resnet18d", TINY), ("torchvision/resnet18", {})],
    ids=["timm", "deep stem", "torchvision"],
)
def test_small_images_reach_the_first_stage_in_full_size(backbone, options):
    network = build_classifier(ModelRecipe(backbone, options=options, small_images=True), classes=5).eval()
    assert (network.conv1.kernel_size, network.conv1.stride) == ((3, 3), (1, 1))
    sizes = []
    network.layer1.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    assert network(torch.randn(2, 3, 20, 24)).shape == (2, 5)
    assert sizes == [(20, 24)]


def test_dropout_drops_before_the_last_layer_when_training():
    network = build_classifier(ModelRecipe("resnet18", options=TINY, dropout=0.5), classes=5)
    features = torch.ones(4, 32, 2, 2)
    torch.manual_seed(0)
    network.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    seen: list[torch.Tensor] = []
    network.train().forward_head(features)
    network.eval().forward_head(features)
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}
    assert set(seen[1].unique().tolist()) == {1.0}
    torchvision_net = build_classifier(ModelRecipe("torchvision/mobilenet_v3_small", dropout=0.4), classes=5)
    assert [m.p for m in torchvision_net.modules() if isinstance(m, nn.Dropout)] == [0.4]


def test_timms_weights_are_loaded_but_for_the_last_layer(monkeypatch):
    fetched = timm.create_model("resnet18", **TINY)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(fetched.state_dict()))
    network = build_classifier(ModelRecipe("resnet18", "timm", TINY), classes=5)
    assert network.fc.out_features == 5
    assert torch.equal(network.layer3[0].conv1.weight, fetched.layer3[0].conv1.weight)


def _no_network(*_: object, **__: object) -> None:
    raise ConnectionError("no route to the hub")


def test_without_network_timms_weights_are_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", _no_network)
    with pytest.raises(ConfigError, match=r"resnet18 cannot be built with timm's weights \(no route to the hub\)"):
        build_classifier(ModelRecipe("resnet18", "timm"), classes=5)


def test_networks_that_timm_has_no_weights_of():
    name = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(ConfigError, match=f"no pretrained weights of {name}"):
        build_classifier(ModelRecipe(name, "timm"), classes=5)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (ModelRecipe("resnet81"), r"timm has no model 'resnet81'; did you mean .*resnet18"),
        (ModelRecipe("torchvision/shuflenet_v2_x1_0"), "did you mean .*shufflenet_v2_x1_0"),
        (ModelRecipe("torchvision/retinanet_resnet50_fpn"), "no classifier"),
        (ModelRecipe("os:getcwd"), "os:getcwd gives a str, not a torch.nn.Module"),
        (ModelRecipe("mobilenetv3_small_050", small_images=True), "stem of a ResNet; .* is a MobileNetV3"),
        (ModelRecipe("hrnet_w18_small", small_images=True), "stem of a ResNet; .* is a HighResolutionNet"),
        (ModelRecipe("resnet18", "timm", small_images=True), "model.small_images replaces the stem, which"),
        (ModelRecipe("torchvision/shufflenet_v2_x0_5", dropout=0.2), "model.dropout: torchvision/shuffle.* leave it"),
        (ModelRecipe("torchvision/resnet18", "timm"), '"timm" has no weights of torchvision/resnet18'),
        (ModelRecipe("resnet18", options={"num_classes": 3}), "model.options: num_classes cannot be among them"),
        (ModelRecipe("resnet18", options={"pretrained": True}), "model.options: pretrained cannot be among them"),
        (ModelRecipe("resnet18", options={"widht": 3}), "cannot be built with .*widht"),
        (ModelRecipe("resnet18", options={"widht": 3}, dropout=0.1), "cannot be built with .*widht"),
    ],
)
def test_mistakes(recipe, message):
    with pytest.raises(ConfigError, match=message):
        build_classifier(recipe, classes=5)


OWN = """
from torch import nn
import timm

class Net(nn.Sequential):
    def __init__(self, num_classes, width=4):
        super().__init__(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))

def five(width=4):
    return Net(5, width)

def passed_on(**options):
    return timm.create_model("resnet18", channels=[8, 8, 8, 8], **options)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user's in the folder where coc is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    (tmp_path / "own_nets.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "options", "width"),
    [("Net", {}, 4), ("Net", {"width": 6}, 6), ("five", {}, 4), ("five", {"width": 6}, 6), ("passed_on", {}, 64)],
)
def test_a_network_of_one_s_own(own, name, options, width):
    """It is told the number of classes if it takes it."""
    network = build_classifier(ModelRecipe(f"own_nets:{name}", options=options), classes=5).eval()
    assert next(network.parameters()).shape[0] == width
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (ModelRecipe("own_nets:nett"), "own_nets:nett cannot be imported: .*did you mean Net"),
        (ModelRecipe("own_nets.py:Net"), "own_nets.py:Net cannot be imported: .*; write own_nets:Net"),
        (ModelRecipe("own_net:Net"), "No module named 'own_net'; .* PYTHONPATH"),
        (ModelRecipe("own_nets:Net", options={"num_classes": 3}), "model.options: num_classes cannot be among them"),
        (ModelRecipe("own_nets:Net", options={"widht": 3}), "own_nets:Net cannot be built with .*widht"),
        (ModelRecipe("own_nets:Net", dropout=0.1), "model.dropout is of timm's and torchvision's networks; .*options"),
        (ModelRecipe("own_nets:Net", "timm"), '"timm" has no weights of own_nets:Net'),
        (ModelRecipe("own_nets:Net", small_images=True), "stem of a ResNet; own_nets:Net is a Net"),
    ],
)
def test_mistakes_with_a_network_of_one_s_own(own, recipe, message):
    with pytest.raises(ConfigError, match=message):
        build_classifier(recipe, classes=5)


def test_a_small_stem_for_a_resnet_of_one_s_own(own):
    network = build_classifier(ModelRecipe("own_nets:passed_on", small_images=True), classes=5)
    assert network.conv1.kernel_size == (3, 3)


def test_unknown_names_are_refused_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(nn.Module, "__init__", lambda *_, **__: pytest.fail("something was built"))
    with pytest.raises(ConfigError, match="did you mean"):
        build_classifier(ModelRecipe("resnet81"), classes=5)
