"""The folder of a run: what stands in it is the run, and is not mistaken for another."""

import json
import subprocess

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import CLASSIFY, command, fit, results

from convofconv.cli import main
from convofconv.lab.files.run_folder import RunFolder
from convofconv.lab.recipe.recipe_files import recipe_from


def test_the_folder_of_a_run_stands_for_its_recipe_and_what_was_overruled(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit([*CLASSIFY, "--method=coc", "--training.epochs=3", "--training.ema=0.9"], "whole") == 0
    capsys.readouterr()
    for split in ("val", "test"):
        name = "validate" if split == "val" else "test"
        assert main([name, "whole", "--machine.threads=2", "--training.eval_batch=7"]) == 0
        found = results("whole")["validation" if split == "val" else "test"]
        found = found.get("folded", found)
        assert f"{split} top1: {found['top1']:.2f}" in capsys.readouterr().out
    assert main(["fit", "whole"]) == 2
    assert "whole holds a run already" in capsys.readouterr().err
    assert main(["fit", "whole", "--resume", "--training.lr=0.5"]) == 2
    assert "training.lr=0.1 there, 0.5 here" in capsys.readouterr().err
    assert main(["fit", "whole", "--out=again"]) == 0
    assert results("again") == results("whole")
    of_another = {key: value.flatten()[:1] for key, value in load_file("again/model.safetensors").items()}
    save_file(of_another, "again/model.safetensors")
    capsys.readouterr()
    assert main(["test", "again"]) == 2
    assert "again/model.safetensors: not the network of recipe.json: size mismatch" in capsys.readouterr().err


def test_a_run_of_several_machines_is_evaluated_on_one(tmp_path, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    values = json.loads((tmp_path / "run" / "recipe.json").read_text())
    values["machine"]["nodes"] = 2
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert main(["test", str(tmp_path / "run")]) == 0
    assert f"test top1: {results(tmp_path / 'run')['test']['folded']['top1']:.2f}" in capsys.readouterr().out


def test_a_run_in_half_precision_is_evaluated_without_a_gpu(tmp_path, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    values = json.loads((tmp_path / "run" / "recipe.json").read_text())
    values["training"]["precision"] = "16-mixed"
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert main(["test", str(tmp_path / "run")]) == 0
    assert f"test top1: {results(tmp_path / 'run')['test']['folded']['top1']:.2f}" in capsys.readouterr().out


def test_a_finished_run_without_its_checkpoint_is_not_trained_anew(tmp_path, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    before = results(tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").unlink()
    assert fit([*CLASSIFY, "--training.epochs=1", "--resume"], tmp_path / "run") == 2
    assert "holds a finished run without last.ckpt, there is nothing to resume" in capsys.readouterr().err
    assert results(tmp_path / "run") == before


def test_a_finished_run_is_not_run_over(tmp_path, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 2
    assert "holds a run already: resume it by --resume, or choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize("begun", [False, True])
def test_a_finished_run_is_trained_for_longer_from_its_weights(begun, tmp_path, capsys):
    """Its rate has fallen to the end, and stretched by hand it would be another run's."""
    run, longer = tmp_path / "run", [*CLASSIFY, "--training.epochs=3", "--training.lr=0.01"]
    short = [*CLASSIFY, "--training.epochs=1", "--training.lr=0.01"]
    assert fit(short, run) == 0
    if begun:
        (run / "results.json").unlink()
    for resume in ([], ["--resume"]):
        assert fit([*longer, *resume], run) == 2
        told = capsys.readouterr().err
        assert "holds a run of another recipe: training.epochs=1 there, 3 here; its schedule ends with its" in told
        assert f"give --model.weights {run} with another --out" in told
        assert (f"finish it (coc fit {run} --resume), then give" in told) == begun
    assert fit([*short, "--resume"], run) == 0
    assert fit(short, run) == 2
    assert f"--model.weights {run} with another --out trains on from its weights" in capsys.readouterr().err
    assert fit([*longer, f"--model.weights={run}"], tmp_path / "longer") == 0, "as they say"
    first, further = (results(tmp_path / name)["history"] for name in ("run", "longer"))
    assert further[0]["loss"] < first[0]["loss"]


def test_a_run_that_today_would_be_refused_is_gone_on_with_evaluated_and_asked(tmp_path, capsys, trained):
    """One with a warm-up that never ends, of a version that took it."""
    trained(CLASSIFY, tmp_path / "run")
    for name in ("recipe.json", "results.json"):
        values = json.loads((tmp_path / "run" / name).read_text())
        recipe = values if name == "recipe.json" else values["recipe"]
        recipe["training"]["warmup_steps"] = 5000
        del recipe["training"]["warmup_epochs"]  # nor had it that
        (tmp_path / "run" / name).write_text(json.dumps(values))
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    assert main(["test", str(tmp_path / "run")]) == 0
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "a.png")]) == 0
    (tmp_path / "run/results.json").unlink()
    assert main(["fit", str(tmp_path / "run"), "--resume"]) == 0, capsys.readouterr().err


def test_a_start_that_failed_does_not_block_its_folder(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.batch=100"], tmp_path / "run") == 2
    assert "training.batch must be at most the number of training images, 96" in capsys.readouterr().err
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0


def test_a_run_of_another_recipe_is_not_gone_on_with(tmp_path, capsys, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    assert fit([*CLASSIFY, "--training.epochs=1", "--training.lr=0.5", "--resume"], tmp_path / "run") == 2
    message = "holds a run of another recipe: training.lr=0.1 there, 0.5 here"
    assert message in capsys.readouterr().err
    assert fit([*CLASSIFY, "--training.epochs=1", "--training.lr=0.5"], tmp_path / "run") == 2
    assert message in capsys.readouterr().err, "it could not be resumed either"


def image_folder(root, classes):
    for split in ("train", "val"):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for place in range(4):
                size = (24, 20) if place % 2 else (20, 28)
                Image.new("RGB", size, (80 * number, 40 * place, 99)).save(root / split / name / f"{place}.png")
    return [
        f"--data.root={root}",
        "--data.name=image_folder",
        f"--data.classes={len(classes)}",
        "--data.eval_resize=16",
    ]


def test_classes_of_other_names_are_not_taken_for_those_that_were_learnt(tmp_path, capsys):
    """On images of several sizes, which are evaluated as they are."""
    recipe = [*CLASSIFY, "--training.batch=8", "--data.train_split=train"]
    own = image_folder(tmp_path / "own", ["ant", "bee"])
    assert fit([*recipe, *own, "--training.epochs=1"], tmp_path / "run") == 0
    renamed = image_folder(tmp_path / "renamed", ["bee", "zebra"])
    capsys.readouterr()
    assert main(["test", *recipe, *renamed, "--training.epochs=1", f"--out={tmp_path / 'run'}"]) == 2
    message = "class 0 is 'bee' here, and 'ant' in the data that the run has learnt from"
    assert message in capsys.readouterr().err
    assert fit([*recipe, *renamed, "--training.epochs=1", "--resume"], tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert fit([*recipe, *own, "--training.epochs=1", "--resume"], tmp_path / "run") == 0


def test_the_folder_of_a_run_is_a_recipe_for_studies_too(tmp_path, trained):
    trained([*CLASSIFY, "--training.epochs=1"], tmp_path / "run")
    recipe = recipe_from(str(tmp_path / "run"), {"training.lr": 0.5})
    assert (recipe.model.backbone, recipe.training.epochs, recipe.training.lr) == ("mobilenetv3_small_050", 1, 0.5)


def test_two_processes_do_not_work_in_one_folder(tmp_path, capsys):
    with RunFolder(tmp_path / "run").at_work(timeout=0):
        process = subprocess.run(command(CLASSIFY, tmp_path / "run"), capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "another process is at work on this run" in process.stderr
