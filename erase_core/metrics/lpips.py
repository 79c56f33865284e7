"""LPIPS: how far apart two images look (Zhang et al., CVPR 2018).

    d(x, y) = Σ_l mean_hw Σ_c w_lc (x̂_lchw − ŷ_lchw)²

x̂_l is a backbone's layer l, scaled to unit length along the channels c. The weights w come with torchmetrics, the backbone's from
the file that the spec names: torchvision's AlexNet or VGG-16, as the metric was trained with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torchmetrics.functional.image
from torch import nn

from ..models.pipeline import device
from .weights_file import put_weights, read_weights

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of images in −1…1, so that a backbone gets what it was trained on."""
POOL = None
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)
LAYERS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""The positions in a backbone's features that are compared, each a ReLU."""
COMPARED_PIXELS = 2**17
"""At most so many pixels of either side are compared together, but at least one pair; VGG-16 makes 1 GiB of a pair of 1024²."""
LEAST = 1e-10


def alexnet() -> nn.Sequential:
    """The features of AlexNet, with torchvision's positions."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for inputs, outputs in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def vgg16() -> nn.Sequential:
    """The features of VGG-16, with torchvision's positions."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in VGG16:
        if outputs is POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers)


def net_of(shapes: Mapping[str, torch.Size]) -> str:
    """Which of LAYERS the weights of these shapes are for, by their first layer."""
    first = shapes.get("features.0.weight")
    return "alex" if first is not None and first[-1] == 11 else "vgg"


def features_of(net: str) -> nn.Sequential:
    """The features of a backbone in LAYERS."""
    return alexnet() if net == "alex" else vgg16()


def together(height: int, width: int) -> int:
    """How many pairs of images of this size are compared at once."""
    return max(1, COMPARED_PIXELS // (height * width))


def prepared(images: torch.Tensor) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] as a backbone gets them, float [N, 3, H, W]."""
    x = images.to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1
    shift, scale = (torch.tensor(values, device=x.device).reshape(1, 3, 1, 1) for values in (SHIFT, SCALE))
    return (x - shift) / scale


def unit(x: torch.Tensor) -> torch.Tensor:
    """x [N, C, h, w] scaled to unit length along the channels."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + LEAST)


def apart(first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One layer's part of the distance, [N], of activations [N, C, h, w] and the layer's weight [1, C, 1, 1]."""
    # In place: at the first layers each of these takes as much as all later layers together.
    found = unit(first)
    found -= unit(second)
    return found.square_().mul_(weight).sum(1).mean((1, 2))


def compare(
    features: nn.Sequential, linear: dict[int, torch.Tensor], first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """The distances [N] of images uint8 [N, H, W, 3].

    linear: the weights [1, C, 1, 1] of the compared layers by their positions in `features`. A layer's part is added as it is
    reached, so that the activations of one layer alone are held.
    """
    first, second = prepared(first), prepared(second)
    found = torch.zeros(len(first), device=first.device)
    for i, layer in enumerate(features):
        first = layer(first)
        second = layer(second)
        if i in linear:
            found = found + apart(first, second, linear[i])
    return found


class Lpips:
    """The learned perceptual distance on one backbone."""

    def __init__(self, backbone: str | Path):
        """backbone: a file with the weights of torchvision's AlexNet or VGG-16. ValueError when it has others."""
        weights = read_weights(backbone)
        self.net = net_of({name: value.shape for name, value in weights.items()})
        self.features = features_of(self.net)
        holder = nn.ModuleDict({"features": self.features})
        put_weights(holder, weights, "scoring.lpips_backbone", "torchvision's AlexNet or VGG-16")
        self.features.to(device())
        shipped = Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / f"{self.net}.pth"
        own = read_weights(shipped)
        self.linear = {at: own[f"lin{i}.model.1.weight"].to(device()) for i, at in enumerate(LAYERS[self.net])}

    @torch.inference_mode()
    def distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The distance of matching images uint8 [N, H, W, 3]; float [N], 0 for equal images."""
        size = together(*first.shape[1:3])
        parts = (torch.from_numpy(np.ascontiguousarray(images)).split(size) for images in (first, second))
        return torch.cat([compare(self.features, self.linear, *pair).cpu() for pair in zip(*parts)]).numpy()
