"""How healthy the associations are while a run trains: numbers for TensorBoard, and a warning where one degenerates."""

from __future__ import annotations

import statistics
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..association_health import AssociationHealth, LayerHealth, association_health, associations
from ..files.run_folder import RunFolder
from ..progress import print_line
from .module import Training

#: Of networks with more associated layers only what sums them up is logged.
_MOST_LAYERS = 32
#: Curves cannot show what is infinite; in float64 no matrix is worse.
_SINGULAR = 1e16


class AssociationWatch(Callback):
    """After every epoch, in the first process; draws no random number and changes nothing of the training.

    A warning comes once per layer and run, resumed ones included.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._warned: set[str] = set()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Training)
        if not trainer.is_global_zero or next(associations(module.network), None) is None:
            return
        health = association_health(module.network)
        if trainer.logger is not None:
            trainer.logger.log_metrics(scalars(health), trainer.global_step - 1)  # Lightning's count, from 0
        for layer in health.layers:
            if layer.problem and layer.layer not in self._warned:
                self._warned.add(layer.layer)
                print_line(f"warning: after epoch {trainer.current_epoch + 1}, {layer.problem}", self.folder.printed)

    def state_dict(self) -> dict[str, Any]:
        return {"warned": sorted(self._warned)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._warned = set(state_dict["warned"])


def scalars(health: AssociationHealth) -> dict[str, float]:
    """What TensorBoard shows: the layers summed up, and of at most 32 layers two numbers each.

    Undefined numbers are left out, and the condition of what is singular is 1e16.
    """
    layers = health.layers
    changes, conditions = _defined(layers, "change"), _defined(layers, "condition")
    found = {
        "dead_groups": float(sum(len(one.dead_groups) for one in layers)),
        "groups_at_the_identity": float(sum(len(one.identity_groups) for one in layers)),
    }
    if changes:
        found |= {"change_median_layer": statistics.median(changes.values()), "change_largest": max(changes.values())}
    if conditions:
        found["condition_worst"] = max(conditions.values())
        found["singular_value_smallest"] = min(_defined(layers, "smallest").values())
        found["singular_value_largest"] = max(_defined(layers, "largest").values())
    if removed := _defined(layers, "removed"):
        found["frequencies_removed_largest_share"] = max(removed.values())
    found = {f"association/{name}": value for name, value in found.items()}
    if len(layers) <= _MOST_LAYERS:
        found |= {f"association_change/{name}": value for name, value in changes.items()}
        found |= {f"association_condition/{name}": value for name, value in conditions.items()}
    return found


def _defined(layers: tuple[LayerHealth, ...], name: str) -> dict[str, float]:
    values = {one.layer: getattr(one, name) for one in layers}
    return {layer: min(value, _SINGULAR) for layer, value in values.items() if value is not None}
