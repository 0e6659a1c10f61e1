"""Whether kernels of one group are alike, complement each other, and reflect their super kernel (claims C9 and C10)."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from ...inspect.inspection import LayerGroups
from ...inspect.kernel_nulls import CLAIMED, MOST_GROUPS, Alternative, NullTest
from ...inspect.kernel_similarity import MEASURES
from ..looks import WANTED, Inside, Look
from ..parts.headings import heading
from ..parts.meanings import meanings
from ..parts.rendering import join
from ..parts.section import Section
from ..parts.tables import NOTHING, digits, note, table

_LEVEL = 0.05
_HEADING = ["network", "measure", "within a group", "between groups", "difference", "effect size d"]
_HEADING += ["null", "z", "beyond the null"]


def section(inside: Inside) -> Section | None:
    """A table per layer, and what its numbers mean; ``None`` where no groups were looked at."""
    looks = {name: look for name, look in inside.looks.items() if look.inspection.groups}
    if not looks:
        return None
    parts: list[Markup] = [_meanings()]
    for look in looks.values():
        layers = list(next(iter(look.inspection.groups.values())))
        parts += [heading(look.title, looks), *(_table(look, layer) for layer in layers)]
    words = note(
        f"The smallest p that {WANTED.draws} draws can give is {digits(1 / (WANTED.draws + 1))}, and of many tests one "
        f"in twenty has p ≤ {_LEVEL} by chance: a table shows where to look, studies with several seeds decide. Tests "
        f"compare {MOST_GROUPS} groups at most. A plain network has no null: its groups are those of the converted one."
    )
    return Section("Groups of kernels", join(*parts, words), inside.numbers("groups"))


def _meanings() -> Markup:
    return meanings(
        {
            "basic, effective": "Kernels as they are trained, and as the layer uses them. A plain network has "
            "one kind.",
            "similarity": "Cosine of two kernels with the best sign and the best shift: 1 is the same pattern, 0 "
            "nothing in common. Claim C9 expects more within groups.",
            "support overlap": "Whether two kernels have their energy at the same taps: 1 at the same, 0 at others. "
            "Complementary kernels have little: claim C9 expects less within groups.",
            "spectrum overlap": "The same of spatial frequencies, whatever the kernels' place and sign.",
            "energy": "Correlation of where the energy of a group repeats itself with where its super kernel has its "
            "taps: 1 where it reflects them, 0 where not. Claim C10 expects it; “between” has other groups' super "
            "kernels.",
            "effect size d": "The difference in standard deviations of single pairs (Cohen): 0.2 is small, 0.8 large. "
            "It describes, and tests nothing.",
            "null": "The association alone makes neighbours alike, in untrained networks too. So the layer's basic "
            "kernels are dealt to other places at random, and the learnt super kernels are applied to them: mean ± "
            "standard deviation of the difference (of energy, of “within”).",
            "z and p": "By how many standard deviations of the null the layer lies beyond it, and the share of draws "
            "that lie as far in the claimed direction; of several seeds, z is the first one's, and p of all together.",
        }
    )


def _table(look: Look, layer: str) -> Markup:
    rows = [row for name, found in look.inspection.groups.items() for row in _rows(name, found[layer])]
    first = next(iter(look.inspection.groups.values()))[layer].similarity["effective"]
    return table(f"Layer {layer}: {first.groups} of {first.of_groups} groups compared", _HEADING, rows)


def _rows(network: str, found: LayerGroups) -> Iterator[list[str]]:
    """Of a plain network the effective kernels alone, which are its basic ones."""
    kinds = ("basic", "effective") if found.energy is not None else ("effective",)
    for kind in kinds:
        name = f"{network}, {kind}" if len(kinds) > 1 else network
        for measure in MEASURES:
            one = getattr(found.similarity[kind], measure)
            test = found.tests.get(measure) if kind == "effective" else None
            numbers = (one.within, one.between, one.difference, one.effect_size)
            tested = _tested(test, CLAIMED[measure], found.over_seeds.get(measure))
            yield [name, measure.replace("_", " "), *map(_short, numbers), *tested]
    if found.energy is not None:
        one, test = found.energy, found.tests.get("energy")
        numbers = (one.own, one.others, one.difference, one.effect_size)
        tested = _tested(test, CLAIMED["energy"], found.over_seeds.get("energy"))
        yield [f"{network}, effective", "energy", *map(_short, numbers), *tested]


def _tested(test: NullTest | None, claimed: Alternative, over_seeds: float | None) -> list[str]:
    if test is None or test.null_mean is None:
        return [NOTHING] * 3
    p = test.p_value(claimed) if over_seeds is None else over_seeds
    spread = "" if test.null_deviation is None else f" ± {_short(test.null_deviation)}"
    said = (
        NOTHING
        if p is None
        else f"{'yes' if p <= _LEVEL else 'no'}, p = {digits(p, 2)}{'' if over_seeds is None else ' over seeds'}"
    )
    return [
        f"{_short(test.null_mean)}{spread}",
        NOTHING if test.effect_size is None else f"{test.effect_size:+.1f}",
        said,
    ]


def _short(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
