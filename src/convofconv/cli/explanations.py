"""Mistakes on the command line in one line, which says what was found and what to write."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import did_you_mean, similar


def explain(message: str, options: Iterable[str] = ()) -> str:
    """Put a parser's message into plain words on one line, and say what to write.

    Args:
        message: argparse's, jsonargparse's, or one that quotes jsonargparse's.
        options: that the command has, with their dashes.
    """
    # jsonargparse speaks of keys, in several lines: 'Parser key "train_images":\n  Expected a <class 'int'>. Got ...'
    message = re.sub(r'Parser key "([\w.]+)"', _option, " ".join(message.split()))
    for pattern, words in _WORDS.items():
        message = re.sub(pattern, words, message)
    if unknown := re.search(r"unrecognized arguments: (.*)", message):
        message += _suggestion(unknown[1].split(), options)
    return message


def _option(found: re.Match[str]) -> str:
    """The option of a key; those of recipes, which have sections, are written as the keys are."""
    key = found[1]
    return f"--{key if '.' in key else key.replace('_', '-')}"


def _several(found: re.Match[str]) -> str:
    """A value in place of several: ``64,64``, ``64x64``, ``(64, 64)`` or ``64``."""
    key, value = found["key"], found["value"]
    bare = value.strip("()[] ")
    parts = [part.strip() for part in bare.split(",")]
    if len(parts) == 1 and re.fullmatch(r"[\d.]+(?:[x×; ]+[\d.]+)+", bare):
        parts = re.split(r"[x×; ]+", bare)
    if len(parts) == 1:
        parts *= max(1, len(_default(key)))
    return f"--{key}: expected several values, got {value}; write --{key}='[{', '.join(parts)}]'"


def _default(key: str) -> tuple[Any, ...]:
    """What a recipe has for a key of several values if nothing else is said."""
    from ..lab.recipe.schema import Recipe

    value: Any = Recipe()
    for name in key.replace("-", "_").split("."):
        value = getattr(value, name, ()) if dataclasses.is_dataclass(value) else ()
    return value if isinstance(value, tuple) else ()


def _keys(found: re.Match[str]) -> str:
    key, value = found["key"], found["value"]
    written = value if re.fullmatch(r"[\w.]+=\S+", value) else "KEY=VALUE"
    return f"--{key}: expected keys and values, got {value}; write --{key}.{written}"


def _numbers(found: re.Match[str]) -> str:
    """Numbers with commas where an option takes them one by one."""
    key, value = found["key"], found["value"]
    return f"--{key}: expected int, got {value}; write --{key} {value.replace(',', ' ')}"


def _one_of(found: re.Match[str]) -> str:
    known = re.findall(r"[^\s,'\"]+", found["known"])
    return f"expected one of {', '.join(known)}, got {found['value']}{did_you_mean(similar(found['value'], known))}"


def _choice(found: re.Match[str]) -> str:
    known = re.findall(r"[^\s,'\"]+", found["known"])
    return found[0] + did_you_mean(similar(found["value"], known))


#: By what jsonargparse or argparse says, with the spaces of one line.
_WORDS: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"--(?P<key>[\w.-]+): Expected an? <class 'tuple'>\. Got value: (?P<value>.*)": _several,
    r"--(?P<key>[\w.-]+): Expected an? <class 'dict'>\. Got value: (?P<value>.*)": _keys,
    r"--(?P<key>[\w.-]+): Unable to load config '.*": r"--\g<key> has keys and values, write --\g<key>.KEY=VALUE",
    r"--(?P<key>[\w.-]+) element \d+: Expected an? <class 'int'>\. Got value: (?P<value>\d+(?:,\d+)+)": _numbers,
    r"Expected an? <class 'bool'>\. Got value:": "expected true or false, got",
    r"Expected an? <class '(\w+)'>\. Got value:": r"expected \1, got",
    r"Expected an? (?:typing\.)?Literal\[(?P<known>[^]]*)\]\. Got value: (?P<value>\S+)": _one_of,
    r"invalid choice: '(?P<value>[^']*)' \(choose from (?P<known>[^)]*)\)": _choice,
}


def _suggestion(unknown: Iterable[str], options: Iterable[str]) -> str:
    """The options that unknown ones are like; of a word without dashes, the option of that name."""
    names = {option.lstrip("-"): option for option in options}
    meant: list[str] = []
    for word in unknown:
        if word.startswith("-"):
            meant += similar(word.lstrip("-").partition("=")[0], names)
        elif word in names:
            meant.append(word)
    return did_you_mean(names[name] for name in meant)
