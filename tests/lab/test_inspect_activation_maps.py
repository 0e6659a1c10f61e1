"""Activation maps: held to their definitions, to captum and grad-cam, and to what these get wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from figure_texts import check_texts
from torch import Tensor, nn

pytest.importorskip("timm", reason="needs the extra [lab]")

from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.resnet import BasicBlock

import convofconv as coc
from convofconv.errors import ConfigError, ShapeError
from convofconv.lab.inspect.activation_figure import draw_activation_maps
from convofconv.lab.inspect.activation_maps import METHOD_NAMES, activation_maps
from convofconv.lab.inspect.activation_targets import NothingFoundError, score
from convofconv.lab.inspect.cam_methods import eigen_cam
from convofconv.lab.inspect.field_comparison import compare_fields

pytestmark = pytest.mark.lab


def classifier(inplace=False, norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    features = [nn.Conv2d(3, 6, 3, 2, 1), norm(6), nn.ReLU(inplace), nn.Conv2d(6, 8, 3, 1, 1), norm(8)]
    network = nn.Sequential(*features, nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return network.double()


def images(number=3, height=17, width=22):
    return torch.randn(number, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_cam_of_one_known_channel():
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    network[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1]])[:, :, None, None]
    network[3].weight.data = torch.tensor([[0.0, 5.0], [1.0, 0.0]])  # class 0 is blue, class 1 is red
    shown = torch.rand(1, 3, 6, 8)
    found = activation_maps(network, shown, "0", "cam", target=0)
    torch.testing.assert_close(found.raw, 5 * shown[:, 2])
    torch.testing.assert_close(found.maps, shown[:, 2] / shown[:, 2].max())


def test_grad_cam_is_cam_over_the_number_of_pixels_where_both_are_defined():
    network, shown = classifier(), images()
    cam, grad_cam = (activation_maps(network, shown, "5", method) for method in ("cam", "grad-cam"))
    torch.testing.assert_close(grad_cam.raw, cam.raw.relu() / (9 * 11))
    assert cam.labels == grad_cam.labels == tuple(network.eval()(shown).argmax(1).tolist())


def test_cam_is_refused_where_more_follows_than_a_linear_layer():
    network = nn.Sequential(*classifier(), nn.LogSoftmax(1))
    with pytest.raises(ConfigError, match="take grad-cam"):
        activation_maps(network, images(), "5", "cam")


def test_grad_cam_is_captums():
    attr = pytest.importorskip("captum.attr")
    network, shown = classifier().eval(), images()
    for layer in "1", "3", "5":
        theirs = attr.LayerGradCam(network, network.get_submodule(layer)).attribute(shown, 2, relu_attributions=True)
        ours = activation_maps(network, shown, layer, target=2)
        torch.testing.assert_close(ours.raw, theirs[:, 0])


@pytest.mark.parametrize(
    ("method", "name"), [("grad-cam", "GradCAM"), ("grad-cam++", "GradCAMPlusPlus"), ("layer-cam", "LayerCAM")]
)
def test_maps_are_those_of_the_library_grad_cam(method, name):
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network, shown = classifier().eval(), images()
    network[8].weight.data *= 1e3  # grad-cam adds 1e-6 to a denominator of gradients squared
    for layer in "3", "5":
        module = network.get_submodule(layer)
        with getattr(library, name)(network, [module]) as theirs:
            theirs(shown, [ClassifierOutputTarget(1)] * 3)
            seen = theirs.activations_and_grads
            values = [np.concatenate([one.numpy() for one in part]) for part in (seen.activations, seen.gradients)]
            map = theirs.get_cam_image(shown, module, [], *values, False)
        ours = activation_maps(network, shown, layer, method, 1)
        torch.testing.assert_close(ours.raw, torch.from_numpy(map).relu(), rtol=1e-4, atol=1e-9)


def test_eigen_cam_is_grad_cams_up_to_the_sign_where_nothing_is_to_be_centred():
    library = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations")
    network, shown = classifier(norm=nn.InstanceNorm2d), images()
    outputs = network.eval()[:5](shown).detach()
    theirs = torch.from_numpy(library.get_2d_projection(outputs.numpy())).double()
    ours = activation_maps(network, shown, "4", "eigen-cam").raw
    torch.testing.assert_close(ours.abs(), theirs.abs(), rtol=1e-4, atol=1e-5)


def test_eigen_cams_sign_does_not_depend_on_the_order_of_channels():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        outputs = torch.randn(2, 6, 5, 7, dtype=torch.float64, generator=generator) + 0.1
        map = eigen_cam(outputs)
        assert ((map * outputs.sum(1)).sum((1, 2)) > 0).all()
        torch.testing.assert_close(eigen_cam(outputs[:, torch.randperm(6)]), map)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_what_an_in_place_relu_overwrites_is_kept(method):
    layer = "5" if method == "cam" else "4"
    in_place, other = (activation_maps(classifier(inplace), images(), layer, method) for inplace in (True, False))
    torch.testing.assert_close(in_place.raw, other.raw)


class Blocks(nn.Module):
    """Two blocks of torchvision's, which call their ReLU twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.block, self.fc = nn.Conv2d(3, 4, 3), BasicBlock(4, 4), nn.Linear(4, 3)
        self.block.relu.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


def test_uses_of_a_module_that_is_called_twice_are_numbered():
    attr, library = pytest.importorskip("captum.attr"), pytest.importorskip("pytorch_grad_cam")
    network, shown = Blocks().double().eval(), images()
    with pytest.raises(ConfigError, match=r"called 2 times.*block.relu#1 to block.relu#2"):
        activation_maps(network, shown, "block.relu")
    first, last = (activation_maps(network, shown, f"block.relu#{use}", target=1).raw for use in (1, 2))
    theirs = attr.LayerGradCam(network, network.block.relu).attribute(shown, 1, relu_attributions=True)
    torch.testing.assert_close(last, theirs[:, 0])
    with library.GradCAM(network, [network.block.relu]) as cam:
        cam(shown, [lambda output: output[1]] * 3)
        activations = torch.cat(list(cam.activations_and_grads.activations[:1]))
    relu = network.block.relu(network.block.bn1(network.block.conv1(network.stem(shown))))
    torch.testing.assert_close(activations, relu.detach())  # so what is compared is the first one
    gradient = torch.autograd.grad(
        network.fc(network.block.relu(network.block.bn2(network.block.conv2(relu)) + network.stem(shown)).mean((2, 3)))[
            :, 1
        ].sum(),
        relu,
    )[0]
    torch.testing.assert_close(first, (gradient.mean((2, 3), keepdim=True) * relu).sum(1).relu().detach())


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_converted_and_folded_have_the_same_maps(method):
    network = coc.convert(classifier())
    for name, parameter in network.named_parameters():
        if "original" not in name:
            nn.init.normal_(parameter, std=0.3)
    folded = coc.reparameterize(network)
    one, other = (activation_maps(each, images(), "5", method, 1) for each in (network, folded))
    torch.testing.assert_close(one.raw, other.raw, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one.maps, other.maps, rtol=1e-9, atol=1e-9)


def test_a_network_is_left_as_it_was():
    network = classifier().train()
    network[1].eval()
    for parameter in network[0].parameters():
        parameter.requires_grad_(False)
    network[8].weight.grad = torch.full_like(network[8].weight, 7.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    shown = images()
    with torch.inference_mode():
        activation_maps(network, shown, "5")
    with pytest.raises(ConfigError):
        activation_maps(network, shown, "5", target=9)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (network[8].weight.grad == 7).all()
    assert network[3].weight.grad is None
    assert not shown.requires_grad
    network.eval()
    network(shown).sum().backward()  # nothing is cut off


def test_frozen_networks_have_maps_too():
    network = classifier()
    raw = activation_maps(network, images(), "3").raw
    torch.testing.assert_close(activation_maps(network.requires_grad_(False), images(), "3").raw, raw)


def test_normalisations():
    network, shown = classifier(), images()
    raw = activation_maps(network, shown, "5", "cam", 0).raw
    resized = F.interpolate(raw[:, None], (17, 22), mode="bilinear")[:, 0]
    positive, whole = (
        activation_maps(network, shown, "5", "cam", 0, normalisation=name).maps for name in ("max", "min-max")
    )
    low, high = resized.amin((1, 2), keepdim=True), resized.amax((1, 2), keepdim=True)
    torch.testing.assert_close(positive, resized.relu() / high.clamp_min(1e-300).relu())
    torch.testing.assert_close(whole, (resized - low) / (high - low))


def test_a_map_without_anything_positive_is_zero():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    nn.init.constant_(network[4].weight, -1.0)
    assert not activation_maps(network, torch.rand(1, 3, 5, 5), "1").maps.any()


class Segmenter(nn.Module):
    def __init__(self, named=False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head, self.named = nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 3, 1), named

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        logits = F.interpolate(self.head(self.features(x)), x.shape[-2:], mode="bilinear")
        return {"out": logits} if self.named else logits


@pytest.mark.parametrize("named", [False, True])
def test_segmenters_are_explained_over_the_pixels_of_a_class(named):
    network, shown = Segmenter(named).double(), images(2)
    where = torch.zeros(2, 17, 22, dtype=torch.bool)
    where[:, 3:9, 4:7] = True
    features = network.features(shown).detach().requires_grad_()
    logits = F.interpolate(network.head(features), (17, 22), mode="bilinear")
    given = logits.argmax(1)
    for pixels, mask in ((None, given == 1), (where, where)):
        wanted = torch.autograd.grad((logits[:, 1] * mask).sum(), features, retain_graph=True)[0]
        found = activation_maps(network, shown, "features", "layer-cam", 1, where=pixels)
        torch.testing.assert_close(found.raw, (wanted.relu() * features).sum(1).relu().detach())
        torch.testing.assert_close(found.scores, (logits[:, 1] * mask).sum((1, 2)).detach())
    common = [max((1, 2), key=lambda label: int((one == label).sum())) for one in given]
    assert activation_maps(network, shown, "features").labels == tuple(common)


def test_class_0_is_explained_only_where_there_is_no_other():
    logits = torch.zeros(2, 3, 4, 4)
    logits[:, 0] = 1
    logits[0, 2, 0] = 2
    assert score(logits, None).labels == (2, 0)


def test_what_a_segmenter_does_not_find_is_refused():
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 1] = logits[1, 2] = 1
    with pytest.raises(NothingFoundError, match="image 1: no pixel is given to class 1"):
        score(logits, 1)
    with pytest.raises(NothingFoundError, match="image 0: the mask is empty"):
        score(logits, 1, torch.zeros(2, 4, 4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="must be bool"):
        score(logits, 1, torch.ones(2, 4, 4))
    with pytest.raises(ConfigError, match="classes are 0 to 2"):
        score(logits, 3)


def detector():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
    backbone.out_channels = 4
    anchors = AnchorGenerator(((8,),), ((1.0,),))
    network = RetinaNet(backbone, 3, anchor_generator=anchors, min_size=32, max_size=64, score_thresh=0.0)
    nn.init.normal_(network.head.classification_head.cls_logits.weight)
    return network.double()


def test_detectors_are_explained_by_the_scores_of_a_class():
    network = detector()
    shown = [torch.rand(3, 20, 30).double() for _ in range(2)]
    answers = network.eval()(shown)
    found = activation_maps(network, shown, "backbone.2", target=1)
    for value, answer in zip(found.scores, answers, strict=True):
        torch.testing.assert_close(value, answer["scores"][answer["labels"] == 1].sum().detach())
    # Images of 20×30 are resized to 32×48 and padded to 32×64, four times as large as the map.
    assert found.raw.shape == (2, 8, 16)
    assert found.maps.shape == (2, 20, 30)
    whole = F.interpolate(found.raw[:, None], (32, 64), mode="bilinear")[..., :48]
    resized = F.interpolate(whole, (20, 30), mode="bilinear")[:, 0]
    torch.testing.assert_close(found.maps, resized / resized.amax((1, 2), keepdim=True))
    assert activation_maps(network, shown, "backbone.2").labels == tuple(
        int(answer["labels"][answer["scores"].argmax()]) for answer in answers
    )
    with pytest.raises(NothingFoundError, match="no object of class 7"):
        activation_maps(network, shown, "backbone.2", target=7)
    with pytest.raises(ShapeError, match="of one size"):
        activation_maps(network, [shown[0], shown[1][:, 1:]], "backbone.2")
    with pytest.raises(ShapeError, match="of one size"):
        activation_maps(network, [shown[0][:1]], "backbone.2")


def test_a_function_of_the_outputs_can_be_the_target():
    network, shown = classifier(), images()
    found = activation_maps(network, shown, "5", target=lambda logits: logits[:, 1] - logits[:, 0])
    ours = [activation_maps(network, shown, "5", "cam", label).raw for label in (0, 1)]
    torch.testing.assert_close(found.raw, (ours[1] - ours[0]).relu() / 99)
    assert found.labels is None
    json.dumps(found.numbers(), allow_nan=False)
    with pytest.raises(ShapeError, match="one number per image"):
        activation_maps(network, shown, "5", target=lambda logits: logits)
    with pytest.raises(ConfigError, match="explains a class"):
        activation_maps(network, shown, "5", "cam", target=lambda logits: logits[:, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "9"}, "no such module"),
        ({"layer": "7"}, "a tensor of shape"),
        ({"method": "gradcam"}, "did you mean grad-cam"),
        ({"normalisation": "minmax"}, "did you mean min-max"),
        ({"layer": "3", "method": "cam"}, "take grad-cam"),
        ({"target": [1, 2]}, "2 classes, 3 images"),
        ({"target": -1}, "no class -1"),
        ({"where": torch.ones(3, 17, 22, dtype=torch.bool)}, "not a segmenter's"),
        ({"images": images()[:, :1]}, "repeat the channel"),
        ({"images": (images() * 9).long()}, "normalise"),
        ({"images": images()[0]}, "must be a batch"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises((ConfigError, ShapeError), match=message):
        activation_maps(**{"network": classifier(), "images": images(), "layer": "5", **arguments})


def test_a_layer_that_the_score_does_not_depend_on_is_refused():
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return self.main(x).mean((2, 3))

    with pytest.raises(ConfigError, match="does not depend on it"):
        activation_maps(Auxiliary(), images().float(), "aside")


def test_outputs_of_no_known_task_are_refused():
    with pytest.raises(ShapeError, match="give a function of the outputs"):
        activation_maps(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(2)), images().float(), "0")


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_are_drawn_beside_one_another(channels):
    networks = {name: [nn.Sequential(nn.Conv2d(3, 2, 5), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten())]
                for name in ("plain", "coc")}  # fmt: skip
    shown = images(2, 40, 64).float()
    fields = {name: layers["0"] for name, layers in compare_fields(networks, ["0"], 2).items()}
    maps = {name: activation_maps(seeds[0], shown, "0", target=1) for name, seeds in networks.items()}
    figure = draw_activation_maps(shown[:, :channels].sigmoid(), maps, fields, ["sea", "boat"])
    figure.draw_without_rendering()
    check_texts(figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.splitlines()[0] for title in titles if title] == ["image", "plain", "coc"]
    assert titles[1].splitlines()[2] == "theoretical 5×5 px"
    assert [axes.get_xlabel() for axes in figure.axes[:6]] == ["", "boat", "boat"] * 2
    with pytest.raises(ShapeError, match="not of images"):
        draw_activation_maps(shown[:1], maps)
    with pytest.raises(ConfigError, match="none of 'plain'"):
        draw_activation_maps(shown, maps, {"coc": fields["coc"]})
