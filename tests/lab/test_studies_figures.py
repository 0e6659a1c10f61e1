"""Figures of studies from records made up here: they show the means, and can be read."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from figure_texts import check_texts, ticks
from made_up_runs import (
    COC_SCORES,
    PLAIN_SCORES,
    POOLED_SCORES,
    made_record,
    made_records,
    made_study,
    many_runs,
)

from convofconv.lab.studies.analysis import analyse
from convofconv.lab.studies.figures import CAPTIONS, draw, spread_out

pytestmark = pytest.mark.lab


def test_intervals_of_two_seeds_do_not_dwarf_the_scores(tmp_path):
    """With two seeds an interval is nine times as wide as they are apart."""
    study = made_study(curves={"one": {"1": "coc"}})
    analysis = analyse(study, made_records(plain=[70.0, 71.0], coc=[71.0, 73.0]))
    (scores,) = draw("scores", analysis).axes
    assert scores.get_xlim() == pytest.approx((69.7, 73.3))
    assert draw("curves", analysis).axes[0].get_ylim() == pytest.approx((69.7, 73.3))
    for axes in draw("cost", analysis).axes:
        assert axes.get_ylim() == pytest.approx((-0.45, 1.95))  # a gain of 1.5 and plain's 0


def test_figures_of_a_pooled_study_show_adjusted_means():
    """stnd lacks the high third seed: its own mean is far below plain's, the adjusted one above."""
    records = made_records(**{**POOLED_SCORES, "stnd": POOLED_SCORES["stnd"][:2]})
    study = made_study(variants=tuple(POOLED_SCORES), pooled=True, curves={"one": {"1": "plain", "2": "stnd"}})
    analysis = analyse(study, records)
    (network,) = analysis.networks
    plain, stnd = network.mean("plain"), network.mean("stnd")
    assert network.cells["stnd"].summary().mean < plain.mean < stnd.mean
    for name, axis in (("scores", 0), ("curves", 1)):
        axes = draw(name, analysis).axes[0]
        bars = [bar for bar in axes.containers if getattr(bar, "has_xerr", False) or getattr(bar, "has_yerr", False)]
        ends = [segment[:, axis] for bar in bars for segment in bar.lines[2][0].get_segments()]
        for mean in (plain, stnd):
            assert any(end == pytest.approx(mean.interval) for end in ends), (name, mean)
        (line,) = (line for line in axes.lines if line.get_linestyle() == ":")
        assert set(line.get_data()[axis]) == {plain.mean}


def test_figures_show_the_means_and_the_papers_differences():
    study, records = many_runs()
    analysis = analyse(study, records)
    one = analysis.networks[0]
    plain = one.cells["plain"].summary().mean
    scores = draw("scores", analysis)
    assert [label.get_text() for label in scores.axes[0].get_yticklabels()] == list(study.variants)
    (line,) = (line for line in scores.axes[0].lines if line.get_linestyle() == ":")
    assert set(line.get_xdata()) == {plain}
    side, *_, side_below, _, _ = draw("curves", analysis).axes  # two rows of three
    assert [label.get_text() for label in side_below.get_xticklabels()] == ["1", "2", "4", "8"]
    drawn = {line.get_label(): list(line.get_ydata()) for line in side.lines}
    papers = drawn["paper: difference to its plain, from ours"]
    assert papers == pytest.approx([plain + difference for difference in (0.2, 0.1, 0.3, 0.4)])
    (errorbar,) = side.containers
    means = [one.cells[name].summary().mean for name in ("121", "221", "421", "821")]
    assert list(errorbar.lines[0].get_ydata()) == means


def test_the_paper_may_have_a_value_of_its_own_at_a_point_of_a_curve():
    paper = {"net": {"plain": {"top1": 50.0}, "coc": {"top1": 51.0}, "two/1": {"top1": 49.5}}}
    study = made_study(curves={"one": {"1": "coc"}, "two": {"1": "coc"}}, paper=paper)
    one, two = draw("curves", analyse(study, made_records())).axes
    label = "paper: difference to its plain, from ours"
    (drawn, apart) = (
        [list(line.get_ydata()) for line in axes.lines if line.get_label() == label] for axes in (one, two)
    )
    assert drawn == [[72.0]]  # plain's mean and 1
    assert apart == [[70.5]]


def test_learning_curves_and_costs_by_hand():
    """A record learns its score − 10, − 5, − 10/3; coc is above plain by 1, 2, 3, so by 2 in every epoch."""
    records = [made_record("plain", seed, score) for seed, score in enumerate(PLAIN_SCORES)]
    records += [
        made_record("coc", seed, score, seconds=150.0, cpu_seconds=99.0) for seed, score in enumerate(COC_SCORES)
    ]
    analysis = analyse(made_study(), records)
    every, coc = draw("learning", analysis).axes
    of_coc, of_plain = every.lines
    assert list(of_plain.get_xdata()) == [1, 2, 3]
    assert list(of_plain.get_ydata()) == pytest.approx([61, 66, 71 - 10 / 3])
    assert list(of_coc.get_ydata()) == pytest.approx([63, 68, 73 - 10 / 3])
    assert list(coc.lines[0].get_ydata()) == pytest.approx([2, 2, 2])
    band = coc.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((1, 3))
    (axes,) = draw("cost", analysis).axes
    assert axes.get_xlabel() == "training CPU time, × plain"
    (point,) = (line for line in axes.lines if line.get_marker() == "o")
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([pytest.approx(1.1)], [2.0])


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_learning_curves_have_whole_epochs_and_one_epoch_is_seen(epochs):
    records = [{**record, "history": record["history"][:epochs]} for record in made_records()]
    every, coc = draw("learning", analyse(made_study(), records)).axes
    assert ticks(coc.xaxis) == list(range(1, epochs + 1))
    if epochs == 1:
        means = [line.get_ydata() for line in every.lines if line.get_marker() == "o"]
        assert [list(values) for values in means] == [[pytest.approx(63)], [pytest.approx(61)]]
        (deviation,) = coc.collections[0].get_segments()
        assert deviation[:, 1] == pytest.approx([1, 3])


@pytest.mark.parametrize("name", list(CAPTIONS))
def test_no_text_in_a_figure_is_clipped_or_lies_on_another(name):
    assert check_texts(draw(name, analyse(*many_runs()))) > 20


def test_names_are_spread_out_within_bounds():
    places = [0.0, 0.0, 0.01, 0.5, 0.99, 1.0]
    spread = spread_out(places, 0.1)
    assert all(later - earlier > 0.1 - 1e-9 for earlier, later in itertools.pairwise(spread))
    assert min(spread) >= 0
    assert max(spread) <= 1
    assert spread_out([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
