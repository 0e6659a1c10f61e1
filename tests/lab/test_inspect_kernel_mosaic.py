"""The mosaic: which groups, which channels, on which scale; and that its figure can be read."""

from __future__ import annotations

import json

import pytest
import torch
from figure_texts import check_texts
from torch import nn

import convofconv as coc
from convofconv.errors import ConfigError, ShapeError
from convofconv.lab.inspect.kernel_grids import grids_side_by_side, kernel_grids
from convofconv.lab.inspect.kernel_mosaic import kernel_mosaic
from convofconv.lab.inspect.kernel_mosaic_figure import draw_mosaic

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def grids(channels=3, kernels=16, size=3, d=2, **settings):
    settings = {"init": "kaiming", **settings}
    return kernel_grids(
        coc.convert(nn.Sequential(CONVS[d](channels, kernels, size)), config=coc.Config(**settings)), "0"
    )


def by_kind(mosaic):
    return {column.kind: column for column in mosaic.columns}


def test_three_input_channels_are_colours():
    layer = grids()
    columns = by_kind(kernel_mosaic({"coc": layer}))
    assert list(columns) == ["super kernel", "basic", "effective", "difference"]
    for kind in ("basic", "effective", "difference"):
        tiles = layer.laid_out(getattr(layer, kind)).movedim(1, -1)
        torch.testing.assert_close(columns[kind].tiles, tiles)
        assert columns[kind].limit == pytest.approx(float(tiles.abs().max()))
        assert columns[kind].cell == (3, 3)
    assert torch.equal(columns["super kernel"].tiles, layer.super_kernels[:, 0, 0])


@pytest.mark.parametrize(("channels", "view", "channel"), [(1, "auto", 0), (5, 3, 3), (3, 1, 1)])
def test_one_channel_is_shown_as_it_is(channels, view, channel):
    layer = grids(channels)
    mosaic = kernel_mosaic({"coc": layer}, view=view)
    torch.testing.assert_close(by_kind(mosaic)["basic"].tiles, layer.laid_out(layer.basic)[:, channel])
    assert mosaic.view == ("the one input channel" if channels == 1 else f"input channel {channel} of {channels}")


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_principal_components_have_one_basis(channels):
    """Kernels of three patterns over the channels lose nothing, and the difference is that of what is shown."""
    layer = grids(channels)
    patterns = torch.linalg.qr(torch.randn(channels, min(3, channels))).Q
    flat = torch.einsum("cp,dp,kd...->kc...", patterns, patterns, layer.basic)
    model = coc.convert(nn.Sequential(nn.Conv2d(channels, 16, 3)), config=coc.Config(init="kaiming"))
    with torch.no_grad():
        model[0].parametrizations.weight.original.copy_(flat)
    layer = kernel_grids(model, "0")
    mosaic = kernel_mosaic({"coc": layer})
    assert f"the first {min(3, channels)} principal components of {channels} input channels" in mosaic.view
    assert "(100% of the energy)" in mosaic.view
    columns = by_kind(mosaic)
    torch.testing.assert_close(columns["difference"].tiles, columns["effective"].tiles - columns["basic"].tiles)
    shown = columns["effective"].tiles.square().sum(-1)
    torch.testing.assert_close(shown, layer.laid_out(layer.effective.square().sum(1, keepdim=True))[:, 0])


def test_the_first_component_has_the_most_energy_and_its_sign_is_fixed():
    layer = grids(8)
    first, again = (by_kind(kernel_mosaic({"coc": layer}))["basic"].tiles for _ in range(2))
    assert torch.equal(first, again)
    columns = by_kind(kernel_mosaic({"coc": layer}))
    energies = [columns[kind].tiles.square().sum((0, 1, 2)) for kind in ("basic", "effective")]
    wholes = [kernels.square().sum() for kernels in (layer.basic, layer.effective)]
    energy = sum(part / whole for part, whole in zip(energies, wholes, strict=True))
    assert energy[0] > energy[1] > energy[2]


@pytest.mark.parametrize(
    ("most", "choose", "expected", "title"),
    [
        (3, "even", (0, 8, 15), "3 of 16 groups (evenly spaced)"),
        (3, "first", (0, 1, 2), "3 of 16 groups (the first ones)"),
        (1, "even", (0,), "1 of 16 groups (evenly spaced)"),
        (99, "even", tuple(range(16)), "16 of 16 groups"),
    ],
)
def test_the_title_says_how_many_groups_of_how_many(most, choose, expected, title):
    layer = grids(kernels=64)
    mosaic = kernel_mosaic({"coc": layer}, most_groups=most, choose=choose)
    assert mosaic.groups == {"coc": expected}
    assert mosaic.title.splitlines()[0] == f"Kernels of layer 0: {title}"
    torch.testing.assert_close(
        by_kind(mosaic)["basic"].tiles, layer.laid_out(layer.basic)[list(expected)].movedim(1, -1)
    )


def test_networks_side_by_side():
    models = {"plain": nn.Sequential(nn.Conv2d(3, 20, 3)), "coc": coc.convert(nn.Sequential(nn.Conv2d(3, 20, 3)))}
    mosaic = kernel_mosaic(grids_side_by_side(models, "0"))
    assert [(column.network, column.kind) for column in mosaic.columns] == [
        ("plain", "kernels"),
        *(("coc", kind) for kind in ("super kernel", "basic", "effective", "difference")),
    ]
    assert by_kind(mosaic)["difference"].limit == 0  # it has not been trained
    models["other"] = coc.convert(nn.Sequential(nn.Conv2d(3, 20, 3)), config=coc.Config(grid_side=4))
    title = kernel_mosaic(grids_side_by_side(models, "0"), most_groups=3).title
    assert "plain 3 of 5 groups, coc 3 of 5 groups, other 2 of 2 groups (evenly spaced)" in title
    json.dumps(mosaic.numbers(), allow_nan=False)


def test_empty_cells_are_no_numbers():
    tiles = by_kind(kernel_mosaic({"coc": grids(kernels=6)}))["basic"].tiles
    assert tiles[1, 3:].isnan().all()
    assert not tiles[0].isnan().any()
    assert not tiles[1, :3].isnan().any()


@pytest.mark.parametrize(("share", "planes"), [("output", 4), ("none", 16)])
def test_super_kernels_of_several_planes_are_shown_by_their_size(share, planes):
    layer = grids(4, share=share, depth=2)
    column = by_kind(kernel_mosaic({"coc": layer}))["super kernel"]
    assert column.note == f"3×3 taps\ndilation 2\nRMS of {planes} planes\n2 in a stack"
    sizes = layer.super_kernels.square().mean(2).sqrt()
    torch.testing.assert_close(column.tiles, torch.cat([sizes[:, 0], sizes[:, 1]], -1))


CASES = {
    "stem": {"size": 7, "kernels": 64},
    "one channel, incomplete": {"channels": 1, "kernels": 6},
    "components, a stack": {"channels": 9, "depth": 2, "grid_side": 3},
    "rectangular": {"channels": 3, "size": (3, 5), "dilated": False},
    "1-d": {"channels": 8, "d": 1},
    "3-d": {"channels": 3, "d": 3, "kernels": 20},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_figure_can_be_read(case):
    figure = draw_mosaic(kernel_mosaic({"coc": grids(**case)}, most_groups=10))
    assert check_texts(figure) > 10
    assert len(figure.axes) % 8 == 0  # four columns and their scales, per strip


def test_the_figure_of_several_networks():
    models = {
        "plain": nn.Sequential(nn.Conv2d(3, 40, 3)),
        "coc": coc.convert(nn.Sequential(nn.Conv2d(3, 40, 3))),
        "coc+stnd": coc.convert(nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40)), "coc+stnd"),
    }
    figure = draw_mosaic(kernel_mosaic(grids_side_by_side(models, "0"), most_groups=10))
    check_texts(figure)
    written = [text.get_text() for text in figure.texts]
    assert "10 of 10 groups" in written[0]
    assert written[1:] == [*models] * 2  # in two strips: eight groups, and two
    assert len(figure.axes) == 2 * 2 * 9
    columns = [axes for axes in figure.axes if axes.get_title()]
    assert [len(axes.images) for axes in columns] == [8] * 9 + [2] * 9
    assert [label.get_text() for label in columns[9].get_yticklabels()] == ["8", "9"]


def test_zero_is_grey_and_the_limits_are_black_and_white():
    model = nn.Sequential(nn.Conv2d(3, 4, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[0, :, 0, 0], model[0].weight[3, :, 1, 1] = 0.25, -0.25
        model[0].weight[3, :, 0, 0] = 0.125
    figure = draw_mosaic(kernel_mosaic({"plain": kernel_grids(model, "0")}))
    image = figure.axes[0].images[0].get_array()
    assert [image[i, i].tolist() for i in range(4)] == [[1] * 3, [0.5] * 3, [0.75] * 3, [0] * 3]
    assert [text.get_text() for text in figure.axes[1].texts] == ["−0.25", "+0.25"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"most_groups": 0}, ConfigError, "most_groups must be at least 1"),
        ({"choose": "best"}, ConfigError, "choose must be 'even' or 'first', got 'best'"),
        ({"view": "rgb"}, ConfigError, 'view="rgb" shows three input channels, and 0 has 5'),
        ({"view": 5}, ConfigError, "view=5: 0 has input channels 0 to 4"),
        ({"view": "mean"}, ConfigError, "view must be"),
    ],
)
def test_settings_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        kernel_mosaic({"coc": grids(5)}, **arguments)


def test_networks_that_are_refused():
    with pytest.raises(ConfigError, match="no network"):
        kernel_mosaic({})
    with pytest.raises(ShapeError, match=r"different numbers of input channels \(a: 3, b: 4\)"):
        kernel_mosaic({"a": grids(3), "b": grids(4)})
