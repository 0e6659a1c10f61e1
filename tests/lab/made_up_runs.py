"""Studies, records and results that tests make up: no run is behind them."""

from __future__ import annotations

import itertools
import json
import random

import pytest

pytest.importorskip("lightning", reason="needs the extra [lab]")

from convofconv.lab.recipe.comparing import plain_values
from convofconv.lab.recipe.schema import Recipe
from convofconv.lab.studies.study import Study

PLAIN_SCORES, COC_SCORES = [70.0, 71.0, 72.0], [71.0, 73.0, 75.0]
#: Variants 0, 1, 5 above seeds 70, 80, 110; noise 1, −1, 0 / 0, 1, −1 / −1, 0, 1: squares of 6, 4 degrees of freedom.
POOLED_SCORES = {"plain": [71.0, 79.0, 110.0], "coc": [71.0, 82.0, 110.0], "stnd": [74.0, 85.0, 116.0]}


def made_study(**changes):
    variants = changes.pop("variants", ("plain", "coc"))
    values = {
        "name": "example",
        "budget": "small",
        "title": "An example",
        "question": "Does it help?",
        "about": "Made up.",
        "networks": {"net": {"recipe": "none"}},
        "variants": {name: {} for name in variants},
        "seeds": dict.fromkeys(variants, (0, 1, 2)),
        "against": ("plain",),
        **changes,
    }
    return Study(**values)


def made_record(
    variant, seed, score, network="net", metric="top1", stage="final", tuned=None, lr=0.1, test_split="", **changes
):
    tried = [f"{key.rpartition('.')[2]}={value}" for key, value in (tuned or {}).items()]
    values = {metric: score, "second": score / 2}
    history = [{"epoch": epoch, "loss": 1 / epoch, metric: score - 10 / epoch} for epoch in (1, 2, 3)]
    return {
        "kind": "run",
        "run": "/".join([network, variant, *tried, f"seed{seed}"]),
        "network": network,
        "variant": variant,
        "seed": seed,
        "stage": stage,
        "tuned": tuned or {},
        "recipe": {"method": variant, "training": {"lr": lr}, "data": {"val_split": "val", "test_split": test_split}},
        "code": "c0de",
        "versions": {"convofconv": "0.1", "git_commit": None, "torch": "2.9"},
        "status": "done",
        "metric": metric,
        "test": {"as_trained": {metric: score + 0.5}, "folded": values},
        "validation": {metric: score - 1},
        "device": "cpu",
        "best_epoch": 3,
        "history": history,
        "parameters": {"as_trained": 12, "folded": 10},
        "largest_difference_after_folding": 1e-6,
        "seconds": 100.0,
        "cpu_seconds": 90.0,
        **changes,
    }


def made_failure(variant, seed, reason="the loss is nan", **changes):
    record = made_record(variant, seed, 0.0, **changes)
    keep = ("kind", "run", "network", "variant", "seed", "stage", "tuned", "code", "versions")
    return {**{key: record[key] for key in keep}, "recipe": {}, "status": "failed", "reason": reason}


def made_records(**scores):
    scores = scores or {"plain": PLAIN_SCORES, "coc": COC_SCORES}
    return [made_record(name, seed, score) for name, several in scores.items() for seed, score in enumerate(several)]


def many_runs():
    """Ten variants × five seeds × two networks, scores by chance, with curves and the paper's figures."""
    names = ["plain", "221", "121", "421", "821", "201", "221 without skip", "221 without dilat", "naive", "coc+stnd"]
    chance = random.Random(0)
    study = made_study(
        variants=names,
        seeds=dict.fromkeys(names, tuple(range(5))),
        networks={"one": {"recipe": "none"}, "two": {"recipe": "none"}},
        paper={"one": {name: {"top1": 55 + number / 10} for number, name in enumerate(names[:6])}},
        curves={"side": {"1": "121", "2": "221", "4": "421", "8": "821"}, "width": {"0": "201", "2": "221"}},
    )
    records = [
        made_record(name, seed, round(chance.gauss(70, 1), 2), network, seconds=chance.gauss(100, 2))
        for network, name, seed in itertools.product(study.networks, names, range(5))
    ]
    return study, records


def leave_results(folder, method="plain", seed=0, score=70.0, recipe=None, **changes):
    """The folder of a run that is finished, as far as its numbers go."""
    values = plain_values(Recipe(method=method))
    values["training"]["seed"] = seed
    for key, value in (recipe or {}).items():
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    history = [
        {"epoch": epoch, "step": 10 * epoch, "lr": 0.1, "loss": 1 / epoch, "top1": score - 10 / epoch, "top5": 99.0}
        for epoch in (1, 2, 3)
    ]
    results = {
        "recipe": values,
        "classes": ["cat", "dog"],
        "categories": [],
        "metric": "top1",
        "best_epoch": 3,
        "validation": history[-1],
        "test": {"as_trained": {"top1": score, "top5": 99.0}, "folded": {"top1": score, "top5": 99.0}},
        "test_by_class": {"top1": [score + 1, score - 1]},
        "largest_difference_after_folding": 0.0 if method == "plain" else 2.5e-7,
        "parameters": {"as_trained": 1000 if method == "plain" else 1234, "folded": 1000},
        "history": history,
        "versions": {"convofconv": "0.1", "git_commit": None, "torch": "2.9"},
        "command": ["/usr/bin/coc", "fit", "digits-resnet18"],
        "device": "cpu",
        "seconds": 120.0,
        "cpu_seconds": 90.0,
        **changes,
    }
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(values))
    (folder / "results.json").write_text(json.dumps(results))
    return folder
