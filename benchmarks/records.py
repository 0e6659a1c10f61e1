"""Records of measurements: JSON lines, one per measured row; a run that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import convofconv
from convofconv.lab.studies.code_identity import bare

from .timing import machine

HERE = Path(__file__).parent
FOLDER = HERE / "results"


def add_common_arguments(parser: argparse.ArgumentParser, turns: int) -> None:
    """The options that every part of the benchmarks has."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=turns, help="turns of every contender")
    parser.add_argument("--again", action="store_true", help="measure rows anew that have a record")


@functools.cache
def code() -> str:
    """Identity of what is measured, the core, and of what measures it; comments and layout do not count."""
    core = Path(convofconv.__file__).parent
    measured = [*core.glob("*.py"), *core.glob("maps/*.py"), *HERE.glob("*.py")]
    digest = hashlib.sha256()
    for path in sorted(path for path in measured if path.name not in ("cli.py", "report.py", "__main__.py")):
        digest.update(path.name.encode() + b"\0" + bare(path.read_text(encoding="utf-8")).encode() + b"\0")
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit that this is, empty where there is none."""
    try:
        told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    except OSError:
        return ""
    return told.stdout.strip()


def read_records(part: str) -> list[dict[str, Any]]:
    """All records of one part, the newest of every row last measured on its machine."""
    path = FOLDER / f"{part}.jsonl"
    if not path.exists():
        return []
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        rows[record["machine"], json.dumps(record["settings"], sort_keys=True)] = record
    return list(rows.values())


def has_record(part: str, settings: Mapping[str, Any], arguments: argparse.Namespace) -> bool:
    """Whether this machine has measured a row already, of this code."""
    here = machine(torch.device(arguments.device)), code(), settings
    known = any((r["machine"], r.get("code"), r["settings"]) == here for r in read_records(part))
    return known and not arguments.again


def write_record(
    part: str, settings: Mapping[str, Any], record: Mapping[str, Any], arguments: argparse.Namespace
) -> None:
    """Append one row."""
    FOLDER.mkdir(exist_ok=True)
    here = machine(torch.device(arguments.device))
    with (FOLDER / f"{part}.jsonl").open("a", encoding="utf-8") as lines:
        own = {"machine": here, "code": code(), "commit": commit(), "turns": arguments.turns}
        row = {**own, "settings": dict(settings), **record}
        lines.write(json.dumps(row, sort_keys=True) + "\n")
