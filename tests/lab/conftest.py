"""Data that several tests of training runs share."""

import shutil

import pytest
from coco_files import write_squares


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Data that a small detector learns to find something in within an epoch, so that its figures are no zeros."""
    root = write_squares(tmp_path_factory.mktemp("squares"), train=128, val=8)
    options = ["--data.name=coco", f"--data.root={root}", "--data.classes=3", "--data.limit=128"]
    return [*options, "--training.batch=2", "--training.schedule=constant"]


@pytest.fixture(scope="session")
def _trained(tmp_path_factory):
    return tmp_path_factory.mktemp("trained"), {}


@pytest.fixture
def trained(_trained):
    """``trained(arguments, out)``: a finished run, trained for the first test that asks and copied for the others."""
    from tiny_runs import fit

    root, runs = _trained

    def copy(arguments, out):
        key = tuple(arguments)
        if key not in runs:
            runs[key] = root / str(len(runs))
            assert fit(arguments, runs[key]) == 0
        return shutil.copytree(runs[key], out)

    return copy


@pytest.fixture(scope="session")
def looked_into(tmp_path_factory):
    """A folder with the runs ``plain`` and ``coc``, ``images`` of three digits, and their ``report.html``."""
    from PIL import Image
    from sklearn.datasets import load_digits
    from tiny_runs import LOOK_INTO, fit

    from convofconv.cli import main

    folder = tmp_path_factory.mktemp("looked_into")
    (folder / "images").mkdir()
    for number, pixels in enumerate(load_digits().images[:3]):
        Image.fromarray((15 * pixels).astype("uint8")).resize((28, 28)).save(folder / f"images/{number}.png")
    for method in ("plain", "coc"):
        assert fit([*LOOK_INTO, f"--method={method}"], folder / method) == 0
    runs, images, out = [str(folder / name) for name in ("plain", "coc")], folder / "images", folder / "report.html"
    assert main(["report", *runs, "--images", str(images), "--out", str(out)]) == 0
    return folder


@pytest.fixture
def inside(monkeypatch):
    """Studies do their runs in this process."""
    from tiny_study import Inside

    from convofconv.lab.studies import execution as run

    monkeypatch.setattr(run, "LocalWorkers", Inside)


@pytest.fixture
def rendered():
    """What a test asks for that looks at the bytes of figures."""


@pytest.fixture
def drawn_only(request, monkeypatch):
    """Figures of reports are drawn, but not made images of, which takes far longer."""
    from convofconv.lab.studies import claims, report

    if "rendered" not in request.fixturenames:
        for module in (claims, report):
            monkeypatch.setattr(module, "encode", lambda figure, ending: b"")
