"""A study: networks × variants × seeds within a budget, read from a YAML file and checked."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, did_you_mean, listing, similar
from ..files.atomic import read_yaml

#: Studies that come with the package.
FOLDER = Path(__file__).parent / "grids"
#: Keys of a network that are no settings of its recipe.
_OF_NETWORKS = ("recipe", "variants", "paper", "floor", "inspect")
#: Dotted keys of a recipe, and their values.
Settings = Mapping[str, Any]
#: By key, what its value is to be, and what the values below it are if it has keys.
Kinds = Mapping[str, tuple[str, ...]]
_KINDS = {
    "a text": str,
    "a list": list,
    "keys with values": dict,
    "settings by key, or nothing": dict | None,
    "a number, or numbers by variant": int | dict,
}
_NEEDED: Kinds = {
    "title": ("a text",),
    "question": ("a text",),
    "variants": ("keys with values", "settings by key, or nothing"),
    "budgets": ("keys with values", "keys with values"),
}
_POSSIBLE: Kinds = {
    "against": ("a list",),
    "paper": ("keys with values", "keys with values"),
    "source": ("a text",),
    "curves": ("keys with values", "keys with values"),
}
_NEEDED_OF_BUDGET: Kinds = {
    "about": ("a text",),
    "networks": ("keys with values", "keys with values"),
    "seeds": ("a number, or numbers by variant",),
}
_POSSIBLE_OF_BUDGET: Kinds = {
    "variants": ("a list",),
    "tune": ("keys with values",),
    "set": ("keys with values",),
    "spread": ("a text",),
    "note": ("a text",),
}
_EXPONENTIAL = re.compile(r"[-+]?[0-9]*\.?[0-9]+[eE][-+]?[0-9]+")
#: Whose runs give how much the scores of two variants scatter: their own, or those of all variants of the network.
_SPREADS = ("own", "pooled")
_NEEDED_TO_TUNE: Kinds = {"grid": ("keys with values", "a list"), "seeds": ("a list",)}
_POSSIBLE_TO_TUNE: Kinds = {"set": ("keys with values",)}


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Settings that every variant chooses for itself, by the validation metric, before it is compared.

    Args:
        grid: values to try by dotted key; every combination is run.
        seeds: of the runs that choose, other ones than those that are compared.
        settings: of the runs that choose, fewer epochs for example.
    """

    grid: Mapping[str, Sequence[Any]]
    seeds: tuple[int, ...]
    settings: Settings

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of values."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Study:
    """A grid of runs and how its report reads.

    Args:
        name: of its file.
        budget: which of the file's budgets.
        title: heading of the report.
        question: what it asks, in a sentence or two.
        about: what this budget is.
        networks: by label, a recipe's name under ``recipe`` and settings over it; under ``variants`` those that it is
            run with, all if missing; under ``paper`` the paper's row that it stands beside, that of its label if
            missing; under ``floor`` what a network scores that gives the same answer everywhere; under ``inspect`` what
            of its runs is looked into (:class:`~convofconv.lab.inspect.run_numbers.What`).
        variants: by name, settings over those of the network.
        seeds: by variant.
        against: variants that all others are compared with.
        tuning: settings that every variant chooses for itself; ``None`` for none.
        paper: the paper's figures by row and variant, numbers by metric; by ``CURVE/X`` where it has another value at a
            point of a curve.
        source: where the paper's figures are from.
        curves: variants that are points of one curve, by the curve's title: names by what stands on its axis.
        pooled: whether comparisons take one spread for all variants of a network.
        file: path of the file as it was given; empty for a study that comes with the package.
        note: what a reader of this budget's report must know, of decisions for example that came after results.
    """

    name: str
    budget: str
    title: str
    question: str
    about: str
    networks: Mapping[str, Settings]
    variants: Mapping[str, Settings]
    seeds: Mapping[str, tuple[int, ...]]
    against: tuple[str, ...]
    tuning: Tuning | None = None
    paper: Mapping[str, Mapping[str, Mapping[str, float]]] = dataclasses.field(default_factory=dict)
    source: str = ""
    curves: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    pooled: bool = False
    file: str = ""
    note: str = ""

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Every network with every variant that it is run with."""
        return [(network, variant) for network in self.networks for variant in self.variants_of(network)]

    def variants_of(self, network: str) -> tuple[str, ...]:
        """The variants that a network is run with."""
        return tuple(self.networks[network].get("variants", self.variants))

    def paper_of(self, network: str) -> Mapping[str, Mapping[str, float]]:
        """The paper's row that a network stands beside; empty if there is none."""
        return self.paper.get(str(self.networks[network].get("paper", network)), {})

    def floor_of(self, network: str) -> float:
        """What a network scores that gives the same answer everywhere; 0 where that is not said."""
        return float(self.networks[network].get("floor", 0.0))

    def settings(self, network: str, variant: str) -> dict[str, Any]:
        """Settings of a cell of the grid, to be laid over the network's recipe."""
        own = {key: value for key, value in self.networks[network].items() if key not in _OF_NETWORKS}
        return {**own, **self.variants[variant]}


def list_studies() -> str:
    """Name, budgets and title of every study that comes with the package."""
    lines = []
    for path in sorted(FOLDER.glob("*.yaml")):
        values = read_yaml(path, "a study")
        lines.append(f"{path.stem:18}{'/'.join(values['budgets']):18}{values['title']}")
    return "\n".join(lines)


def read_study(name: str, budget: str) -> Study:
    """Read a study: one that comes with the package, by name, or a file of your own.

    Raises:
        ConfigError: there is no such study or budget, or a key of the file is missing, unknown or has an impossible
            value; the message names it.
    """
    path = _find(name)
    values = read_yaml(path, "a study")
    _check(f"{path}: ", values, _NEEDED, _POSSIBLE)
    budgets = values["budgets"]
    if budget not in budgets:
        raise ConfigError(f"{path}: there is no budget {budget}; it has {', '.join(budgets)}")
    chosen = budgets[budget]
    _check(f"{path}: budgets.{budget}.", chosen, _NEEDED_OF_BUDGET, _POSSIBLE_OF_BUDGET)
    variants = {_name(path, key): dict(settings or {}) for key, settings in values["variants"].items()}
    of_budget = _names(chosen.get("variants", variants))
    if unknown := sorted(set(of_budget) - set(variants)):
        raise ConfigError(f"{path}: budgets.{budget}.variants: {listing(unknown)} is none of {listing(variants)}")
    curves, paper = _curves(values.get("curves", {})), _paper(path, values.get("paper", {}))
    own = {f"{title}/{x}" for title, points in curves.items() for x in points}
    named = itertools.chain(*(points.values() for points in curves.values()), *paper.values())
    if unknown := sorted(set(named) - set(variants) - own):
        raise ConfigError(f"{path}: curves and paper: {listing(unknown)} is none of {listing(variants)}")
    variants = {key: variants[key] for key in of_budget}
    everywhere = chosen.get("set", {})
    networks = {_name(path, key): {**everywhere, **settings} for key, settings in chosen["networks"].items()}
    for label, settings in networks.items():
        if "recipe" not in settings:
            raise ConfigError(f"{path}: budgets.{budget}.networks.{label}.recipe is missing")
        if "variants" in settings:
            _check_kind(f"{path}: budgets.{budget}.networks.{label}.variants", settings["variants"], "a list")
            settings["variants"] = _names(settings["variants"])
        if unknown := sorted(set(settings.get("variants", ())) - set(variants)):
            raise ConfigError(
                f"{path}: budgets.{budget}.networks.{label}.variants: {listing(unknown)} is none of {listing(variants)}"
            )
        if isinstance(floor := settings.get("floor", 0), bool) or not isinstance(floor, int | float):
            raise ConfigError(f"{path}: budgets.{budget}.networks.{label}.floor must be a score in %, got {floor!r}")
    against = tuple(_names(values.get("against", ("plain",))))
    if unknown := sorted(set(against) - set(variants)):
        raise ConfigError(f"{path}: against: {listing(unknown)} is none of the variants {listing(variants)}")
    tune = chosen.get("tune", {})
    if tune:
        _check(f"{path}: budgets.{budget}.tune.", tune, _NEEDED_TO_TUNE, _POSSIBLE_TO_TUNE)
    grid = {key: [_number(value) for value in tried] for key, tried in tune.get("grid", {}).items()}
    tuning = Tuning(grid, tuple(tune["seeds"]), tune.get("set", {})) if tune else None
    seeds = _seeds(f"{path}: budgets.{budget}.seeds", chosen["seeds"], variants)
    if tuning and set(tuning.seeds) & {seed for several in seeds.values() for seed in several}:
        raise ConfigError(f"{path}: budgets.{budget}.tune.seeds must not be among the seeds that are compared")
    if (spread := chosen.get("spread", _SPREADS[0])) not in _SPREADS:
        raise ConfigError(f"{path}: budgets.{budget}.spread must be {' or '.join(_SPREADS)}, got {spread!r}")
    return Study(
        path.stem,
        budget,
        values["title"],
        values["question"].strip(),
        chosen["about"].strip(),
        networks,
        variants,
        seeds,
        against,
        tuning,
        paper,
        values.get("source", "").strip(),
        curves,
        pooled=spread == "pooled",
        file="" if path.parent == FOLDER else path.as_posix(),
        note=chosen.get("note", "").strip(),
    )


def _name(path: Path, key: Any) -> str:
    """A variant's or network's name, which is also that of a folder."""
    if isinstance(key, bool) or key is None:
        raise ConfigError(f"{path}: a name is {key!r} to YAML; put it in quotes")
    if not str(key).strip(". ") or {"/", "\\"} & {*str(key)}:
        raise ConfigError(f"{path}: {str(key)!r} cannot be a name, for there will be a folder of that name")
    return str(key)


def _names(keys: Iterable[Any]) -> list[str]:
    """Variants as they are called, which YAML takes for numbers where they look like one."""
    return [str(key) for key in keys]


def _number(value: Any) -> Any:
    """1e-3 as the number that a recipe makes of it: without a point, it is a text to YAML 1.1."""
    return float(value) if isinstance(value, str) and _EXPONENTIAL.fullmatch(value) else value


def _curves(curves: Mapping[str, Mapping[Any, Any]]) -> dict[str, dict[str, str]]:
    return {title: {str(x): str(name) for x, name in points.items()} for title, points in curves.items()}


def _paper(path: Path, paper: Mapping[str, Mapping[Any, Any]]) -> dict[str, dict[str, Mapping[str, float]]]:
    for row, variants in paper.items():
        for name, figures in variants.items():
            _check_kind(f"{path}: paper.{row}.{name}", figures, "keys with values")
            if wrong := [value for value in figures.values() if not isinstance(value, int | float)]:
                raise ConfigError(f"{path}: paper.{row}.{name}: expected numbers by metric, got {wrong[0]!r}")
    return {str(row): {str(name): figures for name, figures in variants.items()} for row, variants in paper.items()}


def _seeds(key: str, given: Any, variants: Mapping[str, Settings]) -> dict[str, tuple[int, ...]]:
    """A number of seeds for all variants, or numbers by variant with one for ``others``."""
    counts = {"others": given} if isinstance(given, int) else {str(name): count for name, count in given.items()}
    if unknown := sorted(set(counts) - {*variants, "others"}):
        raise ConfigError(f"{key}: {listing(unknown)} is none of the variants {listing(variants)}, nor others")
    out = {}
    for variant in variants:
        count = counts.get(variant, counts.get("others"))
        if not isinstance(count, int) or count < 1:
            raise ConfigError(f"{key}: {variant} needs a number of seeds of at least 1, got {count!r}")
        out[variant] = tuple(range(count))
    return out


def _find(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if path.is_file():
        return path
    known = [study.stem for study in sorted(FOLDER.glob("*.yaml"))]
    hint = did_you_mean(similar(name, known)) or f"; there are {listing(known)}"
    raise ConfigError(f"no study is called {name}{hint} (or give a YAML file)")


def _check(prefix: str, values: Any, needed: Kinds, possible: Kinds) -> None:
    """Refuse missing keys, unknown ones, and values of another kind."""
    _check_kind(prefix.rstrip(".: "), values, "keys with values")
    if missing := sorted(set(needed) - set(values)):
        raise ConfigError(f"{prefix}{missing[0]} is missing")
    if unknown := sorted(set(values) - {*needed, *possible}):
        known = listing(sorted({*needed, *possible}))
        home = " (it belongs into a budget)" if unknown[0] in {*_NEEDED_OF_BUDGET, *_POSSIBLE_OF_BUDGET} else ""
        raise ConfigError(f"{prefix}{unknown[0]} is no key here{home}; there are {known}")
    for key, kinds in {**possible, **needed}.items():
        if key in values:
            _check_kind(f"{prefix}{key}", values[key], kinds[0])
            for name, value in values[key].items() if kinds[1:] else ():
                _check_kind(f"{prefix}{key}.{name}", value, kinds[1])


def _check_kind(key: str, value: Any, kind: str) -> None:
    if not isinstance(value, _KINDS[kind]) or not (value or kind.endswith("nothing")):
        raise ConfigError(f"{key}: expected {kind}, got {value!r}")
