"""Networks and images to look into, from runs, checkpoints and architectures; which layers; the command coc inspect."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("lightning", reason="needs the extra [lab]")

from safetensors.torch import save_file
from tiny_runs import CLASSIFY, DETECT, SEGMENT
from torchvision.models.detection import retinanet_resnet50_fpn

import convofconv as coc
from convofconv.cli import main
from convofconv.errors import ConfigError
from convofconv.lab.inspect.default_layers import field_layer, kernel_layers
from convofconv.lab.inspect.inspection import TOPICS, Wanted, inspect_networks
from convofconv.lab.inspect.kernel_nulls import claim_tests, combine_tests
from convofconv.lab.inspect.named_networks import NamedNetworks, networks_of_architecture, networks_of_runs
from convofconv.lab.inspect.prepared_images import prepare_images
from convofconv.lab.models.architectures import build_architecture

pytestmark = pytest.mark.lab

PLAIN = [*CLASSIFY, "--training.epochs=1"]
COC = [*PLAIN, "--method=coc", "--association.init=kaiming"]


@pytest.fixture
def runs(trained, tmp_path):
    arguments = {"plain": PLAIN, "coc": COC, "coc-1": [*COC, "--training.seed=1"]}
    return {name: trained(given, tmp_path / name) for name, given in arguments.items()}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for number in range(9):
        Image.fromarray(np.roll(pixels, 5 * number, 1)).save(folder / f"{number}.png")
    return folder


def test_runs_that_differ_in_their_seed_are_one_network(runs):
    found = networks_of_runs(list(runs.values()))
    assert {name: len(networks) for name, networks in found.by_name.items()} == {"plain": 1, "coc": 2}
    assert [bool(coc.summary(network).converted) for network in found.one_of_each.values()] == [False, True]
    assert found.classes == tuple("0123456789")
    one, other = (
        network.state_dict()["conv_stem.parametrizations.weight.original"] for network in found.by_name["coc"]
    )
    assert not one.equal(other)


@pytest.mark.parametrize("kind", ["converted", "folded", "plain"])
def test_checkpoints_of_an_architecture(kind, tmp_path):
    options = {"num_classes": 10}
    network = build_architecture("timm/mobilenetv3_small_050", options)
    if kind != "plain":
        coc.convert(network, config=coc.Config(init="kaiming"))
    if kind == "folded":
        network = coc.reparameterize(network)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    found = networks_of_architecture(
        "timm/mobilenetv3_small_050", options, [tmp_path / "weights.safetensors"], None, None
    )
    assert list(found.by_name) == ["weights.safetensors"]
    x = torch.randn(1, 3, 64, 64)
    assert torch.allclose(found.first(x), network.eval()(x), atol=1e-6)
    assert bool(coc.summary(found.first).converted) == (kind == "converted")


def test_an_architecture_beside_itself_converted():
    found = networks_of_architecture("timm/mobilenetv3_small_050", {}, [], "coc", "released")
    plain, converted = found.one_of_each.values()
    assert torch.equal(plain.conv_stem.weight, converted.conv_stem.parametrizations.weight.original)
    assert list(found.by_name) == ["timm/mobilenetv3_small_050", "timm/mobilenetv3_small_050, coc"]


NETWORKS = {
    "timm/resnet18": ("conv1", "layer2.1.conv2", "layer4"),
    "timm/mobilenetv3_small_050": ("conv_stem", "blocks.2.2.conv_dw", "blocks"),
    "torchvision/vgg11": ("features.0", "features.11", "features"),
    "torchvision/fcn_resnet50": ("backbone.conv1", "backbone.layer3.1.conv2", "backbone.layer4"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_that_are_looked_at_where_none_are_named(name):
    """The same of the plain network and of the converted one, which is left as it was."""
    network = build_architecture(name).train()
    converted = coc.convert(build_architecture(name))
    *kernels, field = NETWORKS[name]
    assert kernel_layers({"coc": converted}) == tuple(kernels)
    assert field_layer({"coc": converted}) == field_layer({"plain": network}) == field
    assert all(module.training for module in network.modules())


def test_of_a_detector_it_is_the_backbone():
    network = coc.convert(retinanet_resnet50_fpn(weights=None, weights_backbone=None))
    assert field_layer({"coc": network}) == "backbone.body.layer4"


def test_images_are_cut_as_a_classifier_has_seen_them(runs, photos, tmp_path):
    networks = networks_of_runs([runs["coc"]])
    found = prepare_images([str(photos)], networks.first, networks.recipe, tmp_path, most=4)
    height, width = networks.recipe.data.crop
    assert found.inputs.shape == (4, 3, height, width)
    assert [file.name for file in found.files] == ["0.png", "2.png", "4.png", "6.png"]
    assert found.shown.min() >= 0
    assert found.shown.max() <= 1
    mean, std = (torch.tensor(v)[:, None, None] for v in (networks.recipe.data.mean, networks.recipe.data.std))
    assert torch.allclose(found.inputs * std + mean, found.shown, atol=1e-6)


def test_images_of_other_tasks_keep_their_size(trained, photos, tmp_path):
    networks = networks_of_runs([trained([*SEGMENT, "--training.epochs=1"], tmp_path / "run")])
    found = prepare_images([str(photos)], networks.first, networks.recipe, tmp_path, most=2)
    assert found.inputs.shape == (2, 3, 40, 60)


def test_grey_networks_get_grey_images_and_others_than_three_channels_are_refused(photos, tmp_path):
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert prepare_images([str(photos)], grey, None, tmp_path).inputs.shape[:2] == (6, 1)
    with pytest.raises(ConfigError, match=r"takes images of 4 channels; files have 1 or 3. Leave --images out"):
        prepare_images([str(photos)], nn.Sequential(nn.Conv2d(4, 4, 3)), None, tmp_path)


def test_everything_is_found_and_is_plain_json(runs, photos, tmp_path):
    networks = networks_of_runs([runs["plain"], runs["coc"]])
    images = prepare_images([str(photos)], networks.first, networks.recipe, tmp_path, most=2)
    before = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in networks.one_of_each.items()}
    done = []
    found = inspect_networks(networks, Wanted(images=2, draws=5), images, done.append)
    assert done == list(TOPICS)
    numbers = json.loads(json.dumps(found.numbers(), allow_nan=False))
    assert set(numbers["kernels"]) == {"conv_stem", "blocks.2.2.conv_dw"}
    assert numbers["groups"]["plain"]["conv_stem"]["tests"] == {}
    assert numbers["groups"]["coc"]["conv_stem"]["tests"]["similarity"]["draws"] == 5
    assert set(numbers["fields"]) == set(numbers["maps"]["networks"]) == {"plain", "coc"}
    # The maps of all networks explain the same classes.
    assert len({tuple(one["labels"]) for one in numbers["maps"]["networks"].values()}) == 1
    assert set(numbers["health"]) == set(numbers["gradients"]["neighbour_shares"]) == {"coc"}
    assert set(found.figures()) == {
        *("kernels-conv_stem", "kernels-blocks.2.2.conv_dw", "fields", "maps", "gradients", "jacobian-coc", "taps-coc"),
        "health-coc",
    }
    for name, network in networks.one_of_each.items():
        assert all(value.equal(before[name][key]) for key, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


def test_over_seeds_fields_are_averaged_and_tests_combined(runs):
    networks = networks_of_runs([runs["coc"], runs["coc-1"]])
    found = inspect_networks(networks, Wanted(("groups", "fields"), images=2, draws=5))
    of_seeds = [claim_tests(network, "conv_stem", draws=5)["similarity"] for network in networks.by_name["coc"]]
    assert found.groups["coc"]["conv_stem"].over_seeds["similarity"] == combine_tests(of_seeds, "greater")
    (fields,) = found.fields["coc"].values()
    assert len(fields.fields) == 2
    assert fields.size == pytest.approx(sum(fields.sizes) / 2)


def test_the_command_writes_figures_and_numbers(runs, photos, tmp_path, capsys):
    assert main(["inspect", str(runs["coc"]), f"--images={photos}", "--noise=2", "--draws=5"]) == 0
    out = runs["coc"] / "inspect"
    assert {path.name for path in out.glob("*.png")} >= {"fields.png", "maps.png", "kernels-conv_stem.png"}
    printed = capsys.readouterr().out
    numbers = json.loads((out / "inspection.json").read_text())
    size = numbers["fields"]["coc"]["blocks"]["size"]
    assert f"coc: blocks: effective {size:.0f}" in printed
    assert "all associations are healthy" in printed
    assert f"figures and inspection.json: {out}" in printed


def test_an_architecture_alone(tmp_path, capsys):
    arguments = ["--arch=timm/mobilenetv3_small_050", "--method=coc", "--only", "kernels", "--groups=2"]
    assert main(["inspect", *arguments, f"--out={tmp_path / 'out'}"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("kernels-conv_stem.png", "kernels-blocks.2.2.conv_dw.png", "inspection.json")
    }


def test_a_detectors_run(trained, photos, tmp_path):
    run = trained([*DETECT, "--method=coc", "--training.epochs=1"], tmp_path / "run")
    networks = networks_of_runs([run])
    images = prepare_images([str(photos)], networks.first, networks.recipe, tmp_path, most=2)
    found = inspect_networks(networks, Wanted(images=2, draws=3), images)
    assert list(found.fields["coc"]) == ["backbone.body.layer4"]
    assert found.maps or any("no activation maps" in remark for remark in found.remarks)


MISTAKES = {
    "nothing": ([], r"name the folders of runs, or an architecture: coc inspect --arch timm/resnet50"),
    "no run": (["{tmp}/empty"], r"holds no finished run"),
    "a file": (["{tmp}/coc/results.json"], r"is a file: of which architecture\? Give --arch"),
    "twice": (["{tmp}/coc", "{tmp}/../{name}/coc"], r"the same run is given twice"),
    "unknown layer": (["{tmp}/coc", "--layer", "conv_stm"], r"there is no layer 'conv_stm'; did you mean conv_stem\?"),
    "unknown topic": (["{tmp}/coc", "--only", "kernel"], r"--only: 'kernel' is none of kernels, groups, fields"),
    "method of a run": (["{tmp}/coc", "--method", "coc"], r"--options, --method and --preset are for --arch"),
    "no such image": (["{tmp}/coc", "--images", "{tmp}/none.png"], r"none.png: no such image"),
    "method of maps": (["{tmp}/coc", "--images", "{tmp}/photos", "--maps", "gradcam"], r"gradcam"),
    "no number": (["{tmp}/coc", "--noise", "0"], r"images must be at least 1, got 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(mistake, runs, photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments, message = MISTAKES[mistake]
    given = [one.format(tmp=tmp_path, name=tmp_path.name) for one in arguments]
    assert main(["inspect", *given, f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_runs_of_two_tasks_are_refused(runs, trained, tmp_path):
    other = trained([*SEGMENT, "--training.epochs=1"], tmp_path / "segment")
    with pytest.raises(ConfigError, match=r"segment: runs are looked at side by side where they have the same task"):
        networks_of_runs([runs["plain"], other])


def test_of_a_network_of_videos_kernels_are_looked_at():
    network = coc.convert(nn.Sequential(nn.Conv3d(2, 8, 3), nn.Conv3d(8, 8, 3))).eval()
    with pytest.raises(ConfigError, match=r"first conv is a Conv3d: .* --only kernels groups health"):
        inspect_networks(NamedNetworks({"video": (network,)}), Wanted(draws=3))
    found = inspect_networks(NamedNetworks({"video": (network,)}), Wanted(("kernels", "groups", "health"), draws=3))
    assert set(found.figures()) == {"kernels-0", "kernels-1", "health-video"}


def test_a_network_without_kernels_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match=r"no conv with more than one tap"):
        inspect_networks(NamedNetworks({"pointwise": (network,)}), Wanted(("kernels",)))
