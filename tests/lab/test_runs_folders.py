"""The folder of a run: what stands in it is the run, and is not mistaken for another."""

import json
import subprocess

from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import CLASSIFY, command, fit, results

from convofconv.cli import main
from convofconv.lab.runs.folder import RunFolder
from convofconv.lab.runs.options import recipe_from


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


def test_a_run_of_several_machines_is_evaluated_on_one(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    values = json.loads((tmp_path / "run" / "recipe.json").read_text())
    values["machine"]["nodes"] = 2
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert main(["test", str(tmp_path / "run")]) == 0
    assert f"test top1: {results(tmp_path / 'run')['test']['folded']['top1']:.2f}" in capsys.readouterr().out


def test_a_run_in_half_precision_is_evaluated_without_a_gpu(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    values = json.loads((tmp_path / "run" / "recipe.json").read_text())
    values["training"]["precision"] = "16-mixed"
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert main(["test", str(tmp_path / "run")]) == 0
    assert f"test top1: {results(tmp_path / 'run')['test']['folded']['top1']:.2f}" in capsys.readouterr().out


def test_a_finished_run_without_its_checkpoint_is_not_trained_anew(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    before = results(tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").unlink()
    assert fit([*CLASSIFY, "--training.epochs=1", "--resume"], tmp_path / "run") == 2
    assert "holds a finished run without last.ckpt, there is nothing to go on with" in capsys.readouterr().err
    assert results(tmp_path / "run") == before


def test_a_finished_run_is_not_run_over(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 2
    assert "holds a run already: go on with it by --resume, or choose another --out" in capsys.readouterr().err


def test_a_start_that_failed_does_not_block_its_folder(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.batch=100"], tmp_path / "run") == 2
    assert "training.batch must be at most the number of training pictures, 96" in capsys.readouterr().err
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0


def test_a_run_of_another_recipe_is_not_gone_on_with(tmp_path, capsys):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    assert fit([*CLASSIFY, "--training.epochs=1", "--training.lr=0.5", "--resume"], tmp_path / "run") == 2
    message = "holds a run of another recipe: training.lr=0.1 there, 0.5 here"
    assert message in capsys.readouterr().err
    assert fit([*CLASSIFY, "--training.epochs=1", "--training.lr=0.5"], tmp_path / "run") == 2
    assert message in capsys.readouterr().err, "it could not be gone on with either"


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
    """On pictures of several sizes, which are evaluated as they are."""
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


def test_the_folder_of_a_run_is_a_recipe_for_studies_too(tmp_path):
    assert fit([*CLASSIFY, "--training.epochs=1"], tmp_path / "run") == 0
    recipe = recipe_from(str(tmp_path / "run"), {"training.lr": 0.5})
    assert (recipe.model.backbone, recipe.training.epochs, recipe.training.lr) == ("mobilenetv3_small_050", 1, 0.5)


def test_two_processes_do_not_work_in_one_folder(tmp_path, capsys):
    with RunFolder(tmp_path / "run").at_work(timeout=0):
        process = subprocess.run(command(CLASSIFY, tmp_path / "run"), capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "another process is at work on this run" in process.stderr
