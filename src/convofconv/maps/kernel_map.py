"""What all kernel maps have in common: the base class, and their settings in checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..config import Config, Init
from ..errors import ArgumentTypeError, ConfigError, ShapeError

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Self = TypeVar("Self", bound="KernelMap")
#: ``torch.cat`` of tensors of several layers.
Stack = Callable[[Sequence[Tensor]], Tensor]


class KernelMap(nn.Module):
    """Base class of all kernel maps; subclass it, write ``forward``, and pass the class to :func:`convofconv.convert`.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: the same shape, dtype and memory format

    Examples:
        >>> class Halve(KernelMap):
        ...     def forward(self, weight):
        ...         return weight / 2
        >>> Halve.for_conv(nn.Conv2d(3, 8, 3), Config())
        Halve()
    """

    #: Whether the map is linear in the kernels. Those that are come first where a configuration adds others.
    linear: ClassVar[bool] = False
    #: Whether the map fixes the kernels' scale; such maps are by default given only to convs that a norm follows.
    changes_scale: ClassVar[bool] = False
    #: The group of :func:`convofconv.param_groups` that a parameter belongs to, by its name: ``"super kernels"`` have a
    #: rate and decay of their own, ``"norms and biases"`` are not decayed. Others are grouped by their shape.
    parameter_groups: ClassVar[Mapping[str, str]] = {}
    #: How the map starts, see ``init`` of :class:`convofconv.Config`.
    start_mode: Init = "identity"

    @classmethod
    def for_conv(cls: type[Self], conv: Conv, config: Config) -> Self:
        """Build the map for one conv; override where the map has parameters or needs the conv's shape."""
        return cls()

    @classmethod
    def companions(cls, config: Config) -> tuple[type[KernelMap], ...]:
        """Other maps that a configuration of this one asks for."""
        return ()

    def start_from_identity(self) -> None:
        """Change nothing from now on, if the map can; one that always starts so has nothing to do."""

    def condition_number(self) -> float:
        """How much :meth:`right_inverse` may amplify errors.

        Raises:
            NotImplementedError: it cannot be computed.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be inverted")

    def remarks(self, conv: Conv, maps: Sequence[KernelMap]) -> tuple[str, ...]:
        """What :func:`convofconv.summary` notes on a conv that has these maps, this one among them."""
        return ()

    def reset_parameters(self) -> None:
        """Draw the map's own parameters anew; a map without parameters has nothing to do."""

    def batch_key(self) -> Hashable | None:
        """What maps of one class must share to be computed in one batch, ``None`` for one that never is.

        The shape of the layers' weights, and the devices and dtypes of everything, are compared besides; everything
        else that decides the result or the shapes of parameters belongs into it.
        """
        return None

    @classmethod
    def batched(cls: type[Self], maps: Sequence[Self], kernels: Tensor, stack: Stack) -> Tensor:
        """Apply maps of one :meth:`batch_key`, one per layer, to the kernels of all their layers at once.

        A class without a way of its own to do so has its maps called one by one; what it inherits does not count. Of
        what is computed here the result alone may be differentiated.

        Args:
            maps: one per layer.
            kernels: those of the layers, one layer's behind another's.
            stack: ``torch.cat`` of one tensor per layer, ``stack([m.gain for m in maps])``. Parameters must go through
                it, so that layers which are not used get no gradient.

        Shape:
            - kernels: ``(layers · co, ci / groups, k_1, ..., k_d)``
            - result: as ``kernels``

        Examples:
            >>> class Scale(KernelMap):
            ...     def __init__(self):
            ...         super().__init__()
            ...         self.factor = nn.Parameter(torch.ones(1))
            ...     def forward(self, weight):
            ...         return self.factor * weight
            ...     def batch_key(self):
            ...         return ()
            ...     @classmethod
            ...     def batched(cls, maps, kernels, stack):
            ...         factors = stack([m.factor for m in maps])
            ...         return factors.repeat_interleave(len(kernels) // len(maps)).view(-1, 1, 1, 1) * kernels
            >>> Scale.batched([Scale(), Scale()], torch.ones(6, 4, 3, 3), torch.cat).shape
            torch.Size([6, 4, 3, 3])
        """
        raise NotImplementedError(f"{cls.__name__} has no way to compute several layers in one batch")

    def settings(self) -> dict[str, object]:
        """What the map's result depends on besides its parameters, as plain JSON values; kept in checkpoints."""
        return {}

    @classmethod
    def from_settings(cls: type[Self], conv: Conv, settings: dict[str, Any]) -> Self:
        """Build the map for one conv as a checkpoint describes it; the inverse of :meth:`settings`."""
        return cls.for_conv(conv, Config())

    def get_extra_state(self) -> Tensor:
        # As a tensor of JSON bytes, because safetensors, EMA and weights_only loading take nothing else.
        text = json.dumps({"map": type(self).__name__, **self.settings()}, sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")  # not meta, where that is the default

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to set: the settings are the constructor's. :meth:`_load_from_state_dict` compares them."""

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saved = state_dict.get(f"{prefix}_extra_state")
        if isinstance(saved, Tensor):
            theirs, mine = read_settings(saved), read_settings(self.get_extra_state())
            wrong = [
                f"{key}={theirs.get(key)!r} in the checkpoint, {mine.get(key)!r} here"
                for key in sorted({*theirs, *mine} - {"init"})
                if theirs.get(key) != mine.get(key)
            ]
            if wrong:
                layer = prefix.partition(".parametrizations.")[0]
                error_msgs.append(f"{layer} was converted with other settings: {'; '.join(wrong)}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def read_settings(extra_state: Tensor) -> dict[str, Any]:
    """Decode what :meth:`KernelMap.get_extra_state` wrote.

    Raises:
        ConfigError: the tensor holds something else.
    """
    try:
        # Averages of checkpoints and casts to half precision make floats of them, which hold bytes exactly.
        settings = json.loads(bytes(extra_state.round().to(torch.uint8).tolist()))
        return {"map": str(settings.pop("map")), **settings}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"a kernel map's settings in the checkpoint cannot be read: {error}") from error


def conv_shape(shape: Sequence[int], user: str) -> tuple[int, ...]:
    """The shape of a conv weight as a tuple; anything else is refused in the name of its user."""
    if not isinstance(shape, Sequence) or not all(isinstance(n, int) for n in shape):
        raise ArgumentTypeError(f"{user} needs the shape of a conv weight, a sequence of ints; got {shape!r}")
    if not 3 <= len(shape) <= 5:
        raise ShapeError(f"{user} needs a conv weight (co, ci, k_1, ..., k_d) with d of 1, 2 or 3; got {tuple(shape)}")
    return tuple(shape)
