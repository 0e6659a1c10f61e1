"""A table of what is converted in a model, what is not and why, and what it costs in parameters."""

from __future__ import annotations

import dataclasses

from torch import nn
from torch.nn.parameter import is_lazy

from .errors import ArgumentTypeError
from .maps.registered import convs, describe, kernel_maps
from .surgery.norm_layers import followed_by_norm
from .surgery.obstacles import NO_CONV_LAYER, obstacles, other_convs
from .surgery.selection import parse_where


@dataclasses.dataclass(frozen=True)
class ConvReport:
    """One conv of a model, of whatever class: its name, what it is, its maps or why it has none, and remarks."""

    name: str
    kind: str
    maps: tuple[str, ...]
    skipped_because: str
    added_parameters: int
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Summary:
    """What :func:`summary` found; print it for a table."""

    convs: tuple[ConvReport, ...]
    parameters: int

    @property
    def converted(self) -> tuple[ConvReport, ...]:
        """The convs that carry kernel maps."""
        return tuple(conv for conv in self.convs if conv.maps)

    @property
    def skipped(self) -> tuple[ConvReport, ...]:
        """The convs that carry none."""
        return tuple(conv for conv in self.convs if not conv.maps)

    @property
    def added_parameters(self) -> int:
        """Parameters of all kernel maps, shared ones counted once; they vanish when folded."""
        return sum(conv.added_parameters for conv in self.convs)

    def __str__(self) -> str:
        rows = [("conv", "kind", "kernel maps", "+params", "notes")]
        for conv in self.convs:
            notes = "; ".join(conv.notes) or conv.skipped_because
            rows.append((conv.name, conv.kind, " + ".join(conv.maps) or "-", str(conv.added_parameters or ""), notes))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        others = sum(conv.skipped_because == NO_CONV_LAYER for conv in self.convs)
        remark = f" ({others} {f'is {NO_CONV_LAYER}' if others == 1 else 'are not nn.Conv layers'})" if others else ""
        share = 100 * self.added_parameters / max(1, self.parameters - self.added_parameters)
        lines.append(
            f"{len(self.converted)} of {len(self.convs)} convs converted{remark}; "
            f"{self.added_parameters:,} parameters added for training ({share:.2f} %), none after reparameterize()"
        )
        return "\n".join(lines)


def summary(model: nn.Module) -> Summary:
    """Tell which convs of ``model`` are converted, which are not and why, and what training costs in parameters.

    Raises:
        ArgumentTypeError: ``model`` is no module.

    Examples:
        >>> from convofconv import convert
        >>> print(summary(convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)))))
        conv  kind             kernel maps         +params  notes
        ----  ---------------  ------------------  -------  ----------
        0     Conv2d 3→8, 3×3  SpatialAssociation  18
        1     Conv2d 8→8, 1×1  -                            1×1 kernel
        1 of 2 convs converted; 18 parameters added for training (6.08 %), none after reparameterize()
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"summary takes an nn.Module, got {type(model).__name__}")
    followed, obstacle, default_reason = followed_by_norm(model), obstacles(model), parse_where(model, None)
    places = {name: place for place, (name, _) in enumerate(model.named_modules())}
    untouched = not any(kernel_maps(conv) for _, conv in convs(model))
    counted: set[int] = set()
    reports = {
        name: ConvReport(name or "(root)", what, (), NO_CONV_LAYER, 0, ()) for name, _, what in other_convs(model)
    }
    for name, conv in convs(model):
        maps = kernel_maps(conv)
        parameters = {id(p): p for kernel_map in maps for p in kernel_map.parameters() if id(p) not in counted}
        counted |= set(parameters)
        unselected = "not selected" if name in followed else "not selected, or no normalisation layer follows"
        unselected = "not converted" if untouched else unselected
        reports[name] = ConvReport(
            name or "(root)",
            describe(conv),
            tuple(type(kernel_map).__name__ for kernel_map in maps),
            "" if maps else obstacle(conv) or default_reason(name, conv) or unselected,
            sum(p.numel() for p in parameters.values()),
            tuple(remark for kernel_map in maps for remark in kernel_map.remarks(conv, maps)),
        )
    return Summary(
        tuple(reports[name] for name in sorted(reports, key=places.__getitem__)),
        sum(p.numel() for p in model.parameters() if not is_lazy(p)),
    )
