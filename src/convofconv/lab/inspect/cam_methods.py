"""The methods of activation maps: from a layer's output and the score's gradient by it, to a map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def cam(outputs: Tensor, weights: Tensor) -> Tensor:
    """Σ_k w_k A^k, where w are a class's weights in the linear layer behind average pooling.

    Shape:
        - weights: ``(batch, channels)``

    Source: Zhou et al.: Learning Deep Features for Discriminative Localization, CVPR 2016, equation 2.
    """
    return (weights[:, :, None, None] * outputs).sum(1)


def grad_cam(outputs: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_k α_k A^k), where α_k is the mean of the gradient of channel k.

    Source: Selvaraju et al.: Grad-CAM, ICCV 2017, equations 1 and 2.
    """
    return (gradients.mean((2, 3), keepdim=True) * outputs).sum(1).relu()


def grad_cam_plus_plus(outputs: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM with weights Σ a ReLU(g), where a = g² / (2 g² + ΣA g³): gradients of the score's exponential.

    Source: Chattopadhay et al.: Grad-CAM++, WACV 2018, equations 5 and 19.
    """
    denominator = 2 * gradients**2 + outputs.sum((2, 3), keepdim=True) * gradients**3
    shares = torch.where(denominator != 0, gradients**2 / denominator, 0.0)
    return ((shares * gradients.relu()).sum((2, 3), keepdim=True) * outputs).sum(1).relu()


def layer_cam(outputs: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_k ReLU(g^k) A^k), pixel by pixel.

    Source: Jiang et al.: LayerCAM, TIP 2021, equations 5 to 7.
    """
    return (gradients.relu() * outputs).sum(1).relu()


def eigen_cam(outputs: Tensor) -> Tensor:
    """The output projected onto its first principal direction, not centred, of whichever class.

    The sign, which a singular vector does not have, is that of the sum over channels: more activation is more.

    Source: Muhammad, Yeasin: Eigen-CAM, IJCNN 2020.
    """
    pixels = outputs.flatten(2).mT  # (batch, pixels, channels)
    direction = torch.linalg.svd(pixels, full_matrices=False).Vh[:, :1]
    projected = (pixels * direction).sum(-1)
    sign = torch.where((projected * pixels.sum(-1)).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    signed: Tensor = sign.to(projected) * projected
    return signed.reshape(len(outputs), *outputs.shape[2:])


#: From a layer's output and the score's gradient by it, both ``(batch, channels, height, width)``, to a map.
METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "layer-cam": layer_cam,
}


def _over_maximum(maps: Tensor) -> Tensor:
    positive = maps.relu()
    highest = positive.amax((1, 2), keepdim=True)
    return positive / torch.where(highest > 0, highest, 1.0)


def _min_max(maps: Tensor) -> Tensor:
    return _over_maximum(maps - maps.amin((1, 2), keepdim=True))


#: How maps are brought to 0 to 1: their positive part over its maximum, or from the minimum to the maximum as others
#: do, which is another map by an offset.
NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {"max": _over_maximum, "min-max": _min_max}
