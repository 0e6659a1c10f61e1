"""The network of a finished run, folded or as it was trained, ready to be asked wherever the run was trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_image

from ...errors import ConfigError, SurgeryError, listing
from ...surgery.folding import reparameterize
from ...surgery.state_dict import convert_like, is_converted
from ..data.transforms import evaluation_transform
from ..files.run_folder import RunFolder
from ..files.state_dicts import find_weights, load_weights, read_state_dict
from ..models.network import build_network
from ..recipe.schema import Recipe
from ..training.run_network import checkpoint_of, recipe_to_build


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A network that was trained, and what its answers mean.

    Args:
        recipe: of the run, except for what belongs to its training alone.
        classes: names of the classes.
        categories: what the data set itself calls every class; empty where it has no numbers of its own.
        network: in evaluation mode.
        device: where it computes.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    categories: tuple[int | None, ...]
    network: nn.Module
    device: torch.device

    def category(self, label: int) -> int:
        """The data set's own number of a label, the label itself if it has none."""
        own = self.categories[label] if self.categories else None
        return label if own is None else own

    def refuse_strips(self, image: Image.Image) -> None:
        """Refuse an image that takes all memory when its shorter side, of one pixel say, is resized for evaluation.

        Raises:
            ConfigError: the message says how it would be resized.
        """
        data = self.recipe.data
        growth = data.eval_resize / min(image.size) if data.eval_resize else 1.0
        if data.longest:
            growth = min(growth, data.longest / max(image.size))
        limit = Image.MAX_IMAGE_PIXELS or float("inf")
        if image.width * image.height * growth**2 > limit:
            raise ConfigError(
                f"{image.width}×{image.height} pixels are too many when the shorter side is {data.eval_resize} "
                "(data.eval_resize); cut the image"
            )

    def outputs(self, image: Image.Image) -> Tensor:
        """What the network puts out for the image as it is prepared when the run is evaluated, in a batch of one.

        Raises:
            ConfigError: the image is such a strip, or what is put out is no number.
        """
        self.refuse_strips(image)
        prepared, _ = evaluation_transform(self.recipe.data)(to_image(image), 0)
        outputs: Tensor = self.network(prepared[None].to(self.device))
        if not outputs.isfinite().all():
            raise ConfigError("the network puts out what is no number for this image")
        return outputs


def load_run(folder: str | Path, *, folded: bool = True, device: str | torch.device = "cpu") -> FinishedRun:
    """Build the network of the best epoch of a run and load its weights; the data set need not be there.

    Where the run kept a moving average of its weights (``training.ema``), that is the network, folded or not. Files are
    read without executing code, and torch's random numbers on the CPU go on as if nothing had been built.

    Args:
        folder: of a finished run, as ``coc fit`` wrote it.
        folded: the plain network; otherwise the network as it was trained, with its kernel maps.
        device: where the network computes.

    Returns:
        The ``network`` in evaluation mode, the run's ``recipe``, and the names of its ``classes``.

    Raises:
        ConfigError: there is no finished run, no checkpoint of the network as it was trained, or no such device; or
            what is there does not fit together.

    Examples:
        >>> import convofconv as coc
        >>> coc.lab.load_run("runs/none")
        Traceback (most recent call last):
        convofconv.errors.ConfigError: runs/none holds no finished run, ...
    """
    run, place = RunFolder(Path(folder)), _device(device)
    run.check_finished(*([run.results, run.model] if folded else [run.results]))
    source = run.model if folded else checkpoint_of(run)
    try:
        results = json.loads(run.results.read_text(encoding="utf-8"))
        recipe = recipe_to_build(results["recipe"], run.path)
        classes, categories = tuple(results["classes"]), tuple(results.get("categories") or ())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{run.results}: not the results of a run of this version ({reason})") from error
    complaint = f"{source}: not the network of {run.results.name}"
    with torch.random.fork_rng(devices=[]):
        network = build_network(dataclasses.replace(recipe, method="plain"), len(classes))
        network = (_folded if folded else _as_trained)(network, source, complaint)
    values = network.state_dict().items()
    if wrong := [name for name, value in values if torch.is_tensor(value) and not value.isfinite().all()]:
        # A detector would just find nothing.
        raise ConfigError(f"{source}: weights that are no numbers, in {listing(wrong)}; train the network anew")
    return FinishedRun(recipe, classes, categories, network.to(place).eval(), place)


def _folded(network: nn.Module, file: Path, complaint: str) -> nn.Module:
    network = reparameterize(network, inplace=True)  # one of CoC layers has maps from the start
    load_weights(network, read_state_dict(file, network.state_dict().keys()), complaint)
    return network


def _as_trained(network: nn.Module, file: Path, complaint: str) -> nn.Module:
    """The network with the kernel maps and weights of a checkpoint of the run."""
    state = find_weights(file, network).state
    try:
        network = convert_like(network, state) if is_converted(state) else network
    except SurgeryError as error:
        raise ConfigError(f"{complaint}: {error}") from error
    load_weights(network, state, complaint)
    return network


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device: expected cpu or cuda, got {device!r}") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {place}: torch finds no GPU here; take cpu")
    return place
