"""The README and the guides do what they say: their Python runs, their files and make targets exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = ["README.md", "CONTRIBUTING.md", "docs/method.md", "docs/training.md", "docs/lab.md", "docs/predict.md"]
GUIDES += ["docs/inspect.md"]
GUIDES += ["docs/index.md", "docs/studies.md", "docs/claims.md", "docs/results/README.md", "docs/results/first-runs.md"]


def snippets(language: str) -> list[tuple[str, str]]:
    found = []
    for guide in GUIDES:
        for code in re.findall(rf"```{language}\n(.*?)```", (ROOT / guide).read_text(encoding="utf-8"), re.DOTALL):
            found.append((guide, code))
    return found


@pytest.mark.parametrize(("guide", "code"), snippets("python"))
def test_python_snippets_run(guide, code):
    pytest.importorskip("timm", reason="timm is not installed (extra [lab])")
    exec(compile(code, guide, "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("guide", GUIDES)
def test_linked_and_named_files_exist(guide):
    text = (ROOT / guide).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:src|tests|benchmarks|docs)/[\w./]*)`", text)
    missing = [link for link in links if not ((ROOT / guide).parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_make_targets_in_the_guides_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = {match for _, code in snippets("console") for match in re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)}
    assert used
    assert used <= targets


def test_claims_named_in_the_documentation_are_tested():
    tests = (ROOT / "tests/core/test_claims.py").read_text(encoding="utf-8")
    names = re.findall(r"`(test_c\d\w*?)_?…?`", (ROOT / "docs/method.md").read_text(encoding="utf-8"))
    assert len(names) >= 6
    assert [name for name in names if f"def {name.rstrip('_')}" not in tests] == []


def test_the_site_begins_with_a_front_page_and_leaves_no_guide_out():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra [lab])")
    (front, *others) = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert list(front.values()) == ["index.md"]  # which the site answers with at its root
    named = re.findall(r"[\w/-]+\.md", str(others))
    reports = {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/results/*/report.md")}
    guides = {guide for guide in GUIDES if guide.startswith("docs/")} | reports
    assert guides <= {"docs/index.md", *(f"docs/{n}" for n in named)}
