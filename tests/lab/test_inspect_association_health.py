"""The health of associations: planted faults are found, and training reports them without being changed."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from figure_texts import check_texts
from reference import randomize, relative
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import SEGMENT, fit, results
from torch import nn

import convofconv as coc
from convofconv.errors import ConfigError
from convofconv.lab import association_health as health_file
from convofconv.lab.association_health import association_health
from convofconv.lab.inspect.association_figure import draw_association_health
from convofconv.lab.inspect.tap_responses import tap_responses
from convofconv.lab.training.association_watch import AssociationWatch, scalars
from convofconv.lab.training.module import Training
from convofconv.maps import method_names

ANYWHERE = {"where": lambda *_: True}


def layer(co=8, kernel=3, ci=2, **config) -> nn.Sequential:
    return coc.convert(nn.Sequential(nn.Conv2d(ci, co, kernel)), config=coc.Config(**config), **ANYWHERE).double()


def super_kernel(model) -> torch.Tensor:
    return coc.kernel_maps(model[0])[0].super_kernel.data


def of(model):
    (found,) = association_health(model).layers
    return found


# ---- known answers


@pytest.mark.parametrize("start", [{}, {"skip": False}, {"share": "both"}, {"depth": 2, "extra_width": 1}])
@pytest.mark.parametrize("co", [8, 7, 3])
def test_the_start_is_the_identity(start, co):
    """A super kernel of zeros with the skip, a one at its centre without it."""
    model, groups = layer(co, **start), math.ceil(co / 4)
    nn.init.normal_(model[0].parametrizations.weight.original)
    found = of(model)
    assert (found.smallest, found.largest, found.condition, found.distance) == (1, 1, 1, 0)
    assert (found.change, found.removed, found.problem) == (0, 0, "")
    assert found.identity_groups == tuple(range(groups))
    assert found.dead_groups == ()
    assert found.groups == groups
    assert len(found.singular_values) == (36 * 2 if co == 8 else 36 + 27 if co == 7 else 27) // (
        2 if co == 8 and start.get("share") == "both" else 1
    )


@pytest.mark.parametrize("config", [
    {}, {"depth": 2, "init": "kaiming"}, {"skip": False}, {"share": "output"}, {"share": "both"},
    {"standardize_super_kernel": True}, {"grouping": "random"}, {"extra_width": 1, "dilated": False},
], ids=str)  # fmt: skip
def test_singular_values_are_those_of_the_association_itself(config):
    """Of its Jacobian by autograd, which knows of no super matrix."""
    model = layer(7, ci=3, **config)
    randomize(model)
    found, channels = of(model), range(3) if config.get("share") == "output" else [0]
    matrices = [tap_responses(model, "0", group, channel=channel).matrix for group in (0, 1) for channel in channels]
    sigmas = [torch.linalg.svdvals(matrix) for matrix in matrices]
    assert torch.allclose(found.singular_values, torch.cat(sigmas).sort().values)
    assert found.condition == pytest.approx(max(float(s.max() / s.min()) for s in sigmas))
    away = sum((m - torch.eye(len(m))).square().sum() for m in matrices) / sum(len(m) for m in matrices)
    assert found.distance == pytest.approx(float(away) ** 0.5)
    basic = model[0].parametrizations.weight.original.detach()
    changed = model[0].weight.detach() - basic
    assert found.change == pytest.approx(float(changed.norm() / basic.norm()), rel=1e-5)


def test_a_planted_singular_association_is_found():
    """Along rows, I + a·(shift left + shift right) has the eigenvalues 1 + 2a·cos(πj/7): one is made zero."""
    model = layer(8, extra_width=0, dilated=False)
    super_kernel(model)[0, 1, 1, 0] = super_kernel(model)[0, 1, 1, 2] = a = -0.5 / math.cos(math.pi / 7)
    found = of(model)
    eigenvalues = sorted({round(abs(1 + 2 * a * math.cos(math.pi * j / 7)), 9) for j in range(1, 7)})
    assert found.smallest < 1e-12
    assert found.largest == pytest.approx(eigenvalues[-1])
    assert found.condition == math.inf
    assert found.median_condition in (1, math.inf)
    assert found.problem.startswith("0: the association is singular")
    assert "training.super_kernel_rate" in found.problem
    assert found.identity_groups == (0,)
    assert found.dead_groups == ()
    numbers = json.loads(json.dumps(found.numbers(), allow_nan=False))
    assert numbers["condition"] is None
    assert numbers["singular"]
    assert coc.kernel_maps(model[0])[0].condition_number() > 1e14  # torch's, which knows of no rounding


def test_a_frequency_that_is_removed_is_found():
    """1 − ½ + ½·cos ω along rows is zero at the highest frequency, and below 0.1 at its neighbours."""
    model = layer(4, extra_width=0, dilated=False)
    super_kernel(model)[0, 0, 1] = torch.tensor([0.25, -0.5, 0.25])
    length = 6 + 3 + 1  # grid, super kernel, and one to be even
    removed = sum(0.5 + 0.5 * math.cos(2 * math.pi * f / length) < 0.1 for f in range(length))
    assert removed == 3
    found = of(model)
    assert found.removed == pytest.approx(removed / length)
    # Tridiagonal ¼, ½, ¼: the smallest eigenvalue in closed form.
    assert found.smallest == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 7))


def test_dilation_repeats_the_response_along_both_axes():
    model = layer(4)  # 3×3 at dilation 2
    super_kernel(model)[0, 0, 1, 1] = -3  # turned round and doubled, not removed
    assert of(model).removed == 0
    super_kernel(model)[0, 0, 1, 1] = -1
    assert of(model).removed == 1
    super_kernel(model)[0, 0, 1, 1] = -0.5
    super_kernel(model)[0, 0, 1, 0] = super_kernel(model)[0, 0, 1, 2] = 0.25
    length = 6 + 5 + 1
    removed = sum(0.5 + 0.5 * math.cos(4 * math.pi * f / length) < 0.1 for f in range(length))
    assert of(model).removed == pytest.approx(removed / length)


def test_dead_groups_are_those_whose_kernels_vanish():
    model = layer(16)
    super_kernel(model)[0, 2, 1, 1] = -1  # cancels the skip
    super_kernel(model)[0, 3, 1, 1] = 0.5
    found = of(model)
    assert found.dead_groups == (2,)
    assert found.identity_groups == (0, 1)
    assert "the kernels of 1 of 4 groups have vanished (2)" in found.problem
    model[0].parametrizations.weight.original.data[:4] = 1e-6  # by weight decay, not by α
    assert of(model).dead_groups == (0, 2)


def test_groups_are_those_of_the_order_and_of_the_blocks():
    model = layer(8, grouping="random")
    super_kernel(model)[0, 1, 1, 1] = -1
    assert of(model).dead_groups == (1,)
    grouped = coc.convert(nn.Sequential(nn.Conv2d(4, 12, 3, groups=2)), config=coc.Config(within_conv_groups=True))
    super_kernel(grouped)[0, 3, 1, 1] = -1  # the incomplete one of the second block
    found = of(grouped)
    assert (found.groups, found.dead_groups, found.identity_groups) == (4, (3,), (0, 1, 2))


def test_linearised_where_a_norm_stands_between(monkeypatch):
    """Near to the true Jacobian, whose statistics move, in a layer with many groups."""
    model = layer(64, ci=1, grid_norm=True)
    association = coc.kernel_maps(model[0])[0]
    nn.init.normal_(association.norm_weight, std=0.3)
    found = of(model)
    assert found.remark.startswith("linearised")
    assert found.removed is None
    true = torch.cat([torch.linalg.svdvals(tap_responses(model, "0", g).matrix) for g in range(16)]).sort().values
    assert relative(found.singular_values, true) < 0.05
    assert relative(found.singular_values, torch.ones(576)) > 0.2
    monkeypatch.setattr(health_file, "MOST_CONDITION", 1.0)
    assert found.condition > 1
    assert found.problem == "", "no warning of what is only near to the truth"
    association.norm_weight.data.zero_()
    assert of(model).distance == 0


@pytest.mark.parametrize("config", [
    {"share": "none"}, {"grid_norm": True, "share": "output"}, {"grid_side": 8, "extra_width": 4},
])  # fmt: skip
def test_what_is_undefined_is_none_and_says_why(config):
    found = of(layer(64 if "grid_side" in config else 8, kernel=5, **config))
    assert found.singular_values is found.condition is found.distance is None
    assert found.remark
    assert found.change == 0
    assert found.problem == ""
    json.dumps(found.numbers(), allow_nan=False)
    assert found.remark in str(association_health(layer(8, kernel=5, **config))) or "grid_side" in config


def test_what_is_no_number_is_said_and_not_computed():
    model = layer()
    super_kernel(model)[0, 0, 0, 0] = math.nan
    found = of(model)
    assert not found.finite
    assert "no numbers any more" in found.problem
    assert found.numbers()["condition"] is None
    assert "no numbers" in str(association_health(model))
    assert scalars(association_health(model))["association/dead_groups"] == 0


@pytest.mark.parametrize("method", [*method_names().split(", "), "coc+stnd", "coc+orth", "coc+doconv"])
def test_every_method(method):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    model = coc.convert(model, method)
    randomize(model)
    if "coc" not in method:
        with pytest.raises(ConfigError, match="no layer of this network has an association"):
            association_health(model)
        return
    health = association_health(model)
    assert [one.layer for one in health.layers] == ["0", "2"]
    assert all(one.condition > 1 and one.change > 0 for one in health.layers)
    assert len(str(health).splitlines()) == 4


def test_it_draws_no_random_numbers_and_changes_nothing():
    model = layer(8, grouping="random")
    randomize(model)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    association_health(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("depth", [1, 3, 40])
def test_the_figure_can_be_read(depth):
    model = nn.Sequential(*[nn.Conv2d(8, 8, 3) for _ in range(depth)])
    coc.convert(model, where=lambda *_: True)
    randomize(model)
    super_kernel(model)[0, 0] = 0
    super_kernel(model)[0, 0, 1, 1] = -1
    super_kernel(model[-1:])[...] = math.nan if depth > 1 else 0
    assert check_texts(draw_association_health(association_health(model), "a network")) > 5


# ---- in training


CONVERTED = [*SEGMENT, "--method=coc"]


def test_training_reports_and_is_not_changed(tmp_path, monkeypatch):
    once = [*CONVERTED, "--training.epochs=1"]
    assert fit(once, tmp_path / "watched") == 0
    monkeypatch.setattr(AssociationWatch, "on_train_epoch_end", lambda *_: None)
    assert fit(once, tmp_path / "alone") == 0
    assert results(tmp_path / "watched") == results(tmp_path / "alone")
    for name in ("converted.safetensors", "model.safetensors"):
        assert (tmp_path / "watched" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert "warning" not in (tmp_path / "watched/log.txt").read_text()
    events = EventAccumulator(str(tmp_path / "watched/tensorboard")).Reload()
    mine = [tag for tag in events.Tags()["scalars"] if tag.startswith("association")]
    changes = [tag for tag in mine if tag.startswith("association_change/")]
    assert "association/condition_worst" in mine
    assert changes
    assert len(mine) == 8 + 2 * len(changes)
    (change,) = events.Scalars("association/change_largest")
    assert change.value > 0
    assert change.step == events.Scalars("val/mIoU")[0].step


def test_a_degenerate_layer_is_named_once_per_run(tmp_path, monkeypatch, capsys):
    """Through an interruption too: what was warned of is in the checkpoint."""
    monkeypatch.setattr(health_file, "MOST_CONDITION", 0.5)  # which every layer exceeds
    honest, epochs = Training.on_train_batch_start, []

    def interrupt(self, *arguments):
        if self.current_epoch == 1 and not epochs:
            epochs.append(1)
            raise KeyboardInterrupt
        return honest(self, *arguments)

    monkeypatch.setattr(Training, "on_train_batch_start", interrupt)
    assert fit(CONVERTED, tmp_path) == 130
    first = capsys.readouterr().out
    assert "warning: after epoch 1, " in first
    assert fit([*CONVERTED, "--resume"], tmp_path) == 0
    assert "warning" not in capsys.readouterr().out
    lines = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "warning" in line]
    layers = [line.split("after epoch 1, ")[1].split(":")[0] for line in lines]
    assert len(set(layers)) == len(layers) > 5
    assert all("nearly singular (condition 1" in line and "try a smaller training" in line for line in lines)


def test_runs_without_an_association_have_nothing_to_watch(tmp_path):
    assert fit([*SEGMENT, "--method=stnd", "--training.epochs=1"], tmp_path) == 0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("association")]


def test_large_networks_log_what_sums_them_up():
    model = coc.convert(nn.Sequential(*[nn.Conv2d(4, 4, 3) for _ in range(33)]))
    assert len(scalars(association_health(model))) == 8
    assert len(scalars(association_health(model[:32]))) == 8 + 64
