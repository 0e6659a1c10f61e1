"""The command line `coc`: exit codes, one-line messages, and that it starts without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")

from convofconv import ConfigError, __version__
from convofconv.cli import entry as cli
from convofconv.lab.demo.settings import DemoSettings


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = python(f"""
import sys
import convofconv.cli
try:
    convofconv.cli.main({arguments!r})
except SystemExit as exit:
    assert exit.code == 0
for name in ("torch", "numpy", "matplotlib", "torchvision", "mlxtend"):
    assert name not in sys.modules, name
""")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout


def test_help_lists_every_command_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    names = [[name] for name in cli.COMMANDS]
    for name, command in cli.COMMANDS.items():
        assert f"\n    {name} " in listed
        names += [[name, below] for below in getattr(command, "commands", ())]
    for name in names:
        with pytest.raises(SystemExit):
            cli.main([*name, "--help"])
        text = capsys.readouterr().out
        assert f"coc {' '.join(name)}" in text  # an example
        assert text.index("\n\n") < 1000, name  # what it does comes soon: of a hundred options, no usage
        told = text.split("options:")[-1].partition("\ncommands:")[0]
        options = [part for part in told.split("\n  --") if part.strip()][1:]
        without = (
            "arch ",
            "out FILE",
            "out DIR",
            "recipe RECIPE",
            "retry-failed",
            "dry-run",
            "print_config",
            "no-inspection",
        )
        without += tuple(f"{section} CONFIG" for section in ("data", "model", "training", "machine"))
        for option in options:
            assert "default: " in " ".join(option.split()) or option.startswith(without), (name, option)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"coc {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmeo"], "dmeo"),
        (["demo", "--sedes", "3"], "arguments: --sedes"),
        (["demo", "--seed", "3"], "arguments: --seed 3"),
        (["demo", "--seeds", "three"], "--seeds: expected int, got three"),
        (["demo", "--train-images", "1.5"], "--train-images: expected int, got 1.5"),
        (["demo", "--out"], "--out"),
        (["demo", "--seeds", "0"], "seeds must be at least 1, got 0"),
        (["demo", "--methods", "plain,,coc"], "methods must be names with commas"),
        (["demo", "stray"], "stray"),
    ],
)
def test_mistakes_cost_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("coc: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize("arguments", [[], ["study"]])
def test_without_a_command_the_help_is_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--help"])
    expected = capsys.readouterr().out
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == expected
    assert captured.out.startswith("usage: coc ")
    assert captured.err == ""


DIGITS = ["fit", "digits-resnet18"]
TYPOS = [
    (["dmeo"], "invalid choice: 'dmeo'", "did you mean demo?"),
    (["study", "reprot", "x"], "invalid choice: 'reprot'", "did you mean report?"),
    (["demo", "--sedes", "3"], "--sedes 3", "did you mean --seeds?"),
    (["demo", "--seed=3"], "--seed=3", "did you mean --seeds?"),
    (["demo", "--train_images", "3"], "--train_images 3", "did you mean --train-images?"),
    (["study", "run", "digits", "--worker", "3"], "--worker 3", "did you mean --workers?"),
    (["summary", "timm/resnet18", "--methd", "coc"], "--methd coc", "did you mean --method?"),
    (["fold", "x.pt", "--archi", "a", "--out", "x"], "--archi a", "did you mean --arch?"),
    (["predict", "x", "y", "--device", "cude"], "invalid choice: 'cude'", "did you mean cuda?"),
    ([*DIGITS, "--training.lrr=1"], "--training.lrr=1", "did you mean --training.lr?"),
    ([*DIGITS, "--trainig.lr", "1"], "--trainig.lr 1", "did you mean --training.lr?"),
    ([*DIGITS, "--Training.LR", "1"], "--Training.LR 1", "did you mean --training.lr?"),
    ([*DIGITS, "--lr", "1"], "--lr 1", "did you mean --training.lr?"),
    ([*DIGITS, "--batch-size", "8"], "--batch-size 8", "did you mean --training.batch?"),
    ([*DIGITS, "--training.flip", "true"], "--training.flip true", "did you mean --data.flip?"),
    ([*DIGITS, "--mehtod", "coc", "--seed=1"], "--seed=1", "did you mean --method, --training.seed?"),
    ([*DIGITS, "method", "coc"], "arguments: method coc", "did you mean --method?"),
    ([*DIGITS, "--training.optimizer", "sdg"], "--training.optimizer: expected one of sgd, adamw", "did you mean sgd?"),
]


@pytest.mark.parametrize(("arguments", "found", "hint"), TYPOS, ids=lambda value: str(value)[-30:])
def test_typos_get_a_suggestion(
    arguments: list[str], found: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert found in error
    assert hint in error
    assert error.count("did you mean") == 1


def test_what_is_like_nothing_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*DIGITS, "--colour", "red"]) == 2
    assert "did you mean" not in capsys.readouterr().err


WRITTEN = [
    (["--data.crop", "64,64"], "--data.crop: expected several values, got 64,64; write --data.crop='[64, 64]'"),
    (["--data.crop", "64x48"], "write --data.crop='[64, 48]'"),
    (["--data.crop", "64 48"], "write --data.crop='[64, 48]'"),
    (["--data.crop", "(64, 48)"], "write --data.crop='[64, 48]'"),
    (["--data.crop", "64", "64"], "write --data.crop='[64, 64]'"),
    (["--data.mean", "0.5"], "write --data.mean='[0.5, 0.5, 0.5]'"),
    (["--data.shorter", "480"], "write --data.shorter='[480]'"),
    (["--training.milestones", "3,5"], "write --training.milestones='[3, 5]'"),
    (["--data.focus", "car,bus stop"], "write --data.focus='[car, bus stop]'"),
    (["--model.options", "width=3"], "expected keys and values, got width=3; write --model.options.width=3"),
    (["--model.options", "3"], "expected keys and values, got 3; write --model.options.KEY=VALUE"),
    (["--data.flip", "maybe"], "--data.flip: expected true or false, got maybe"),
    (["--data", "voc"], "--data has keys and values, write --data.KEY=VALUE"),
]


@pytest.mark.parametrize(("arguments", "message"), WRITTEN, ids=lambda value: str(value)[-30:])
def test_how_to_write_a_value(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And what is written so is taken."""
    assert cli.main([*DIGITS, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    option = message.partition("write ")[2]
    if "'" in option:
        with pytest.raises(SystemExit) as caught:
            cli.main([*DIGITS, option.replace("'", ""), "--print_config"])
        assert caught.value.code == 0


def test_how_to_write_several_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "a", "b", "--arch", "timm/resnet18", "--shape", "2,3,32,32"]) == 2
    assert "expected int, got 2,3,32,32; write --shape 2 3 32 32" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text("data: {crop: '64,64'}\n")
    assert cli.main(["fit", str(tmp_path / "mine.yaml")]) == 2
    assert "mine.yaml: --data.crop: expected several values, got 64,64; write" in capsys.readouterr().err


def test_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    assert cli.main(["demo", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"coc: {tmp_path / 'nowhere'}: no such folder; give a folder of images\n"


def test_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    demo = pytest.importorskip("convofconv.lab.demo.comparison")
    seen: list[DemoSettings] = []
    monkeypatch.setattr(demo, "run_demo", seen.append)
    given = ["--data", str(tmp_path), "--methods", "plain, coc", "--train-images", "50", "--size=16"]
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", *given]) == 0
    assert seen == [DemoSettings(), DemoSettings(data=tmp_path, methods=("plain", "coc"), train_images=50, size=16)]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, ""),
        (ConfigError("in\n  two lines"), 2, "coc: in two lines\n"),
        (PermissionError(13, "Permission denied", "/secret"), 2, "coc: [Errno 13] Permission denied: '/secret'\n"),
        (
            ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend.data"),
            2,
            "coc: the package mlxtend is missing; in a clone, run: pip install '.[lab]'\n",
        ),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: object) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "demo", cli.Command("", "", lambda parser: None, run))
    assert cli.main(["demo"]) == code
    assert capsys.readouterr().err == line


def test_other_missing_modules_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: object) -> None:
        raise ModuleNotFoundError("No module named 'convofconv.lost'", name="convofconv.lost")

    monkeypatch.setitem(cli.COMMANDS, "demo", cli.Command("", "", lambda parser: None, run))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["demo"])


def test_without_the_extra_one_line_tells_what_to_install() -> None:
    done = python("import sys; sys.modules['jsonargparse'] = None; from convofconv.cli import main; sys.exit(main([]))")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "coc: the package jsonargparse is missing; in a clone, run: pip install '.[lab]'\n"
