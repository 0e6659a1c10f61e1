"""The page of `coc report` as it is used: in Chromium, by mouse, by keyboard, on a phone, in the dark and in print."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")
pytest.importorskip("plotly", reason="needs the extra [lab]")
pytest.importorskip("playwright", reason="playwright is not installed (extra [dev])")

from made_up_runs import leave_results
from playwright.sync_api import expect, sync_playwright

from convofconv.cli import main
from convofconv.lab.report.page import assemble
from convofconv.lab.report.parts.hover_mosaic import Panel, hover_mosaic
from convofconv.lab.report.parts.image_slider import image_slider
from convofconv.lab.report.parts.section import Section

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
EVIL = '<img src=x onerror="alert(1)"><b>%{x}&lt;'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # which root needs
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Of two variants, one of them with two seeds, and a run of a hostile name with gaps in its history."""
    folder = tmp_path_factory.mktemp("reports")
    history = [{"epoch": e, "step": e, "lr": 0.1, "loss": v, "top1": 50.0} for e, v in ((1, 2.0), (2, None), (3, 1.0))]
    runs = [
        leave_results(folder / "plain-seed0-with-a-name-that-is-longer-than-a-phone-is-wide", "plain", 0),
        leave_results(folder / "coc-seed0", "coc", 0, 71.0),
        leave_results(folder / "coc-seed1", "coc", 1, 73.0),
        leave_results(folder / EVIL, "stnd", 0, history=history),
    ]
    assert main(["report", *map(str, runs), "--out", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def looks_inside(tmp_path_factory) -> Path:
    """A page of what sections on kernels and maps are made of."""
    generator = np.random.default_rng(0)
    taps = generator.normal(size=(5, 3, 3, 3))
    cells = (255 * (taps - taps.min()) / np.ptp(taps)).astype(np.uint8).transpose(0, 2, 3, 1)
    frames = {
        f"group {i}": [
            Panel("basic", cells, taps, 2, [f"kernel {5 * i + k}" for k in range(5)]),
            Panel("super kernel", cells[:1], taps[:1, 0], 1, [f"super kernel {i}"]),
        ]
        for i in range(6)
    }
    left, right = (np.full((96, 128, 3), colour, np.uint8) for colour in ((200, 40, 40), (40, 40, 200)))
    parts = {
        "kernels": Section("Kernels", hover_mosaic("6 of 9 groups", frames), {}),
        "maps": Section("Maps", image_slider("A cat", left, right, ("plain", "coc"), ("red", "blue"), photo=False), {}),
    }
    path = tmp_path_factory.mktemp("pages") / "inside.html"
    path.write_text(assemble("Inside", ["Toy data."], parts, {}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def real(looked_into) -> Path:
    """Of two networks that were trained."""
    return looked_into / "report.html"


@pytest.fixture
def opened(browser) -> Iterator[Any]:
    """``opened(path, **of_context)``: the page in a new window, where nothing may go wrong or reach a network."""
    wrong: list[str] = []
    contexts = []

    def open_page(path: Path, width: int = 1200, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url) if not local(request.url) else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))


def scrolls_sideways(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def hovered(page: Any, place: Any) -> list[str]:
    """What charts say when the mouse is at the middle of an element."""
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 9, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.wait_for_selector(".hoverlayer text", state="attached")
    return page.locator(".hoverlayer text").all_text_contents()


def test_charts_are_drawn_and_say_their_values(report, opened):
    page = opened(report)
    assert page.locator("figure.chart").count() == 4
    drawn = page.locator(".plot.drawn .main-svg")
    assert drawn.count() >= 2
    assert page.locator(".plot.drawn").count() == 2, "the others are folded away"
    said = hovered(page, page.locator(".plot.drawn").first.locator(".scatterlayer .points path").first)
    assert any("epoch 1: 1" in text for text in said)
    assert any("plain-seed0" in text for text in said)
    page.get_by_text("More curves").click()
    expect(page.locator(".plot.drawn")).to_have_count(4)


def test_a_hostile_name_is_text_in_charts_too(report, opened):
    page = opened(report)
    points = page.locator(".plot.drawn").first.locator(".scatterlayer .trace").last.locator(".points path")
    assert points.count() == 2, "the epoch without a number is a gap"
    said = "".join(hovered(page, points.first))
    assert EVIL.replace(" ", "") in said.replace(" ", ""), "in two lines"
    assert page.locator("img").count() == 0


def test_the_legend_hides_and_shows_what_it_names(report, opened):
    page = opened(report)
    chart = page.locator("figure.chart").first
    lines = chart.locator(".scatterlayer .trace")
    before = lines.count()
    button = chart.get_by_role("button", name="coc")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert lines.count() == before - 4, "two seeds, their mean and its band"
    page.keyboard.press("Enter")
    assert (button.get_attribute("aria-pressed"), lines.count()) == ("true", before)


@pytest.mark.parametrize("which", ["report", "looks_inside", "real"])
def test_readable_in_the_light_and_in_the_dark(which, request, opened):
    """Text has a contrast of 4.5 at least (WCAG, AA), in charts too."""
    page = opened(request.getfixturevalue(which))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        check_contrast(page, scheme)


def check_contrast(page: Any, scheme: str) -> None:
    found = page.evaluate("""() => {
      const paper = getComputedStyle(document.body).backgroundColor;
      const words = "h1, h2, p, td, th, a:not(.skip), summary, figcaption, .name, button, dt, dd";
      const text = [...document.querySelectorAll(words)];
      const drawn = [...document.querySelectorAll(".xtick text, .ytick text, .infolayer text")];
      return [paper, ...text.map((e) => getComputedStyle(e).color), ...drawn.map((e) => getComputedStyle(e).fill)];
    }""")
    paper, *inks = [luminance(colour) for colour in dict.fromkeys(found)]
    assert (paper > 0.9) == (scheme == "light")
    assert len(inks) >= 3
    for ink in inks:
        lighter, darker = sorted([ink, paper], reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    return float(
        np.dot([0.2126, 0.7152, 0.0722], [((p + 0.055) / 1.055) ** 2.4 if p > 0.04 else p / 12.92 for p in parts])
    )


@pytest.mark.parametrize("which", ["report", "looks_inside", "real"])
def test_readable_at_the_width_of_a_phone(which, request, opened):
    page = opened(request.getfixturevalue(which), width=390, has_touch=True, is_mobile=True)
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    assert not scrolls_sideways(page)
    assert page.evaluate("innerWidth") == 390, "it is not zoomed out"
    sizes = page.evaluate("""() => [...document.querySelectorAll("p, td, th, dt, dd, figcaption, button, .name")]
      .filter((e) => e.getClientRects().length).map((e) => parseFloat(getComputedStyle(e).fontSize))""")
    assert min(sizes) >= 12
    for plot in page.locator(".plot.drawn").all():
        assert 250 < plot.bounding_box()["width"] <= 390


@pytest.mark.parametrize("which", ["report", "real"])
def test_everything_is_reached_by_keyboard(which, request, opened):
    """Tab comes to all that can be used, in the order of the page, and it is seen where it is."""
    page = opened(request.getfixturevalue(which))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    expected = page.evaluate("""() => [...document.querySelectorAll("a, button, summary, input, [tabindex='0']")]
      .filter((e) => e.checkVisibility()).length""")
    seen = set()
    for _ in range(expected - 1):
        page.keyboard.press("Tab")
        place, outline = page.evaluate("""() => {
          const e = document.activeElement;
          return [[...document.querySelectorAll("*")].indexOf(e), getComputedStyle(e).outlineStyle];
        }""")
        assert outline != "none"
        assert not seen or place > max(seen)
        seen.add(place)
    assert len(seen) == expected - 1
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None


@pytest.mark.parametrize("which", ["report", "looks_inside", "real"])
def test_what_is_seen_is_said_too(which, request, opened):
    """Figures, images, tables, controls and regions have names; one heading of the first level; ids are unique."""
    page = opened(request.getfixturevalue(which))
    nameless = page.evaluate("""() => {
      const named = (e) => (e.getAttribute("aria-label") || e.getAttribute("alt") || e.textContent).trim();
      const roles = ["img", "grid", "gridcell", "region", "group"].map((role) => `[role=${role}]`);
      const all = ["figure", "img", "button", "a", "input", "nav", "section", ...roles].join();
      const find = (selector, wrong) => [...document.querySelectorAll(selector)].filter(wrong).map((e) => e.outerHTML);
      const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
      return [
        ...find(all, (e) => !named(e)),
        ...find("figure", (e) => !e.querySelector("figcaption")),
        ...find("main table:not(.readout table)", (e) => !e.caption),
        ...ids.filter((id, i) => ids.indexOf(id) !== i),
      ];
    }""")
    assert nameless == []
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1
    for section in page.locator("section").all():
        assert page.locator(f"#{section.get_attribute('aria-labelledby')}").inner_text()


def test_numbers_are_there_for_those_who_do_not_see_charts(report, opened):
    page = opened(report)
    said = page.locator(".plot").nth(1).get_attribute("aria-label")
    assert said.startswith("Line chart: Validation: top1, top1, % by epoch. plain-seed0")
    assert "coc-seed1 from 63 to 69.67" in said
    inside = json.loads(page.locator("#numbers").text_content())
    assert inside == json.loads(report.with_suffix(".json").read_text())


def test_print_has_all_that_matters(report, opened):
    page = opened(report, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.locator(".plot.drawn").first.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = page.evaluate("[...document.querySelectorAll('.plot.drawn .main-svg')].map((e) => e.clientWidth)")
    assert set(widths) == {680}, "charts are as wide as paper"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.locator(".plot.drawn .main-svg").first.bounding_box()["width"] > 900
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_a_mosaic_says_what_is_pointed_at(looks_inside, opened):
    page = opened(looks_inside)
    readout = page.locator(".readout")
    assert "Point at a cell" in readout.inner_text()
    page.locator(".panel").nth(4).locator("[role=gridcell]").nth(3).hover()
    assert readout.inner_text().startswith("group 2, basic: kernel 13, norm ")
    taps = np.random.default_rng(0).normal(size=(5, 3, 3, 3))
    shown = [float(cell.replace("−", "-")) for cell in readout.locator("td").all_inner_texts()]
    assert shown == pytest.approx(taps[3].ravel(), rel=1e-2)
    page.locator(".panel").last.locator("[role=gridcell]").hover()
    assert readout.inner_text().startswith("group 5, super kernel: super kernel 5, norm ")
    assert readout.locator("td").count() == 9


def test_a_mosaic_by_keyboard(looks_inside, opened):
    """One stop per panel, arrows within it; the last row of five cells in two columns has one."""
    page = opened(looks_inside)
    first = page.locator(".panel").first.locator("[role=gridcell]")
    first.first.focus()
    ways = ["", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp"]
    kernels = [0, 1, 3, 3, 2, 4, 4, 4, 2]
    for key, kernel in zip([*ways, "End", "Home"], [*kernels, 3, 2], strict=True):
        if key:
            page.keyboard.press(key)
        assert page.locator(".readout strong").inner_text().startswith(f"kernel {kernel},"), key
    for panel in ("group 0, super kernel: super kernel 0,", "group 1, basic: kernel 5,"):
        page.keyboard.press("Tab")
        assert page.locator(".readout").inner_text().startswith(panel)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert page.locator(".readout strong").inner_text().startswith("kernel 2,")


def colour_at(page: Any, share: float) -> str:
    """Which of the images is seen at a share of the width."""
    box = page.locator(".pair").bounding_box()
    return page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('.side').querySelector('img').alt",
        [box["x"] + share * box["width"], box["y"] + box["height"] / 2],
    )


def test_the_slider_moves_the_border(looks_inside, opened):
    page = opened(looks_inside)
    slider = page.get_by_role("slider")
    slider.scroll_into_view_if_needed()
    assert (colour_at(page, 0.3), colour_at(page, 0.7)) == ("red", "blue")
    slider.focus()
    page.keyboard.press("Home")
    assert (colour_at(page, 0.1), slider.get_attribute("aria-valuetext")) == ("blue", "0 % plain")
    page.keyboard.press("End")
    assert (colour_at(page, 0.9), slider.get_attribute("aria-valuetext")) == ("red", "100 % plain")
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "99"
    box = page.locator(".pair").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 9)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 9, steps=3)
    page.mouse.up()
    assert slider.input_value() == "25"
    assert (colour_at(page, 0.2), colour_at(page, 0.3)) == ("red", "blue")


def test_without_a_script_and_in_print_both_images_are_seen_whole(looks_inside, opened):
    plain, printed = opened(looks_inside, java_script_enabled=False), opened(looks_inside)
    printed.emulate_media(media="print")
    for page in (plain, printed):
        left, right = (one.bounding_box() for one in page.locator(".pair img").all())
        assert left["x"] + left["width"] <= right["x"]
        assert left["y"] == right["y"]
        assert not page.get_by_role("slider").is_visible()
        assert page.locator(".pair .name").all_inner_texts() == ["plain", "coc"]


def test_without_a_script_the_numbers_are_there(report, opened):
    page = opened(report, java_script_enabled=False)
    assert page.get_by_text("Without JavaScript there are no charts").is_visible()
    page.get_by_text("The numbers of this chart").first.click()
    assert page.locator("figure table").first.is_visible()


def test_kernels_and_maps_of_real_networks(real, opened):
    """What is pointed at is what the numbers say, and the slider is between both networks."""
    page = opened(real)
    numbers = json.loads(page.locator("#numbers").text_content())["sections"]
    shown = numbers["kernels"]["shown"]["classification"]["conv1"]["group 2"]["coc: effective"][3]
    panel = page.get_by_role("grid", name="group 2, coc: effective").first
    panel.get_by_role("gridcell").nth(3).hover()
    readout = page.locator(".readout").first
    assert readout.inner_text().startswith(f"group 2, coc: effective: kernel 11, norm {shown['norm']:.4g}")
    taps = [float(cell.replace("−", "-")) for cell in readout.locator("td").all_inner_texts()]
    assert taps == np.ravel(shown["taps"]).tolist()
    slider = page.locator("#compared-maps .slider").first
    handle = slider.get_by_role("slider")
    handle.focus()
    page.keyboard.press("End")
    assert handle.get_attribute("aria-valuetext") == "100 % plain"
    assert slider.locator("img").nth(1).get_attribute("alt").startswith("grad-cam of layer4 in coc, for class ")
    assert page.locator("#gradients .plot.drawn").count() == 1
    page.locator("#gradients summary").last.click()
    drawings = page.locator("#gradients .drawing img, #receptive-fields img")
    expect(page.locator("#gradients .drawing img").last).to_be_visible()
    assert drawings.evaluate_all("all => all.every((image) => image.naturalWidth > 300)")
