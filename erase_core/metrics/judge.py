"""Judges: image classifiers that say what an image shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ..models.pipeline import device
from .erasure import TOP

BATCH = 128
MODES = {2: "bilinear", 3: "bicubic"}
"""Ways to scale an image, by PIL's numbers."""
CROPPED_BELOW = 384
"""A processor with a crop_pct scales both edges of images of this side and larger, and cuts nothing away."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what a model sees: scaled, the middle square cut out, normalised.

    side: of the square. edge: what the shorter edge is scaled to before; None scales both edges to `side`.
    """

    side: int
    mean: list[float]
    std: list[float]
    edge: int | None = None
    mode: str = "bicubic"


class Judge:
    """Any transformers image classifier, with the size and normalisation of its own preprocessor file."""

    def __init__(self, place: str | Path):
        """place: a local folder or a hub id."""
        local = Path(place).is_dir()
        self.model = AutoModelForImageClassification.from_pretrained(
            str(place), use_safetensors=True, local_files_only=local, dtype=torch.float32, trust_remote_code=False
        ).eval()
        self.model.to(device())
        self.preprocessing = preprocessing(str(place))
        self.labels = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    @torch.inference_mode()
    def classify(self, images: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        """The five likeliest labels of each image uint8 [N, H, W, 3], likeliest first, and their probabilities [N, 5]."""
        pixels = to_pixels(images, self.preprocessing)
        parts = [self.model(pixel_values=part.to(device())).logits.cpu() for part in pixels.split(BATCH)]
        return likeliest(torch.cat(parts), self.labels)


def likeliest(logits: torch.Tensor, labels: list[str]) -> tuple[list[list[str]], np.ndarray]:
    """The five likeliest labels of logits [N, C], likeliest first, and their probabilities [N, 5]."""
    scores, rows = logits.softmax(1).topk(min(TOP, len(labels)), dim=1)
    return [[labels[i] for i in row] for row in rows.tolist()], scores.numpy()


def config_of(place: str) -> dict:
    """The configuration of a model in a local folder or on the hub."""
    from transformers.utils import cached_file

    return json.loads(Path(cached_file(place, "config.json")).read_text(encoding="utf-8"))


def preprocessing(place: str) -> Preprocessing:
    """What a model's own image processor does, as its preprocessor_config.json and its class's defaults say.

    Raises ValueError when it scales images in a way that is not known here.
    """
    own = AutoImageProcessor.from_pretrained(place, local_files_only=Path(place).is_dir(), trust_remote_code=False)
    size, part = own.size, getattr(own, "crop_pct", None)
    crop = own.crop_size if own.do_center_crop else None
    side = (crop or size).height or (crop or size).shortest_edge
    edge = None
    if crop:
        edge = size.shortest_edge
    elif part and size.shortest_edge and size.shortest_edge < CROPPED_BELOW:
        edge = int(side / part)
    if own.resample not in MODES:
        raise ValueError(f"{place}: preprocessor_config.json: resample {own.resample} should be one of {list(MODES)}")
    mean, std = (own.image_mean, own.image_std) if own.do_normalize else ([0.0] * 3, [1.0] * 3)
    return Preprocessing(side, list(mean), list(std), edge, MODES[own.resample])


def to_pixels(images: np.ndarray, how: Preprocessing) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] → normalised float [N, 3, side, side]."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    height, width = pixels.shape[-2:]
    scaled = (how.side, how.side)
    if how.edge is not None:
        scaled = tuple(how.edge * length // min(height, width) for length in (height, width))
    if scaled != (height, width):
        pixels = F.interpolate(pixels, scaled, mode=how.mode, antialias=True, align_corners=False).clamp(0, 1)
    top, left = ((length - how.side) // 2 for length in scaled)
    pixels = pixels[..., top : top + how.side, left : left + how.side]
    return (pixels - torch.tensor(how.mean).reshape(1, 3, 1, 1)) / torch.tensor(how.std).reshape(1, 3, 1, 1)
