"""Inception features for the FID and the KID: the network of the TensorFlow release that both were published with.

The file is the PyTorch port of those weights that pytorch-fid uses (pt_inception-2015-12-05-6726825d.pth). The network is
Inception v3 (Szegedy et al., CVPR 2016) with two peculiarities of that release: its average pools leave the padding out of the
mean, and its last block takes the largest value where the paper takes the mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..models.pipeline import device
from .weights_file import put_weights, read_weights

SIDE = 299
BATCH = 32


class Conv(nn.Module):
    """A convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int | tuple[int, int], stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


def mean_pool(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class A(nn.Module):
    """35×35: 1×1, 5×5, two 3×3, and a pool."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(inputs, 48, 1), Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(mean_pool(x))], 1
        )


class B(nn.Module):
    """35×35 → 17×17."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, 2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64, 1), Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    """17×17: 1×1, 7×7 as two strips, two 7×7 as four, and a pool."""

    def __init__(self, inputs: int, inner: int):
        super().__init__()
        row, column = {"size": (1, 7), "padding": (0, 3)}, {"size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Conv(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = Conv(inputs, inner, 1), Conv(inner, inner, **row)
        self.branch7x7_3 = Conv(inner, 192, **column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(inputs, inner, 1), Conv(inner, inner, **column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(inner, inner, **row), Conv(inner, inner, **column)
        self.branch7x7dbl_5 = Conv(inner, 192, **row)
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(mean_pool(x))], 1)


class D(nn.Module):
    """17×17 → 8×8."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(inputs, 192, 1), Conv(192, 320, 3, 2)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(inputs, 192, 1), Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, (7, 1), padding=(3, 0)), Conv(192, 192, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strips = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(strips), F.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    """8×8: 1×1, 3×3 as two strips beside each other, the same behind a 3×3, and a pool."""

    def __init__(self, inputs: int, largest: bool):
        super().__init__()
        row, column = {"size": (1, 3), "padding": (0, 1)}, {"size": (3, 1), "padding": (1, 0)}
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Conv(384, 384, **row), Conv(384, 384, **column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 448, 1), Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(384, 384, **row), Conv(384, 384, **column)
        self.branch_pool = Conv(inputs, 192, 1)
        self.largest = largest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, 1, 1) if self.largest else mean_pool(x)
        strips = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        strips += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *strips, self.branch_pool(pooled)], 1)


def inception_v3() -> nn.Sequential:
    """The network up to the 2048 features of its last mean, with the layer names of the port."""
    layers = {
        "Conv2d_1a_3x3": Conv(3, 32, 3, 2),
        "Conv2d_2a_3x3": Conv(32, 32, 3),
        "Conv2d_2b_3x3": Conv(32, 64, 3, padding=1),
        "pool1": nn.MaxPool2d(3, 2),
        "Conv2d_3b_1x1": Conv(64, 80, 1),
        "Conv2d_4a_3x3": Conv(80, 192, 3),
        "pool2": nn.MaxPool2d(3, 2),
        "Mixed_5b": A(192, 32),
        "Mixed_5c": A(256, 64),
        "Mixed_5d": A(288, 64),
        "Mixed_6a": B(288),
        **{f"Mixed_6{letter}": C(768, inner) for letter, inner in zip("bcde", (128, 160, 160, 192))},
        "Mixed_7a": D(768),
        "Mixed_7b": E(1280, largest=False),
        "Mixed_7c": E(2048, largest=True),
        "mean": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


def features_of(network: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] → features [N, 2048]."""
    pixels = images.to(device()).permute(0, 3, 1, 2).float() / 255
    pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return network(2 * pixels - 1)


class InceptionFeatures:
    """The 2048 features of images that FID and KID were published with."""

    def __init__(self, weights: str | Path):
        self.network = inception_v3()
        put_weights(self.network, read_weights(weights), "scoring.features", "FID's Inception (pytorch-fid's file)")
        self.network.to(device())

    @torch.inference_mode()
    def images(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [N, H, W, 3] → float32 [N, 2048]."""
        found = []
        for part in torch.from_numpy(np.ascontiguousarray(images)).split(BATCH):
            found.append(features_of(self.network, part).cpu())
        return torch.cat(found).numpy()
