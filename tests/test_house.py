"""The house: rooms without cycles, files with names of their own, and every import declared."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/convofconv"
FILES = sorted(PACKAGE.rglob("*.py"))
#: Distributions whose modules are called otherwise.
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """What a file imports at run time, wherever in it, as absolute names."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    typing = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in nodes:
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            for alias in node.names:
                yield (*base, *(node.module or "").split("."), alias.name) if node.module else (*base, alias.name)


def room_of(module: tuple[str, ...]) -> tuple[str, ...]:
    """The room that a module is in; a file beside the rooms is one of its own."""
    path = PACKAGE.parent.joinpath(*module)
    while not (path / "__init__.py").is_file() and not path.with_suffix(".py").is_file():
        path = path.parent  # what is imported is no module but something in it
    room = path.relative_to(PACKAGE.parent).parts
    is_beside = (path.parent in (PACKAGE, PACKAGE / "lab")) and path.with_suffix(".py").is_file()
    return room if is_beside or (path / "__init__.py").is_file() else room[:-1]


def test_no_two_files_have_one_name():
    names = Counter(path.name for path in FILES if not path.name.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_rooms_import_one_another():
    needs: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for path in FILES:
        needs[room_of(module_of(path))] |= {room_of(name) for name in imports(path) if name[0] == "convofconv"}
    roots = {("convofconv",), ("convofconv", "lab")}  # the faces, which import what they show when it is asked for
    reached: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for room in needs:
        found, todo = set(), [room]
        while todo:
            new = needs[todo.pop()] - found - roots
            found |= new
            todo += new
        reached[room] = found - {room}
    cycles = {tuple(sorted((".".join(a), ".".join(b)))) for a in reached for b in reached[a] if a in reached.get(b, ())}
    assert cycles == set()


def test_a_room_uses_only_rooms_above_it():
    """In the tree that CONTRIBUTING.md shows."""
    tree = (
        (ROOT / "CONTRIBUTING.md")
        .read_text(encoding="utf-8")
        .partition("```\nsrc/convofconv/\n")[2]
        .partition("```")[0]
    )
    rows = re.findall(r"^( +)(\w+)/ ", tree, re.MULTILINE)
    rooms = [("lab", name) if len(indent) > 2 else (name,) for indent, name in rows]
    found = {path.parent.relative_to(PACKAGE).parts[:2] for path in FILES} - {()}
    assert set(rooms) == {room if room[0] == "lab" else room[:1] for room in found}
    places = {room: place for place, room in enumerate(rooms)}
    wrong = set()
    for path in FILES:
        mine = places.get(room_of(module_of(path))[1:3])
        for name in imports(path):
            theirs = places.get(room_of(name)[1:3]) if name[0] == "convofconv" else None
            if mine is not None and theirs is not None and theirs > mine and len(rooms[theirs]) == len(rooms[mine]):
                wrong.add((path.relative_to(PACKAGE).as_posix(), ".".join(name)))
    assert wrong == set()


def test_every_import_is_declared():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def declared(requirements: list[str]) -> set[str]:
        names = (re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements)  # type: ignore[index]
        return {MODULES.get(name, name) for name in names}

    core, extras = declared(project["dependencies"]), project["optional-dependencies"]
    lab = core | declared([*extras["lab"], *extras["cluster"]])
    undeclared = set()
    for path in FILES:
        of_lab = path.is_relative_to(PACKAGE / "lab") or path.is_relative_to(PACKAGE / "cli")
        known = (lab if of_lab else core) | sys.stdlib_module_names | {"convofconv"}
        undeclared |= {
            (path.relative_to(PACKAGE).as_posix(), name[0]) for name in imports(path) if name[0] not in known
        }
    assert undeclared == set()


def test_the_command_is_found_where_it_is_declared():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for place in project["scripts"].values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("room", sorted({path.parent for path in FILES}), ids=lambda path: path.name)
def test_every_room_says_what_it_is_for(room):
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
