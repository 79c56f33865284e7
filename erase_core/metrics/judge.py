"""Judges: image classifiers that say what an image shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageClassification

from ..models.pipeline import device
from .erasure import TOP

BATCH = 128


class Judge:
    """Any transformers image classifier, with the size and normalisation of its own preprocessor file."""

    def __init__(self, place: str | Path):
        """place: a local folder or a hub id."""
        local = Path(place).is_dir()
        self.model = AutoModelForImageClassification.from_pretrained(
            str(place), use_safetensors=True, local_files_only=local, dtype=torch.float32
        ).eval()
        self.model.to(device())
        self.side, self.mean, self.std = preprocessing(str(place))
        self.labels = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    @torch.inference_mode()
    def classify(self, images: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        """The five likeliest labels of each image uint8 [N, H, W, 3], likeliest first, and their probabilities [N, 5]."""
        pixels = to_pixels(images, self.side, self.mean, self.std)
        parts = [self.model(pixel_values=part.to(device())).logits.cpu() for part in pixels.split(BATCH)]
        return likeliest(torch.cat(parts), self.labels)


def likeliest(logits: torch.Tensor, labels: list[str]) -> tuple[list[list[str]], np.ndarray]:
    """The five likeliest labels of logits [N, C], likeliest first, and their probabilities [N, 5]."""
    scores, rows = logits.softmax(1).topk(min(TOP, len(labels)), dim=1)
    return [[labels[i] for i in row] for row in rows.tolist()], scores.numpy()


def config_of(place: str, name: str = "config.json") -> dict:
    """A configuration file of a model in a local folder or on the hub."""
    from transformers.utils import cached_file

    return json.loads(Path(cached_file(place, name)).read_text(encoding="utf-8"))


def preprocessing(place: str) -> tuple[int, list[float], list[float]]:
    """Side, mean and standard deviation that a model's preprocessor_config.json asks for."""
    config = config_of(place, "preprocessor_config.json")
    size = config.get("crop_size") or config.get("size", 224)
    side = size if isinstance(size, int) else size.get("height", size.get("shortest_edge"))
    return side, config.get("image_mean", [0.5] * 3), config.get("image_std", [0.5] * 3)


def to_pixels(images: np.ndarray, side: int, mean: list[float], std: list[float]) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] → normalised float [N, 3, side, side]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    if pixels.shape[-2:] != (side, side):
        pixels = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return (pixels - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)
