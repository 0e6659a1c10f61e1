from __future__ import annotations

import inspect

import pytest
import torch
from reference import randomize
from torch import nn

import convofconv as coc


@pytest.mark.parametrize(
    ("layer", "plain", "shape"),
    [(coc.CoC1d, nn.Conv1d, (2, 4, 9)), (coc.CoC2d, nn.Conv2d, (2, 4, 9, 9)), (coc.CoC3d, nn.Conv3d, (2, 4, 5, 5, 5))],
)
def test_layers_take_the_arguments_of_their_plain_class_and_fold_into_it(layer, plain, shape):
    x = torch.randn(shape)
    # in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
    arguments = (4, 8, 3, 2, 1, 1, 2, False, "reflect")
    torch.manual_seed(1)
    converted = layer(*arguments)
    torch.manual_seed(1)
    common = plain(*arguments)
    assert isinstance(converted, layer)
    assert torch.equal(converted(x), common(x)), "the identity start"
    randomize(converted)
    folded = coc.reparameterize(converted)
    assert type(folded) is plain
    assert coc.verify(converted, folded, x) < 1e-6
    assert list(folded.state_dict()) == list(common.state_dict())
    common.load_state_dict(folded.state_dict())


def test_layers_take_every_method_and_configuration_whatever_follows():
    layer = coc.CoC2d(4, 8, 1, method="coc+stnd", config=coc.Config(grid_side=3))
    assert [type(m).__name__ for m in coc.kernel_maps(layer)] == ["SpatialAssociation", "Standardization"]
    released = coc.CoC2d(4, 8, 3, config="released")
    assert [type(m).__name__ for m in coc.kernel_maps(released)] == ["SpatialAssociation", "KernelLayerNorm"]
    assert coc.CoC2d(4, 8, 3, dtype=torch.float64).weight.dtype == torch.float64
    with torch.device("meta"):
        assert coc.CoC2d(4, 8, 3).weight.is_meta
    assert coc.CoC2d(4, 8, 3, device="meta").weight.is_meta
    skipped = torch.nn.utils.skip_init(coc.CoC2d, 4, 8, 3)
    assert {parameter.device.type for parameter in skipped.parameters()} == {"cpu"}


def test_a_map_of_ones_own_has_the_layers_dtype_and_device():
    class Gain(coc.KernelMap):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, weight):
            return weight * self.gain

    layer = coc.CoC2d(4, 8, 3, method=["coc", Gain], dtype=torch.float64)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float64}
    assert all(parameter.is_meta for parameter in coc.CoC2d(4, 8, 3, method=Gain, device="meta").parameters())


def test_a_subclass_of_a_layer_keeps_its_forward():
    class Doubled(coc.CoC2d):
        def forward(self, x):
            return 2 * super().forward(x)

    layer, x = Doubled(3, 8, 3), torch.randn(1, 3, 5, 5)
    weight = layer.weight
    assert torch.equal(layer(x), 2 * nn.functional.conv2d(x, weight, layer.bias))


def test_mistakes_are_named():
    with pytest.raises(coc.ConfigError, match="no method is called 'cic'"):
        coc.CoC2d(3, 8, 3, method="cic")
    with pytest.raises(coc.ConfigError, match="no preset is called 'best'"):
        coc.CoC2d(3, 8, 3, config="best")
    with pytest.raises(TypeError):
        coc.CoC2d(3, 8, 3, sa=2)
    assert "method" in inspect.signature(coc.CoC2d).parameters
