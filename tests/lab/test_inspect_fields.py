"""Receptive fields: held to hand-computed networks, to brute-force perturbation, and to autograd."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from figure_texts import check_texts
from torch import Tensor, nn

pytest.importorskip("timm", reason="needs the extra [lab]")

from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

import convofconv as coc
from convofconv.errors import ConfigError, ShapeError
from convofconv.lab.inspect.effective_field import effective_field, field_size
from convofconv.lab.inspect.field_comparison import compare_fields
from convofconv.lab.inspect.field_figure import draw_fields
from convofconv.lab.inspect.t_interval import t_interval
from convofconv.lab.inspect.theoretical_field import theoretical_field

pytestmark = pytest.mark.lab


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.skip = nn.Conv2d(channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.norm(self.conv1(x)))) + self.skip(x))


class Gated(nn.Module):
    """A squeeze-and-excitation gate."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


class PartlyOff(nn.Module):
    """A ReLU that is off behind the wider one of two convs, so that no gradient reaches its window."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = conv(3), nn.Sequential(dead(conv(9)), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(x) + self.wide(x)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT[:, None]
        return F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mT.reshape(x.shape)


def conv(kernel, stride=1, dilation=1, padding=None, channels=2):
    padding = dilation * (kernel // 2) if padding is None else padding
    return nn.Conv2d(channels, 2, kernel, stride, padding, dilation)


def dead(network):
    """Every ReLU of the network is off."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.bias, -1e3)
    return network


#: Networks, and the size and stride of the last layer's field by hand: r += (k − 1) · dilation · jump; jump *= stride.
HAND = {
    "one pixel": (lambda: [conv(1)], 1, 1),
    "two convs": (lambda: [conv(3), nn.ReLU(), conv(3)], 5, 1),
    "no padding": (lambda: [conv(5, padding=0), conv(3, padding=0)], 7, 1),
    "an even kernel": (lambda: [conv(4, stride=2, padding=1), conv(3)], 8, 2),
    "dilated": (lambda: [conv(3, dilation=2), conv(3, dilation=4)], 13, 1),
    "a stem": (lambda: [conv(7, stride=2), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), conv(3)], 19, 4),
    "max pooling": (lambda: [conv(3), nn.MaxPool2d(3, 1, 1), conv(3), nn.MaxPool2d(3, 1, 1)], 9, 1),
    "dead": (lambda: [dead(nn.Sequential(conv(3), nn.ReLU(), conv(3), nn.ReLU(), nn.AvgPool2d(2)))], 6, 2),
    "partly off": (lambda: [PartlyOff()], 9, 1),
    "residual": (lambda: [Residual(2), Residual(2, stride=2)], 11, 2),  # 3, 5, 7, and 11 at a jump of 2
    "transposed": (lambda: [nn.ConvTranspose2d(2, 2, 4, 2, 1)], 2, 0.5),
    "down and up": (lambda: [conv(3, stride=2), nn.Upsample(scale_factor=2), conv(1)], 3, 1),
}


@pytest.mark.parametrize("name", HAND)
def test_fields_of_hand_computed_networks(name):
    build, size, stride = HAND[name]
    network = nn.Sequential(*build())
    field = theoretical_field(network, str(len(network) - 1), lengths=(64, 128))
    assert (field.height, field.width, field.stride) == (size, size, (stride, stride))
    assert not field.clipped
    assert not field.whole_image


def test_a_field_is_as_high_and_as_wide_as_its_kernels():
    network = nn.Sequential(nn.Conv2d(1, 2, (3, 5), (2, 1)), nn.Conv2d(2, 2, (1, 3), dilation=(1, 3)))
    field = theoretical_field(network, "1")
    assert (field.height, field.width, field.stride) == (3, 11, (2, 1))


def perturbed(network, height, width, axis):
    """The extent of all pixels that change the centre unit when they become large; all weights are positive."""
    base = torch.rand(1, 1, height, width, dtype=torch.float64)
    changed = base + 1e3 * torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    before, after = network(base), torch.cat([network(part) for part in changed.split(256)])
    centre = slice(None), slice(None), before.shape[2] // 2, before.shape[3] // 2
    places = (after[centre] != before[centre]).any(1).view(height, width).nonzero()[:, axis]
    return int(places.max() - places.min()) + 1


BRUTE = {
    "pooled": lambda: [nn.Conv2d(1, 2, 3, 2, 1), nn.MaxPool2d(3, 1, 1), nn.Conv2d(2, 1, 3, dilation=2)],
    "residual": lambda: [nn.Conv2d(1, 2, 3, 2, 1), Residual(2, 2)],
    "transposed": lambda: [nn.Conv2d(1, 2, 3, 2, 1), nn.ConvTranspose2d(2, 2, 3, 2, 1), nn.Conv2d(2, 1, 3)],
    "nearest": lambda: [nn.Conv2d(1, 1, 3, 2, 1), nn.Upsample(scale_factor=3), nn.Conv2d(1, 1, 2)],
    "bilinear": lambda: [nn.Conv2d(1, 1, 3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(1, 1, 3)],
    "bilinear, weights of 0": lambda: [nn.Conv2d(1, 1, 3), nn.Upsample(scale_factor=3, mode="bilinear")],  # 23 → 69
    "bicubic": lambda: [nn.Conv2d(1, 1, 3), nn.Upsample(size=(37, 37), mode="bicubic", align_corners=True)],
}


@pytest.mark.parametrize("name", BRUTE)
def test_fields_are_those_of_brute_force(name):
    torch.manual_seed(0)
    network = nn.Sequential(*BRUTE[name]()).double().eval()
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    field = theoretical_field(network, str(len(network) - 1), lengths=(25,))
    with torch.no_grad():
        assert (field.height, field.width) == (perturbed(network, 25, 32, 0), perturbed(network, 32, 25, 1))


@pytest.mark.parametrize("layer", [Gated(), Attention(), nn.GroupNorm(1, 2), nn.AdaptiveAvgPool2d(1)], ids=str)
def test_layers_that_see_everything_are_reported(layer):
    field = theoretical_field(nn.Sequential(conv(3, stride=8), layer), "1", lengths=(64, 128))
    assert field.whole_image
    assert field.clipped
    assert field.numbers()["width"] is None
    assert str(field) == "the whole image"


def test_a_field_that_is_larger_than_can_be_measured_is_no_whole_image():
    field = theoretical_field(nn.Sequential(conv(51), conv(51)), "1", lengths=(32, 64))
    assert (field.width, field.clipped, field.whole_image) == (64, True, False)
    assert str(field) == "at least 64×64 px"


def test_convs_spread_nan_over_their_window_alone():
    """What probing stands on: torch's convs on the CPU take no algorithm that works on tiles."""
    for inside, outside, kernel, stride, dilation, batch in itertools.product(
        (1, 3, 64), (16, 64), (1, 3, 5), (1, 2), (1, 2), (1, 2, 16)
    ):
        images = torch.randn(batch, inside, 33, 47)
        images[:, :, 20, 30] = torch.nan
        padding = dilation * (kernel // 2)
        found = F.conv2d(images, torch.randn(outside, inside, kernel, kernel), None, stride, padding, dilation).isnan()
        reached = images[:1, :1].isnan().double()
        reached = F.conv2d(reached, torch.ones(1, 1, kernel, kernel).double(), None, stride, padding, dilation) > 0.5
        assert (found == reached).all()


def test_the_effective_field_of_linear_layers_is_their_product():
    network = nn.Sequential(*(nn.Conv2d(1, 1, 3, bias=False) for _ in range(2))).double()
    for layer in network:
        nn.init.ones_(layer.weight)
    field = effective_field(network, "1", torch.randn(3, 1, 15, 17, dtype=torch.float64))
    line = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64)
    assert field.map.shape == (15, 17)
    # The centre of the 11×13 outputs is unit (5, 6), whose field begins there.
    torch.testing.assert_close(field.map[5:10, 6:11], torch.outer(line, line))
    assert field.map.sum() == 81
    assert field.size == 5  # all are above 4.55 % of 9
    assert (field.clipped, field.theory_clipped, field.border, field.interval) == (False, False, 0.0, None)


def test_signs_of_channels_do_not_cancel():
    network = nn.Conv2d(2, 1, 1, bias=False)
    network.weight.data = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    assert effective_field(nn.Sequential(network), "0", torch.randn(1, 2, 5, 5)).map.max() == 2


def test_a_first_module_may_work_in_place():
    class Square(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.inplace = inplace

        def forward(self, x):
            return x.square_() if self.inplace else x.square()

    images = torch.randn(2, 3, 9, 9)
    before, last = images.clone(), conv(3, channels=3)
    one, other = (effective_field(nn.Sequential(Square(inplace), last), "1", images) for inplace in (True, False))
    torch.testing.assert_close(one.map, other.map)
    assert torch.equal(images, before)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(conv(3, 2, channels=3), nn.BatchNorm2d(2), nn.ReLU(True), Residual(2), nn.Dropout(0.5))


def test_the_effective_field_is_the_mean_of_the_images_gradients():
    network, images = small().double().eval(), torch.randn(5, 3, 21, 30, dtype=torch.float64)
    gradients = []
    for image in images:
        leaf = image[None].clone().requires_grad_()
        output = network[:4](leaf)
        output[0, :, output.shape[2] // 2, output.shape[3] // 2].sum().backward()
        gradients.append(leaf.grad[0].abs().sum(0))
    mean = torch.stack(gradients).mean(0)
    field = effective_field(network, "3", images, batch=2)
    torch.testing.assert_close(field.map, mean)
    assert field.size**2 == pytest.approx(int((mean > 0.0455 * mean.max()).sum()))
    left_out = [torch.stack([g for g in gradients if g is not one]).mean(0) for one in gradients]
    values = [5 * field.size - 4 * field_size(other) for other in left_out]
    low, high = t_interval(values)
    assert field.interval == pytest.approx((field.size - (high - low) / 2, field.size + (high - low) / 2))


def test_converted_and_folded_have_the_same_fields():
    network = small().double()
    coc.convert(network)
    for name, parameter in network.named_parameters():
        if "original" not in name:
            nn.init.normal_(parameter, std=0.3)
    folded = coc.reparameterize(network)
    images = torch.randn(3, 3, 33, 33, dtype=torch.float64)
    one, other = (effective_field(each, "3", images) for each in (network, folded))
    torch.testing.assert_close(one.map, other.map, rtol=1e-9, atol=1e-12)
    assert one.theoretical == other.theoretical


def test_a_network_is_left_as_it_was():
    network = small().train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    with torch.inference_mode():
        effective_field(network, "3", 2)
    with pytest.raises(ConfigError):
        effective_field(network, "3", torch.full((1, 3, 9, 9), 1.0), batch=0)
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network(torch.randn(1, 3, 9, 9)).shape == (1, 2, 5, 5)  # no hook ends the forward any more


def test_clipping_is_reported():
    network = nn.Sequential(nn.Conv2d(1, 1, 31, padding=15, bias=False))
    nn.init.ones_(network[0].weight)
    small, large = (effective_field(network, "0", torch.randn(1, 1, side, side)) for side in (17, 64))
    assert (small.clipped, small.theory_clipped, large.clipped, large.theory_clipped) == (True, True, False, False)
    assert small.border == pytest.approx(1 - 13**2 / 17**2)  # a ring of two pixels
    assert large.size == 31


@pytest.mark.parametrize("channels", [1, 4])
def test_noise_has_the_networks_channels_and_room_for_the_field(channels):
    field = effective_field(nn.Sequential(conv(7, 4, channels=channels), conv(9)), "1", 3)
    assert field.theoretical.width == 39  # 7 + 8 · 4
    assert tuple(field.map.shape) == (64, 64)
    assert not field.theory_clipped


def test_a_network_for_images_of_one_size_gets_noise_of_that_size():
    class OneSize(nn.Sequential):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__(*layers)
            self.pretrained_cfg = {"input_size": (3, 48, 48)}  # as timm's networks have it

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-2:] == (48, 48), "Input height doesn't match model"
            return super().forward(x)

    field = effective_field(OneSize(conv(8, 8, padding=0, channels=3)), "0", 2)
    assert (field.theoretical.width, field.theoretical.stride, field.theoretical.only_size) == (8, (8, 8), 48)
    assert field.map.shape == (48, 48)
    assert theoretical_field(OneSize(conv(8, 8, padding=0, channels=3), Attention()), "1").whole_image


def test_seeds_are_summed_up_with_their_interval():
    networks = {"plain": [small(seed) for seed in range(3)], "coc": [coc.convert(small(seed)) for seed in range(3)]}
    table = compare_fields(networks, ["0", "3"], 2)
    fields = table["coc"]["3"]
    assert [field.theoretical.layer for field in fields.fields] == ["3"] * 3
    assert fields.interval == t_interval(fields.sizes)
    assert fields.size == pytest.approx(sum(fields.sizes) / 3)
    assert fields.numbers()["interval_over"] == "seeds"
    json.dumps({name: [one.numbers() for one in layers.values()] for name, layers in table.items()}, allow_nan=False)
    figure = draw_fields(table)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 4
    assert all("effective" in title and "theoretical" in title and "3 seeds" in title for title in titles)
    assert "11×11 px" in titles[-1]  # 3 + 2 · (2 + 2)
    squares = {round(patch.get_width(), 6) for patch in figure.axes[3].patches}
    assert squares == {11, round(fields.size, 6)}
    figure.draw_without_rendering()
    check_texts(figure)


def test_the_figure_of_one_field_alone_can_be_read():
    figure = draw_fields(compare_fields({"plain": [nn.Sequential(conv(3), Gated())]}, ["1"], 1))
    figure.draw_without_rendering()
    check_texts(figure)
    assert "theoretical the whole image" in figure.axes[0].get_title()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.unused = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3)
        self.pair = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(x))
        return self.pair((x, x))[0].mean((2, 3))


def test_a_layer_that_is_called_twice_has_two_fields():
    network = Twice()
    assert [theoretical_field(network, f"conv#{use}").width for use in (1, 2)] == [3, 5]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("conv", r"called 2 times.*conv#1 to conv#2"),
        ("conv#3", "called 2 times"),
        ("cnov", "did you mean conv"),
        ("unused", "does not reach it"),
        ("pair", "a tuple of 2"),
        ("", "no such module"),
    ],
)
def test_layers_without_a_field_are_refused(layer, message):
    with pytest.raises(ConfigError, match=message):
        theoretical_field(Twice(), layer)
    with pytest.raises(ConfigError, match=message):
        effective_field(Twice(), layer, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(2, 1, 8, 8), r"3 channels, these have 1; repeat the channel"),
        (torch.randn(2, 5, 8, 8), "these have 5"),
        (torch.randn(3, 8, 8), "must be a batch"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "normalise"),
        (torch.full((1, 3, 8, 8), torch.nan), "no numbers"),
        (torch.randn(0, 3, 8, 8), "must be a batch"),
    ],
)
def test_what_are_no_images_of_the_network_is_refused(images, message):
    with pytest.raises(ShapeError, match=message):
        effective_field(small(), "3", images)


def test_images_that_the_network_cannot_take_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 8, 8)), conv(3, channels=3))
    with pytest.raises(ShapeError, match="cannot take images of shape"):
        effective_field(network, "2", torch.randn(1, 3, 9, 9))
    with pytest.raises(ConfigError, match="takes neither images of"):
        theoretical_field(network, "2")


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


def test_a_layer_that_does_not_depend_on_the_image_is_refused():
    with pytest.raises(ConfigError, match="does not depend on the image"):
        theoretical_field(nn.Sequential(Constant()), "0")
    broken = nn.Sequential(conv(3))
    nn.init.constant_(broken[0].bias, torch.nan)
    with pytest.raises(ConfigError, match="no number"):
        theoretical_field(broken, "0")


def detector():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
    backbone.out_channels = 4
    return RetinaNet(backbone, 2, anchor_generator=AnchorGenerator(((8,),), ((1.0,),)), min_size=32, max_size=64)


def test_a_detectors_fields_are_those_of_its_backbone():
    network = detector().train()
    assert theoretical_field(network, "backbone.2").width == 7
    assert effective_field(network, "backbone.2", 2).theoretical.layer == "backbone.2"
    assert network.training
    with pytest.raises(ConfigError, match="begins with backbone"):
        theoretical_field(network, "head.classification_head.cls_logits")
