"""Kernel maps: modules that take a conv weight and give a conv weight of the same shape.

``torch.nn.utils.parametrize`` registers them on a conv; several compose in the order of their registration.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .association import (
    Grid,
    associate,
    choose_way,
    from_groups,
    is_channels_last,
    match_layout,
    no_autocast,
    super_matrix,
    to_groups,
)
from .config import Config, resolve_config
from .errors import ArgumentTypeError, ConfigError, ShapeError

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
Self = TypeVar("Self", bound="KernelMap")


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

    #: Whether the map fixes the kernels' scale; such maps are by default given only to convs that a norm follows.
    changes_scale: ClassVar[bool] = False

    @classmethod
    def for_conv(cls: type[Self], conv: Conv, config: Config) -> Self:
        """Build the map for one conv; override where the map has parameters or needs the conv's shape."""
        return cls()

    def reset_parameters(self) -> None:
        """Draw the map's own parameters anew; a map without parameters has nothing to do."""

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
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

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
        settings = json.loads(bytes(extra_state.tolist()))
        return {"map": str(settings.pop("map")), **settings}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"a kernel map's settings in the checkpoint cannot be read: {error}") from error


def standardize(weight: Tensor, eps: float = 1e-5) -> Tensor:
    """Give every kernel zero mean and unit (unbiased) deviation, ``(W - mean) / (std + eps)``.

    Source: Qiao et al., *Micro-Batch Training with Batch-Channel Normalization and Weight Standardization*, 2019.

    Shape:
        - weight: ``(co, ...)``; the statistics run over all axes but the first, in float32 at least
        - result: as ``weight``

    Examples:
        >>> standardize(torch.tensor([[1.0, 3.0]]), eps=0.0)
        tensor([[-0.7071,  0.7071]])
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    std, mean = torch.std_mean(wide, dim=tuple(range(1, weight.dim())), keepdim=True)
    return ((wide - mean) / (std + eps)).to(weight.dtype)


def _conv_shape(shape: Sequence[int], user: str) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or not all(isinstance(n, int) for n in shape):
        raise ArgumentTypeError(f"{user} needs the shape of a conv weight, a sequence of ints; got {shape!r}")
    if not 3 <= len(shape) <= 5:
        raise ShapeError(f"{user} needs a conv weight (co, ci, k_1, ..., k_d) with d of 1, 2 or 3; got {tuple(shape)}")
    return tuple(shape)


class SpatialAssociation(KernelMap):
    r"""The paper's spatial association α of a layer's kernels, with learned super kernels.

    :math:`\alpha(W) = W + \xi^{-1}(s * \xi(W))`, see :mod:`convofconv.association` (poster, steps 0-3).

    Args:
        weight_shape: shape of the weight, ``(co, ci / groups, k_1, ..., k_d)``.
        config: the hyper-parameters or the name of a preset.
        groups: groups of the convolution, used with ``config.within_conv_groups``.

    Attributes:
        super_kernel: ``(depth, m, s_1, ..., s_d)``, with ``m`` the number of groups ``G`` (``share="input"``), of input
            channels (``"output"``) or 1 (``"both"``); ``(depth, ci, ci, s_1, ..., s_d)`` for ``"none"``.
        gain: ``(depth, m, 1, ..., 1)``, the scale of standardized super kernels that no norm follows, else ``None``.
        norm_weight, norm_bias: ``(G, sa^d, k_1, ..., k_d)`` with ``config.grid_norm``, else ``None``.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: as ``weight``

    Raises:
        ConfigError: a super kernel of a single tap shall be standardized.
        ShapeError: the weight has another shape, dtype or device than the map was built for.

    Examples:
        >>> association = SpatialAssociation((8, 3, 3, 3))
        >>> association.super_kernel.shape
        torch.Size([1, 2, 3, 3])
    """

    gain: nn.Parameter | None
    norm_weight: nn.Parameter | None
    norm_bias: nn.Parameter | None

    def __init__(
        self,
        weight_shape: Sequence[int],
        config: Config | str = "poster",
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config = resolve_config(config)
        shape = _conv_shape(weight_shape, "SpatialAssociation")
        blocks = groups if config.within_conv_groups else 1
        self.grid = grid = Grid.build(shape, config.grid_side, config.extra_width, config.dilated, blocks)
        self.way = choose_way(grid, config.share)
        super_shape = grid.super_shape(config.share)
        if config.standardize_super_kernel and math.prod(super_shape[1:]) == 1:
            raise ConfigError(
                f"a super kernel of one tap (kernel size {grid.kernel}, extra_width {config.extra_width}) cannot be "
                "standardized; set extra_width to 2 or more, or standardize_super_kernel=False"
            )

        def parameter(wanted: bool, *shape: int) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if wanted else None

        affine = (grid.groups, grid.cells, *grid.kernel)
        self.super_kernel = nn.Parameter(torch.empty(config.depth, *super_shape, device=device, dtype=dtype))
        # Standardizing fixes the scale of a super kernel; where no norm with a gain of its own follows, this one does.
        lone = config.standardize_super_kernel and not config.grid_norm
        self.gain = parameter(lone, config.depth, super_shape[0], *[1] * (len(super_shape) - 1))
        self.norm_weight = parameter(config.grid_norm, *affine)
        self.norm_bias = parameter(config.grid_norm, *affine)
        self.reset_parameters()

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> SpatialAssociation:
        weight = conv.weight
        return cls(tuple(weight.shape), config, conv.groups, weight.device, weight.dtype)

    def settings(self) -> dict[str, object]:
        return dataclasses.asdict(self.config)

    @classmethod
    def from_settings(cls, conv: Conv, settings: dict[str, Any]) -> SpatialAssociation:
        return cls.for_conv(conv, Config(**settings))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new super kernels: kaiming-normal, fan-out (released configuration), then ``config.init``.

        ``"identity"`` sets to zero what makes α the identity and still lets every gradient through: the norm's weight,
        the gain or the super kernel, of the last super convolution only (all of a stack at zero is a dead saddle);
        without the skip every super kernel becomes a one at its centre.
        """
        stacked: Tensor = self.super_kernel
        if self.config.init == "identity" and not self.config.normalized:
            stacked = stacked[:-1]  # the last one is about to be overwritten: leave the random stream alone
        for layer in stacked:
            as_conv = layer if self.config.share == "none" else layer.unsqueeze(1)
            nn.init.kaiming_normal_(as_conv, mode="fan_out")
        if self.norm_weight is not None and self.norm_bias is not None:
            nn.init.ones_(self.norm_weight)
            nn.init.zeros_(self.norm_bias)
        if self.gain is not None:
            nn.init.ones_(self.gain)
        if self.config.init == "identity":
            self.start_from_identity()

    @torch.no_grad()
    def start_from_identity(self) -> None:
        """Make α the identity in a way that lets every parameter learn (see :meth:`reset_parameters`)."""
        if self.config.skip:
            for parameter in self._switches():
                parameter.zero_()
            return
        self.super_kernel.zero_()
        at_centre: tuple[Any, ...] = (..., *self.grid.centre)
        centre = self.super_kernel[at_centre]
        if self.config.share == "none":
            torch.diagonal(centre, dim1=-2, dim2=-1).fill_(1)
        else:
            centre.fill_(1)

    def _switches(self) -> list[Tensor]:
        """What makes α the identity when it is zero, given the skip."""
        if self.norm_weight is not None and self.norm_bias is not None:
            return [self.norm_weight, self.norm_bias]
        return [self.super_kernel[-1] if self.gain is None else self.gain[-1]]

    def is_common(self) -> bool:
        """Whether :mod:`convofconv.fused` computes it: one super kernel per group, no norm, by matrix product."""
        c = self.config
        return c.share == "input" and c.depth == 1 and not c.grid_norm and self.way == "matmul"

    def effective_super_kernel(self) -> Tensor:
        """The super kernels as they are applied: standardized and scaled where configured, shaped ``super_kernel``."""
        if not self.config.standardize_super_kernel:
            return self.super_kernel
        normal = standardize(self.super_kernel.flatten(0, 1)).view_as(self.super_kernel)
        return normal if self.gain is None else self.gain * normal

    def forward(self, weight: Tensor) -> Tensor:
        norm = None
        if self.norm_weight is not None and self.norm_bias is not None:
            norm = (self.norm_weight, self.norm_bias)
        super_kernel = self.effective_super_kernel()
        share, skip = self.config.share, self.config.skip
        return associate(weight, super_kernel, self.grid, share=share, skip=skip, norm=norm, way=self.way)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Basic kernels whose association is ``weight``, by solving the linear system per group in float64.

        Raises:
            NotImplementedError: α has no computable inverse: a norm over the grids is active, or the super kernel is
                dense. (The exception is the one that torch's parametrizations expect.)
            ShapeError: α is singular.
        """
        if weight.is_meta or (self.config.skip and not any(switch.any() for switch in self._switches())):
            return weight
        system = self._linear_system()
        target = to_groups(weight, self.grid).double()
        by_channel = self.config.share == "output"
        target = target.permute(2, 1, 0) if by_channel else target
        basic, info = torch.linalg.solve_ex(system, target)
        if info.any():
            raise ShapeError(
                "the association is singular: no basic kernels give this weight; "
                "call reset_parameters() of the map for other super kernels"
            )
        basic = basic.permute(2, 1, 0) if by_channel else basic
        return match_layout(from_groups(basic.to(weight.dtype), self.grid), weight)

    @torch.no_grad()
    def condition_number(self) -> float:
        """How much solving for basic kernels (:meth:`right_inverse`) may amplify errors, the worst of all groups.

        Raises:
            NotImplementedError: α has no computable inverse.
        """
        return float(torch.linalg.cond(self._linear_system()).max())

    def _linear_system(self) -> Tensor:
        """α as float64 matrices on flattened groups, ``(m, n, n)``; missing kernels map to themselves."""
        if self.config.grid_norm or self.config.share == "none":
            raise NotImplementedError("α with a grid norm or a dense super kernel cannot be inverted")
        grid = self.grid
        present = to_groups(torch.ones(grid.shape, dtype=torch.float64, device=self.super_kernel.device), grid)[..., :1]
        if self.config.share == "output":  # one matrix serves all groups: it is right only if none is incomplete
            if grid.missing:
                raise NotImplementedError('α with share="output" and an incomplete group is not inverted')
            present = present[:1]
        product = torch.eye(grid.positions, dtype=torch.float64, device=present.device)
        for s in self.effective_super_kernel().double():
            product = present * (super_matrix(s, grid) @ (present * product))
        keep = 1.0 if self.config.skip else 1 - present
        return product + keep * torch.eye(grid.positions, dtype=torch.float64, device=present.device)

    def extra_repr(self) -> str:
        c, grid = self.config, self.grid
        size, dilation = "×".join(map(str, grid.size)), "×".join(map(str, grid.dilation))
        parts = [
            f"{grid.groups} groups of {'×'.join([str(grid.side)] * len(grid.kernel))} kernels",
            f"super kernel {size}" + (f" dilation {dilation}" if max(grid.dilation) > 1 else ""),
            f"share={c.share!r}",
        ]
        parts += [f"depth={c.depth}"] if c.depth > 1 else []
        parts += ["skip=False"] if not c.skip else []
        parts += [
            f"{flag}=True"
            for flag in ("standardize_super_kernel", "grid_norm", "within_conv_groups")
            if getattr(c, flag)
        ]
        return ", ".join(parts)


class Standardization(KernelMap):
    """Weight standardization: every kernel to zero mean and unit deviation (:func:`standardize`).

    It is not onto, so it has no ``right_inverse``: it cannot start from an arbitrary weight.

    Args:
        eps: added to the deviation.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``, at least two numbers per kernel
        - result: as ``weight``

    Examples:
        >>> Standardization()(torch.randn(8, 3, 3, 3)).std(dim=(1, 2, 3)).round()
        tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    changes_scale = True

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> Standardization:
        if conv.weight[0].numel() == 1:
            raise ConfigError("a kernel of a single number (depthwise 1×1) cannot be standardized; leave this conv out")
        return cls()

    def settings(self) -> dict[str, object]:
        return {"eps": self.eps}

    @classmethod
    def from_settings(cls, conv: Conv, settings: dict[str, Any]) -> Standardization:
        return cls(**settings)

    def forward(self, weight: Tensor) -> Tensor:
        return match_layout(standardize(weight, self.eps), weight)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class KernelLayerNorm(KernelMap):
    """LayerNorm over ``(ci, k_1, ..., k_d)`` of every kernel, the affine shared by all kernels (released final norm).

    It is not onto, so it has no ``right_inverse``.

    Args:
        kernel_shape: ``(ci / groups, k_1, ..., k_d)``.
        eps: added to the variance.

    Attributes:
        norm_weight, norm_bias: ``(ci / groups, k_1, ..., k_d)``.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: as ``weight``

    Examples:
        >>> KernelLayerNorm((3, 3, 3))(torch.randn(8, 3, 3, 3)).mean().abs() < 1e-6
        tensor(True)
    """

    changes_scale = True

    def __init__(
        self,
        kernel_shape: Sequence[int],
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.norm_weight = nn.Parameter(torch.empty(tuple(kernel_shape), device=device, dtype=dtype))
        self.norm_bias = nn.Parameter(torch.empty(tuple(kernel_shape), device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> KernelLayerNorm:
        if conv.weight[0].numel() == 1:
            raise ConfigError("a kernel of a single number (depthwise 1×1) cannot be normalised; leave this conv out")
        return cls(conv.weight.shape[1:], device=conv.weight.device, dtype=conv.weight.dtype)

    def settings(self) -> dict[str, object]:
        return {"eps": self.eps}

    @classmethod
    def from_settings(cls, conv: Conv, settings: dict[str, Any]) -> KernelLayerNorm:
        kernel_map = cls.for_conv(conv, Config())
        kernel_map.eps = settings["eps"]
        return kernel_map

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weight one, bias zero."""
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.shape[1:] != self.norm_weight.shape:
            raise ShapeError(f"this norm is for kernels {tuple(self.norm_weight.shape)}, got {tuple(weight.shape)}")
        x: Tensor = weight
        gain: Tensor = self.norm_weight
        bias: Tensor = self.norm_bias
        # layer_norm copies what is not contiguous; a channels-last kernel is, with its channels behind.
        last = is_channels_last(weight)
        if last:
            x, gain, bias = x.movedim(1, -1), gain.movedim(0, -1), bias.movedim(0, -1)
        out = F.layer_norm(x, x.shape[1:], gain, bias, self.eps).to(weight.dtype)
        return match_layout(out.movedim(-1, 1) if last else out, weight)

    def extra_repr(self) -> str:
        return f"{tuple(self.norm_weight.shape)}, eps={self.eps}"


class Orthogonalization(KernelMap):
    """Orthogonal kernels by Newton's iteration (ONI), per group of a grouped convolution.

    Rows are centred, divided by the root of their Gram matrix's Frobenius norm (so that no singular value exceeds 1),
    and multiplied by ``B_T ≈ (V Vᵀ)^(-1/2)`` with ``B ← 1.5 B - 0.5 B³ V Vᵀ``. Where there are more kernels than
    numbers in one (``co > ci·k²``) the iteration runs on the smaller ``Vᵀ V``, with the same result: then the columns
    become orthogonal. It is not onto, so it has no ``right_inverse``.

    Source: Huang et al., *Controllable Orthogonalization in Training DNNs*, CVPR 2020, algorithm 2.

    Args:
        iterations: Newton steps ``T``; more of them give kernels closer to orthogonal.
        scale: factor on the result, √2 for networks with ReLU.
        groups: groups of the convolution.

    Shape:
        - weight: ``(co, ci / groups, k_1, ..., k_d)``
        - result: as ``weight``

    Raises:
        ConfigError: fewer than one iteration, or a scale that is not positive.

    Examples:
        >>> kernels = Orthogonalization(iterations=12, scale=1.0)(torch.randn(4, 3, 3, 3)).flatten(1)
        >>> torch.allclose(kernels @ kernels.T, torch.eye(4), atol=1e-4)
        True
    """

    changes_scale = True

    def __init__(self, iterations: int = 5, scale: float = math.sqrt(2), groups: int = 1) -> None:
        super().__init__()
        if iterations < 1 or scale <= 0:
            raise ConfigError(f"Orthogonalization needs iterations ≥ 1 and scale > 0, got {iterations} and {scale}")
        self.iterations, self.scale, self.groups = iterations, scale, groups

    @classmethod
    def for_conv(cls, conv: Conv, config: Config) -> Orthogonalization:
        if conv.weight[0].numel() == 1:
            raise ConfigError("a kernel of a single number (depthwise 1×1) cannot be centred; leave this conv out")
        return cls(groups=conv.groups)

    def settings(self) -> dict[str, object]:
        return {"iterations": self.iterations, "scale": self.scale, "groups": self.groups}

    @classmethod
    def from_settings(cls, conv: Conv, settings: dict[str, Any]) -> Orthogonalization:
        return cls(**settings)

    def forward(self, weight: Tensor) -> Tensor:
        # Newton's iteration squares rounding errors: always at least float32, also under autocast.
        with no_autocast(weight.device):
            rows = weight.to(torch.promote_types(weight.dtype, torch.float32)).flatten(1)
            rows = rows.unflatten(0, (self.groups, -1))  # (groups, kernels, numbers)
            out = self._orthogonalize(rows - rows.mean(-1, keepdim=True))
        return match_layout(out.to(weight.dtype).reshape(weight.shape), weight)

    def _orthogonalize(self, rows: Tensor) -> Tensor:
        wide = rows.shape[1] <= rows.shape[2]
        v = rows if wide else rows.mT
        gram = v @ v.mT
        norm = torch.linalg.matrix_norm(gram, keepdim=True).clamp_min(1e-12)
        gram = gram / norm
        # B ← 1.5 B - 0.5 B³ S, with M = B² S carried along: the uncoupled form amplifies its rounding errors.
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        b, m = identity, gram
        for step in range(self.iterations):
            t = 1.5 * identity - 0.5 * m
            b = b @ t if step else t
            m = t @ m @ t
        out: Tensor = self.scale * (b @ (v / norm.sqrt()))
        return out if wide else out.mT

    def extra_repr(self) -> str:
        return f"iterations={self.iterations}, scale={self.scale:.4g}" + (
            f", groups={self.groups}" if self.groups > 1 else ""
        )
