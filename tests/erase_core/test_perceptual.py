"""LPIPS and the Inception features against computations by hand in float64, on backbones with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.image
from safetensors.torch import save_file

from erase_core.metrics.inception import InceptionFeatures, inception_v3
from erase_core.metrics.lpips import LAYERS, Lpips, alexnet, vgg16

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
LINEAR = Path(torchmetrics.functional.image.__file__).parent / "lpips_models"


def backbone(net: str, path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    features = alexnet() if net == "alex" else vgg16()
    weights = {f"features.{name}": value for name, value in features.state_dict().items()}
    weights["classifier.1.weight"] = torch.zeros(4, 4)
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return weights


def by_hand(net: str, weights: dict[str, torch.Tensor], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The equation, position by position in torchvision's numbering, in float64."""
    pools = {"alex": {2: 3, 5: 3}, "vgg": {4: 2, 9: 2, 16: 2, 23: 2}}[net]
    linear = torch.load(LINEAR / f"{net}.pth", map_location="cpu", weights_only=True)

    def layers(image: np.ndarray) -> list[torch.Tensor]:
        x = torch.tensor(image.astype(np.float64) / 255 * 2 - 1).permute(2, 0, 1)[None]
        for channel, (shift, scale) in enumerate(zip((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))):
            x[:, channel] = (x[:, channel] - shift) / scale
        found = []
        for i in range(max(LAYERS[net]) + 1):
            if f"features.{i}.weight" in weights:
                stride, padding = ((4, 2) if i == 0 else (1, 2) if i == 3 else (1, 1)) if net == "alex" else (1, 1)
                kernel, bias = (weights[f"features.{i}.{part}"].double() for part in ("weight", "bias"))
                x = F.conv2d(x, kernel, bias, stride, padding)
            else:
                x = F.max_pool2d(x, pools[i], 2) if i in pools else x.clamp(min=0)
            if i in LAYERS[net]:
                found.append(x[0])
        return found

    distances = []
    for a, b in zip(first, second):
        total = 0.0
        for i, (x, y) in enumerate(zip(layers(a), layers(b))):
            x, y = x / x.norm(dim=0), y / y.norm(dim=0)
            x, y = x.nan_to_num(), y.nan_to_num()
            total += float(((x - y) ** 2 * linear[f"lin{i}.model.1.weight"].double()[0]).sum(0).mean())
        distances.append(total)
    return np.array(distances)


@pytest.mark.parametrize(("net", "suffix"), [("alex", ".safetensors"), ("vgg", ".pth")])
def test_lpips_by_hand(net: str, suffix: str, tmp_path: Path) -> None:
    weights = backbone(net, tmp_path / f"w{suffix}")
    found = Lpips(tmp_path / f"w{suffix}")
    assert found.net == net
    assert np.allclose(found.distance(*IMAGES), by_hand(net, weights, *IMAGES), rtol=2e-4)
    assert np.allclose(found.distance(IMAGES[0], IMAGES[0]), 0)


def test_lpips_of_images_in_parts(tmp_path: Path, monkeypatch) -> None:
    """However many are compared at once."""
    backbone("alex", tmp_path / "w.pth")
    found = Lpips(tmp_path / "w.pth")
    whole = found.distance(*IMAGES)
    for pixels in (2 * 64 * 64, 1):
        monkeypatch.setattr("erase_core.metrics.lpips.COMPARED_PIXELS", pixels)
        assert np.allclose(found.distance(*IMAGES), whole, rtol=1e-5)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(1)[None, None, None]}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="scoring.lpips_backbone: has no features.0"):
        Lpips(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="scoring.features: has no Conv2d_1a_3x3"):
        InceptionFeatures(tmp_path / "w.safetensors")


def test_inception_is_the_published_network(tmp_path: Path) -> None:
    """The weights of its parts without the classifier are 21,785,568, as published, and its features are those of one image."""
    torch.manual_seed(0)
    network = inception_v3()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568
    assert tuple(network.state_dict()["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape) == (384, 384, 3, 1)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    features = InceptionFeatures(tmp_path / "w.safetensors")
    found = features.images(IMAGES[0])
    assert found.shape == (3, 2048) and np.allclose(found[1:2], features.images(IMAGES[0][1:2]), atol=1e-4)
