"""`coc report`: what is on the page and in its numbers, and what is refused before anything is written."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lightning", reason="needs the extra [lab]")
pytest.importorskip("plotly", reason="needs the extra [lab]")

from made_up_runs import leave_results
from tiny_runs import CLASSIFY

import convofconv as coc
from convofconv.cli import main
from convofconv.lab.found_by_name import names_in
from convofconv.lab.inspect.inspection import inspect_networks
from convofconv.lab.inspect.named_networks import networks_of_runs
from convofconv.lab.inspect.prepared_images import prepare_images
from convofconv.lab.report.looks import WANTED
from convofconv.lab.report.page import INSIDE, SECTIONS
from convofconv.lab.report.parts.embedded_images import embedded
from convofconv.lab.report.parts.hover_mosaic import Panel, hover_mosaic
from convofconv.lab.report.parts.image_slider import image_slider
from convofconv.lab.report.parts.line_chart import COLOURS, Line, line_chart

pytestmark = pytest.mark.lab

VOID = {"meta", "link", "img", "input", "br", "path"}


class Page(HTMLParser):
    """What is on a page: texts of elements by tag, attributes, and that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data


def report(capsys, *arguments) -> tuple[int, str]:
    code = main(["report", *map(str, arguments)])
    return code, capsys.readouterr().err


def written(tmp_path, capsys, *folders) -> tuple[Page, dict]:
    out = tmp_path / "out.html"
    assert report(capsys, *folders, "--out", out) == (0, "")
    return Page(out.read_text(encoding="utf-8")), json.loads((tmp_path / "out.json").read_text())


def rows(page_text: str, caption: str) -> list[list[str]]:
    """The cells of the table with this caption."""
    body = page_text.partition(f"<caption>{caption}</caption>")[2].partition("</table>")[0]
    assert body, caption
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", body)]


@pytest.fixture
def two(tmp_path):
    return [leave_results(tmp_path / name, name, score=score) for name, score in (("plain", 70.0), ("coc", 72.5))]


def test_two_runs(two, tmp_path, capsys):
    page, numbers = written(tmp_path, capsys, *two)
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.texts["title"] == page.texts["h1"] == ["2 runs: plain, coc"]
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a" and "section" not in attributes]
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link.lstrip("#") for link in links} <= ids
    shown = [name for name in SECTIONS if name not in INSIDE[1:]]  # there are no networks to look into
    assert list(numbers["sections"]) == [name.replace("_", "-") for name in shown]
    assert rows(text, "What differs between the runs") == [["key", "plain", "coc"], ["method", "plain", "coc"]]
    assert rows(text, "Scores, %; top1 chose the best epoch") == [
        ["run", "variant", "seed", "best epoch", "top1", "top5"],
        ["plain", "plain", "0", "3 of 3", "70.00", "99.00"],
        ["coc", "coc", "0", "3 of 3", "72.50", "99.00"],
    ]
    assert rows(text, "top1 by class, %")[1:] == [["cat", "71.00", "73.50"], ["dog", "69.00", "71.50"]]
    assert rows(text, "Trained against folded")[1:] == [
        ["plain", "nothing was converted", "–", "–"],
        ["coc", "the same", "2.5e-07", "0"],
    ]
    assert rows(text, "What every run took, evaluation included")[2] == [
        *("coc", "cpu", "2 min 0 s", "1 min 30 s", "40 s", "1,234", "1,000")
    ]
    assert rows(text, "Training loss: loss by epoch")[1:] == [
        ["1", "1", "1"],
        ["2", "0.5", "0.5"],
        ["3", *["0.333333"] * 2],
    ]


def test_every_number_is_json_in_the_page_and_beside_it(two, tmp_path, capsys):
    _, numbers = written(tmp_path, capsys, *two)
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    inside = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', text)
    assert inside is not None
    assert json.loads(inside[1]) == numbers
    sections = numbers["sections"]
    assert sections["final-scores"]["runs"]["coc"] == {"top1": 72.5, "top5": 99.0}
    assert sections["final-scores"]["by_class"]["coc"] == {"top1": {"cat": 73.5, "dog": 71.5}}
    assert [epoch["loss"] for epoch in sections["learning-curves"]["history"]["coc"]] == [1, 1 / 2, 1 / 3]
    assert sections["configuration"]["different"] == {"method": {"plain": "plain", "coc": "coc"}}
    assert sections["configuration"]["common"]["training.lr"] == 0.1
    assert sections["folding-check"]["coc"]["largest_difference"] == 2.5e-7
    assert sections["training-cost"]["plain"]["seconds"] == 120
    other = tmp_path / "elsewhere/n.json"
    assert report(capsys, *two, "--out", tmp_path / "b.html", "--json", other)[0] == 0
    assert json.loads(other.read_text()) == numbers
    assert not (tmp_path / "b.json").exists()


def test_the_same_runs_give_the_same_bytes(two, tmp_path, capsys):
    for name in ("a", "b"):
        assert report(capsys, *two, "--out", tmp_path / f"{name}.html")[0] == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").stat().st_size < 10e6


def test_seeds_are_averaged(tmp_path, capsys):
    scores = {"plain": [70.0, 71.0, 74.0], "coc": [73.0, 75.0]}
    folders = [
        leave_results(tmp_path / f"{name}-{seed}", name, seed, score)
        for name, several in scores.items()
        for seed, score in enumerate(several)
    ]
    _, numbers = written(tmp_path, capsys, *folders)
    found = numbers["sections"]["final-scores"]["over_seeds"]["classification"]
    for name, several in scores.items():
        assert found[name]["top1"]["n"] == len(several)
        assert found[name]["top1"]["mean"] == pytest.approx(statistics.fmean(several))
        assert found[name]["top1"]["deviation"] == pytest.approx(statistics.stdev(several))
    table = rows((tmp_path / "out.html").read_text(encoding="utf-8"), "Scores, %; top1 chose the best epoch")
    assert table[-2:] == [
        ["plain: mean of 3", "plain", "", "", "71.67 ± 2.08", "99.00 ± 0.00"],
        ["coc: mean of 2", "coc", "", "", "74.00 ± 1.41", "99.00 ± 0.00"],
    ]


def test_variants_are_named_by_what_differs(tmp_path, capsys):
    """The seed makes no variant, nor where the data lies."""
    elsewhere = {"data.root": "/elsewhere", "machine.threads": 3}
    folders = [
        leave_results(tmp_path / "a", "coc", 0, recipe={"training.lr": 0.1}),
        leave_results(tmp_path / "b", "coc", 1, recipe={"training.lr": 0.1, **elsewhere}),
        leave_results(tmp_path / "c", "coc", 0, recipe={"training.lr": 0.2, **elsewhere}),
        leave_results(tmp_path / "d", "plain", 0, recipe={"training.lr": 0.1}),
    ]
    _, numbers = written(tmp_path, capsys, *folders)
    variants = {name: run["variant"] for name, run in numbers["runs"].items()}
    assert variants == {"a": "coc, lr 0.1", "b": "coc, lr 0.1", "c": "coc, lr 0.2", "d": "plain, lr 0.1"}


def test_two_tasks_have_tables_of_their_own(tmp_path, capsys):
    scores = {"as_trained": {"mIoU": 40.0}, "folded": {"mIoU": 40.0}}
    history = [{"epoch": 1, "step": 1, "lr": 0.1, "loss": 2.0, "mIoU": 40.0}]
    masks = {"metric": "mIoU", "test": scores, "history": history, "best_epoch": 1}
    masks |= {"test_by_class": {"IoU": [None, 40.0]}, "validation": history[0]}
    folders = [
        leave_results(tmp_path / "classes"),
        leave_results(tmp_path / "masks", recipe={"task": "segmentation"}, **masks),
    ]
    page, _ = written(tmp_path, capsys, *folders)
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.texts["h3"] == ["classification", "segmentation"] * 2
    assert [row[0] for row in rows(text, "Scores, %; top1 chose the best epoch")] == ["run", "classes"]
    assert rows(text, "Scores, %; mIoU chose the best epoch")[1] == ["masks", "plain", "0", "1 of 1", "40.00"]
    assert rows(text, "IoU by class, %") == [["class", "masks"], ["dog", "40.00"]], (
        "a class without a score is left out"
    )


def test_folders_of_one_name_are_told_apart(tmp_path, capsys):
    folders = [leave_results(tmp_path / above / "seed0", above) for above in ("plain", "coc")]
    _, numbers = written(tmp_path, capsys, *folders)
    assert list(numbers["runs"]) == ["plain/seed0", "coc/seed0"]


def test_what_is_no_number_is_a_gap(tmp_path, capsys):
    nan, inf = float("nan"), float("inf")
    history = [
        {"epoch": e, "step": e, "lr": 0.1, "loss": loss, "top1": 50.0} for e, loss in ((1, 2.0), (2, nan), (3, inf))
    ]
    folder = leave_results(
        tmp_path / "run", history=history, test={"as_trained": {"top1": nan}, "folded": {"top1": nan}}
    )
    page, numbers = written(tmp_path, capsys, folder)
    assert any("run: loss in epoch 2, 3" in text for text in page.texts["p"])
    assert numbers["sections"]["learning-curves"]["gaps"] == [{"run": "run", "metric": "loss", "epochs": [2, 3]}]
    assert numbers["sections"]["final-scores"]["runs"]["run"] == {"top1": None}
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert rows(text, "Training loss: loss by epoch")[2] == ["2", "–"]
    assert "NaN" not in (tmp_path / "out.json").read_text()


EVIL = '<img src=x onerror="alert(1)">&%{x}'


def test_names_are_escaped(tmp_path, capsys):
    script = "</script><script>alert(2)</script>"
    folder = leave_results(
        tmp_path / EVIL,
        recipe={"model.backbone": script},
        classes=[EVIL, script],
        metric="top1",
        command=["coc", script],
    )
    page, numbers = written(tmp_path, capsys, folder)
    assert [tag for tag, _ in page.elements].count("img") == 0
    assert page.texts["h1"] == [f"Run {EVIL}"]
    assert list(numbers["sections"]["final-scores"]["by_class"][EVIL]["top1"]) == [EVIL, script]
    assert sum("alert(2)" in text for text in page.texts["script"]) == 1, "in the JSON alone"


MISTAKES = {
    "no folder": (lambda p: [p / "nowhere"], r"nowhere holds no finished run, .* give the folder that coc fit wrote"),
    "unfinished": (
        lambda p: [unfinished(p)],
        r"or finish the run: coc fit .*unfinished --resume",
    ),
    "twice": (lambda p: [p / "good", p / "good/../good"], "the same run is given twice"),
    "no JSON": (lambda p: [broken(p, "{")], r"results\.json: damaged, no longer readable as JSON"),
    "no history": (lambda p: [leave_without(p, "history")], r"results\.json: damaged, it has no history"),
    "empty history": (lambda p: [leave_results(p / "bad", history=[])], "the history is empty"),
    "history of words": (
        lambda p: [leave_results(p / "bad", history=["no"])],
        "not the results of a run of this version",
    ),
    "words for scores": (
        lambda p: [leave_results(p / "bad", test={"as_trained": {}, "folded": {"top1": "high"}})],
        "TypeError: 'high' has the wrong type",
    ),
    "other classes": (lambda p: [leave_results(p / "bad", classes=["one"])], "scores of 2 classes, there are 1"),
    "no recipe": (lambda p: [leave_results(p / "bad", recipe={"training": 3})], "not the results of a run"),
    "out is a folder": (lambda p: [p / "good", "--out", folder_at(p / "x.html")], r"x\.html is a folder"),
    "out is a word": (lambda p: [p / "good", "--out", p / "report"], r"give a file that ends in \.html"),
    "out below a file": (lambda p: [p / "good", "--out", p / "good/results.json/a.html"], "no results can be written"),
    "json is the page": (lambda p: [p / "good", "--json", p / "out.html"], "is the page itself"),
    "no such image": (lambda p: [p / "good", "--images", p / "none.png"], "no such image, and no pattern of any"),
    "images not looked at": (
        lambda p: [p / "good", "--no-inspection", "--images", p / "none.png"],
        "leave out --no-inspection",
    ),
    "json is the run's": (lambda p: [p / "good", "--json", p / "good/results.json"], "a file of the run itself"),
}


def folder_at(path: Path) -> Path:
    path.mkdir()
    return path


def unfinished(path: Path) -> Path:
    (leave_results(path / "unfinished") / "results.json").unlink()
    return path / "unfinished"


def broken(path: Path, text: str) -> Path:
    (leave_results(path / "bad") / "results.json").write_text(text)
    return path / "bad"


def leave_without(path: Path, key: str) -> Path:
    file = leave_results(path / "bad") / "results.json"
    file.write_text(json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != key}))
    return path / "bad"


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, tmp_path, capsys):
    make, message = MISTAKES[name]
    before = leave_results(tmp_path / "good") / "results.json"
    results = before.read_bytes()
    arguments = make(tmp_path)
    if "--out" not in arguments:
        arguments += ["--out", tmp_path / "out.html"]
    code, error = report(capsys, *arguments)
    assert code == 2
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.html").exists()
    assert not (tmp_path / "out.json").exists()
    assert before.read_bytes() == results


def test_every_section_is_on_the_page():
    assert sorted(SECTIONS) == list(names_in("report.sections"))


# Looking inside


def sections_of(looked_into: Path) -> dict:
    return json.loads((looked_into / "report.json").read_text())["sections"]


def test_what_is_found_inside_is_what_coc_inspect_finds(looked_into):
    networks = networks_of_runs([looked_into / "plain", looked_into / "coc"])
    images = prepare_images([str(looked_into / "images")], networks.first, networks.recipe, looked_into / "report.html")
    found = json.loads(json.dumps(inspect_networks(networks, WANTED, images).numbers()))
    sections = sections_of(looked_into)
    topics = {
        "kernel-groups": "groups",
        "receptive-fields": "fields",
        "compared-maps": "maps",
        "gradients": "gradients",
        "association-state": "health",
    }
    assert {name: sections[name]["classification"] for name in topics} == {
        name: found[topic] for name, topic in topics.items()
    }
    assert sections["kernels"]["mosaics"]["classification"] == found["kernels"]
    assert sections["looked-into"]["networks"] == {"classification": {"plain": ["plain"], "coc": ["coc"]}}
    assert sections["looked-into"]["left_out"] == {}


def test_kernels_are_shown_with_norm_and_taps(looked_into):
    """Of the first layer, whose input channels are colours."""
    shown = sections_of(looked_into)["kernels"]["shown"]["classification"]["conv1"]
    conv = coc.lab.load_run(looked_into / "coc", folded=False).network.conv1.requires_grad_(False)
    taps = {
        "coc: effective": conv.weight,
        "coc: basic": conv.parametrizations.weight.original,
        "coc: difference": conv.weight - conv.parametrizations.weight.original,
        "plain: kernels": coc.lab.load_run(looked_into / "plain").network.conv1.weight.detach(),
    }
    assert list(shown) == [f"group {group}" for group in (0, 2, 4, 6, 9, 11, 13, 15)], "8 of 16, evenly spaced"
    for title, kernels in taps.items():
        cells = [cell for panels in shown.values() for cell in panels[title]]
        numbers = [4 * group + place for group in (0, 2, 4, 6, 9, 11, 13, 15) for place in range(4)]
        assert [cell["name"] for cell in cells] == [f"kernel {number}" for number in numbers]
        for number, cell in zip(numbers, cells, strict=True):
            np.testing.assert_allclose(cell["taps"], kernels[number].detach(), rtol=6e-3, atol=1e-12)
            assert cell["norm"] == pytest.approx(float(kernels[number].norm()), rel=1e-5)
    (cell,) = shown["group 9"]["coc: super kernel"]
    super_kernel = conv.parametrizations.weight[0].super_kernel[0, 9].squeeze().detach()
    np.testing.assert_allclose(cell["taps"][0], super_kernel, rtol=6e-3)
    assert cell["norm"] == pytest.approx(float(super_kernel.norm()), rel=1e-5)


def test_the_page_shows_what_is_found_inside(looked_into):
    text = (looked_into / "report.html").read_text(encoding="utf-8")
    page, sections = Page(text), sections_of(looked_into)
    assert len(text) < 10e6
    fields = sections["receptive-fields"]["classification"]
    assert [row[:3] for row in rows(text, "Sizes of receptive fields")[1:]] == [
        [name, "layer4", f"{fields[name]['layer4']['size']:.1f}"] for name in ("plain", "coc")
    ]
    groups = rows(text, "Layer conv1: 16 of 16 groups compared")
    similarity = sections["kernel-groups"]["classification"]["coc"]["conv1"]
    (row,) = [row for row in groups if row[:2] == ["coc, effective", "similarity"]]
    assert row[2:4] == [f"{similarity['effective']['similarity'][pairs]:.3f}" for pairs in ("within", "between")]
    p = similarity["tests"]["similarity"]["p_greater"]
    assert row[-1] == f"{'yes' if p <= 0.05 else 'no'}, p = {p:.2g}"
    assert [row[:2] for row in groups[1:4]] == [["plain", what] for what in ("similarity", *MORE)]
    health = sections["association-state"]["classification"]["coc"]
    assert [row[0] for row in rows(text, "Associations of coc")[1:]] == [one["layer"] for one in health]
    texts = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert all(texts)
    for start in ("Effective receptive field of layer4 in plain: effective", "grad-cam of layer4 in coc, for class "):
        assert any(one.startswith(start) for one in texts)
    titles = [title for title in page.texts["figcaption"] if re.match(r"\d\.png: class \d; plain score", title)]
    assert len(titles) == 3


MORE = ("support overlap", "spectrum overlap")


def test_seeds_and_other_layers(looked_into, trained, tmp_path, capsys):
    """Networks of other layers are looked at apart, those of another seed count as the same."""
    again = shutil.copytree(looked_into / "coc", tmp_path / "again")
    for file in (again / "results.json", again / "recipe.json"):
        file.write_text(re.sub(r'"seed": 0', '"seed": 1', file.read_text()))
    other = trained([*CLASSIFY, "--method=coc"], tmp_path / "other")
    _, numbers = written(tmp_path, capsys, looked_into / "coc", again, other)
    resnet, mobilenet = numbers["sections"]["looked-into"]["networks"].values()
    assert list(resnet.values()) == [["coc", "again"]]
    assert list(mobilenet.values()) == [["other"]]
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert rows(text, "Sizes of receptive fields")[1][4] == "2 seeds"
    groups = numbers["sections"]["kernel-groups"]
    p = groups["classification: coc, backbone resnet18"]["coc, backbone resnet18"]["conv1"]["over_seeds"]["similarity"]
    (row,) = [row for row in rows(text, "Layer conv1: 16 of 16 groups compared") if "effective" in row[0]][:1]
    assert row[-1] == f"{'yes' if p <= 0.05 else 'no'}, p = {p:.2g} over seeds"
    page, titles = Page(text), list(groups)
    assert [title.split(":")[0] for title in titles] == ["classification"] * 2
    assert set(titles) <= set(page.texts["h3"])
    remarks = numbers["sections"]["looked-into"]["remarks"].values()
    assert list(remarks) == [["no activation maps: --images names images"]] * 2
    assert "compared-maps" not in numbers["sections"]


def test_one_network_is_compared_with_its_image(looked_into, tmp_path, capsys):
    code, error = report(
        capsys, looked_into / "plain", "--out", tmp_path / "out.html", "--images", looked_into / "images"
    )
    assert (code, error) == (0, "")
    page = Page((tmp_path / "out.html").read_text(encoding="utf-8"))
    sides = [attributes["data-name"] for tag, attributes in page.elements if tag == "input"]
    assert sides == ["image"] * 3
    sections = json.loads((tmp_path / "out.json").read_text())["sections"]
    assert not {"gradients", "association-state"} & set(sections), "nothing is associated"
    assert any("Nothing is associated" in text for text in page.texts["p"])


def test_what_cannot_be_looked_into_is_said(looked_into, tmp_path, capsys, monkeypatch):
    from convofconv.lab.report import looks

    def some(networks, wanted, images):
        if wanted.topics == ("fields",):
            raise coc.ConfigError("there is no such layer")
        return inspect_networks(networks, dataclasses.replace(wanted, draws=1), images)

    monkeypatch.setattr(looks, "inspect_networks", some)
    page, numbers = written(tmp_path, capsys, looked_into / "coc", leave_results(tmp_path / "made-up", "plain"))
    reasons = numbers["sections"]["looked-into"]
    assert list(reasons["left_out"]) == ["made-up"]
    assert "the run has no weights yet" in reasons["left_out"]["made-up"]
    assert reasons["problems"] == {"classification": {"fields": "there is no such layer"}}
    assert any("made-up is left out: " in text for text in page.texts["p"])
    assert "No fields: there is no such layer" in page.texts["p"]
    assert "receptive-fields" not in numbers["sections"]
    assert "kernels" in numbers["sections"]


def test_networks_need_not_be_looked_into(looked_into, tmp_path, capsys):
    _, numbers = written(tmp_path, capsys, looked_into / "coc", "--no-inspection")
    assert list(numbers["sections"]) == [name.replace("_", "-") for name in SECTIONS if name not in INSIDE]


# What sections are made of


def test_a_chart_has_a_colour_per_group_and_means_of_several(tmp_path):
    lines = [Line("a", "coc", {1: 1.0, 2: 3.0}), Line("b", "coc", {1: 3.0, 2: 3.0}), Line("c", "plain", {1: 5.0})]
    page = line_chart("A title", lines, "epoch", "score, %")
    figure = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    band, one, other, mean, alone = figure["data"]
    assert (one["y"], other["y"], alone["y"]) == ([1, 3], [3, 3], [5])
    assert mean["y"] == [2, 3]
    assert mean["customdata"] == pytest.approx([2**0.5, 0])
    assert band["y"] == pytest.approx([2 + 2**0.5, 3, 3, 2 - 2**0.5])
    assert {trace["line"].get("color", COLOURS[0]) for trace in (one, other, mean)} == {COLOURS[0]}
    assert alone["line"]["color"] == COLOURS[1]
    assert "a from 1 to 3; b from 3 to 3; c from 5 to 5" in page


def test_no_colour_is_lost_on_white_or_black():
    """A contrast of 3 at least, as WCAG asks of what is drawn."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    for colour in COLOURS:
        for paper in ("#ffffff", "#14171a"):
            lighter, darker = sorted([luminance(colour), luminance(paper)], reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 3, (colour, paper)


def test_a_slider_needs_two_images_of_one_size():
    left = np.zeros((4, 6, 3), np.uint8)
    page = Page(image_slider("Maps", left, left + 9, ("plain", "coc"), ("a map", "another map"), photo=False))
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [image["alt"] for image in images] == ["a map", "another map"]
    assert {(image["width"], image["height"]) for image in images} == {("6", "4")}
    with pytest.raises(coc.ShapeError, match="got 4 × 6 and 6 × 4 pixels"):
        image_slider("Maps", left, left.transpose(1, 0, 2), ("plain", "coc"), ("", ""))


@pytest.mark.parametrize("image", [np.zeros((2, 2)), np.zeros((0, 2), np.uint8), np.zeros((2, 2, 4), np.uint8)])
def test_what_is_no_image(image):
    with pytest.raises(coc.ShapeError, match="an image is uint8"):
        embedded(image)


def test_a_mosaic_lays_cells_out_row_by_row():
    cells = np.arange(3, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    taps = np.stack([np.full((3, 3), value) for value in (0.0, 1.0, -2.0)])
    page = hover_mosaic("Kernels", {"group 0": [Panel("basic", cells, taps, columns=2)]})
    data = re.search(r"data:image/png;base64,([^\"]+)", page)[1]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert sheet.tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 128, 128]] * 2
    labels = [
        attributes["aria-label"] for tag, attributes in Page(page).elements if attributes.get("role") == "gridcell"
    ]
    assert labels == ["kernel 0, norm 0", "kernel 1, norm 3", "kernel 2, norm 6"]
    with pytest.raises(coc.ShapeError, match="belong together"):
        hover_mosaic("Kernels", {"group 0": [Panel("basic", cells, taps[:2], columns=2)]})
