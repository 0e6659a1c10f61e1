"""The command line `coc`: exit codes, one-line messages, and that it starts without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")

from convofconv import ConfigError, __version__, cli
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
        without = ("arch ", "out FILE", "out DIR", "recipe RECIPE", "retry-failed", "dry-run", "print_config")
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
        ([], "one of {fit,validate,test,recipes,predict, ..."),
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


def test_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchvision")
    assert cli.main(["demo", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"coc: {tmp_path / 'nowhere'}: no such folder; give a folder of pictures\n"


def test_options_reach_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    demo = pytest.importorskip("convofconv.lab.demo.run")
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
