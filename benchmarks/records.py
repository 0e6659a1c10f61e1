"""Records of measurements: JSON lines, one per measured row; a run that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .timing import machine

FOLDER = Path(__file__).with_name("results")


def add_common_arguments(parser: argparse.ArgumentParser, turns: int) -> None:
    """The options that every part of the benchmarks has."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=turns, help="turns of every contender")
    parser.add_argument("--again", action="store_true", help="measure rows anew that have a record")


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
    """Whether this machine has measured a row already."""
    here = machine(torch.device(arguments.device))
    known = any(r["machine"] == here and r["settings"] == settings for r in read_records(part))
    return known and not arguments.again


def write_record(
    part: str, settings: Mapping[str, Any], record: Mapping[str, Any], arguments: argparse.Namespace
) -> None:
    """Append one row."""
    FOLDER.mkdir(exist_ok=True)
    here = machine(torch.device(arguments.device))
    with (FOLDER / f"{part}.jsonl").open("a", encoding="utf-8") as lines:
        row = {"machine": here, "turns": arguments.turns, "settings": dict(settings), **record}
        lines.write(json.dumps(row, sort_keys=True) + "\n")
