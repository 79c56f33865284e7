"""LPIPS: how far apart two images look (Zhang et al., CVPR 2018).

    d(x, y) = Σ_l mean_hw Σ_c w_lc (x̂_lchw − ŷ_lchw)²

x̂_l is a backbone's layer l, scaled to unit length along the channels c. The weights w come with torchmetrics, the backbone's from
the file that the spec names: torchvision's AlexNet or VGG-16, as the metric was trained with them.
"""

from __future__ import annotations

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
BATCH = 32
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


class Lpips:
    """The learned perceptual distance on one backbone."""

    def __init__(self, backbone: str | Path):
        """backbone: a file with the weights of torchvision's AlexNet or VGG-16, told apart by their first layer."""
        weights = read_weights(backbone)
        first = weights.get("features.0.weight")
        self.net = "alex" if first is not None and first.shape[-1] == 11 else "vgg"
        features = alexnet() if self.net == "alex" else vgg16()
        holder = nn.ModuleDict({"features": features})
        put_weights(holder, weights, "scoring.lpips_backbone", "torchvision's AlexNet or VGG-16")
        self.features = features.to(device())
        shipped = Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / f"{self.net}.pth"
        linear = read_weights(shipped)
        self.linear = [linear[f"lin{i}.model.1.weight"].to(device()) for i in range(len(LAYERS[self.net]))]

    def layers(self, images: np.ndarray) -> list[torch.Tensor]:
        """Unit-length activations [N, C, h, w] of the compared layers, for images uint8 [N, H, W, 3]."""
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().to(device()) / 127.5 - 1
        shift, scale = (torch.tensor(values, device=x.device).reshape(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x, found = (x - shift) / scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in LAYERS[self.net]:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + LEAST))
        return found

    @torch.inference_mode()
    def distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The distance of matching images uint8 [N, H, W, 3]; float [N], 0 for equal images."""
        found = []
        for start in range(0, len(first), BATCH):
            pair = (self.layers(images[start : start + BATCH]) for images in (first, second))
            parts = [((a - b).square() * w).sum(1).mean((1, 2)) for a, b, w in zip(*pair, self.linear)]
            found.append(torch.stack(parts).sum(0).cpu())
        return torch.cat(found).numpy()
