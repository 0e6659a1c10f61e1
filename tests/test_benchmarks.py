"""The contenders of the benchmarks compute what they claim; otherwise their times say nothing."""

import argparse
import copy
import functools
import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import convofconv as coc

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import records, report
from benchmarks.contenders import CONTENDERS, posters_associate
from benchmarks.folding import graph
from benchmarks.timing import race
from benchmarks.train_step import training_step
from convofconv.functional.association import associate
from convofconv.functional.grid import Grid


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (10, 3, 5, 5), (4, 1, 7, 7)])
def test_the_posters_way_computes_what_ours_does(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    grid = Grid.build(shape, side=2, extra_width=2, dilated=True)
    super_kernel = torch.randn(1, *grid.super_shape("input"), dtype=torch.float64)
    difference = posters_associate(weight, super_kernel, grid) - associate(weight, super_kernel, grid)
    assert difference.abs().max() < 1e-12


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_trains(name):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    CONTENDERS[name](model)
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_folded_network_has_the_plain_networks_graph():
    """Inference after folding costs nothing: not a matter of time, the operations are the same."""
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    converted = coc.convert(copy.deepcopy(plain)).eval()
    x = torch.randn(1, 3, 9, 9)
    assert graph(coc.reparameterize(converted), x) == graph(plain, x)
    assert graph(converted, x) != graph(plain, x)


def test_ratios_are_to_the_first_contender_turn_by_turn(monkeypatch):
    """Plain takes 1 s and then 2 s, the other one 2 s and then 8 s, in whatever order."""
    clock = [0.0]

    def taking(*seconds):
        left = iter(seconds)

        def run():
            clock[0] += next(left)

        return run

    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: clock[0])
    times = race({"plain": taking(1, 2), "other": taking(2, 8)}, turns=2, warmup=0)
    assert times["plain"].ratio == 1
    assert (times["other"].milliseconds, times["other"].ratio) == (5000, 3)


def test_a_turn_of_several_calls_gives_the_time_of_one(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: clock[0])
    calls = {"plain": 1.0, "other": 3.0}

    def taking(name):
        clock[0] += calls[name]

    times = race({name: functools.partial(taking, name) for name in calls}, turns=2, warmup=0, repeats=4)
    assert (times["plain"].milliseconds, times["other"].milliseconds, times["other"].ratio) == (1000, 3000, 3)


def test_every_contender_follows_every_one_as_often():
    order = []
    race({name: functools.partial(order.append, name) for name in "abcd"}, turns=4000, warmup=0)
    assert all(sorted(order[turn : turn + 4]) == list("abcd") for turn in range(0, len(order), 4))
    pairs = Counter(itertools.pairwise(order))
    for x, y in itertools.product("abcd", "abcd"):  # from turn to turn it may be the same one, within a turn not
        assert abs(pairs[x, y] - (250 if x == y else 250 + 1000)) < 150


def test_a_row_is_measured_once_per_machine_and_code(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDER", tmp_path / "results")
    arguments = argparse.Namespace(device="cpu", turns=3, again=False)
    assert not records.has_record("part", {"width": 64}, arguments)
    records.write_record("part", {"width": 64}, {"ms": 1.0}, arguments)
    records.write_record("part", {"width": 64}, {"ms": 2.0}, arguments)
    assert records.has_record("part", {"width": 64}, arguments)
    assert not records.has_record("part", {"width": 128}, arguments)
    assert not records.has_record("part", {"width": 64}, argparse.Namespace(device="cpu", turns=3, again=True))
    assert [row["ms"] for row in records.read_records("part")] == [2.0]
    monkeypatch.setattr(records, "code", lambda: "another")
    assert not records.has_record("part", {"width": 64}, arguments), "that was other code"


def test_the_published_tables_are_those_of_the_records(tmp_path, monkeypatch):
    published = (report.HERE / "RESULTS.md").read_text()
    monkeypatch.setattr(report, "HERE", tmp_path)
    monkeypatch.setattr(report, "FIGURES", tmp_path / "figures")
    report.main()
    assert (tmp_path / "RESULTS.md").read_text() == published


def test_no_step_begins_with_the_gradients_of_another():
    """They would be freed in its first moment, and not count in what it takes."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    training_step(model, lambda network: network(torch.ones(1, 3, 5, 5)).sum())()
    assert all(parameter.grad is None for parameter in model.parameters())
