"""Judges: image classifiers that say what an image shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import SizeDict

from ..models.pipeline import device
from ..preflight_scorers import MODES
from .erasure import TOP

BATCH = 128
CROPPED_BELOW = 384
"""ConvNext's processor scales both edges of images of this side and larger, and cuts nothing away."""
TRIED_ON = (97, 133)
"""Height and width of a picture that is prepared both ways: no processor's own, nor square."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what a model sees: scaled, the middle square cut out, normalised.

    edge: what both edges are scaled to, or the shorter one alone if the image `keeps_shape`. side: of the square; what the
    image lacks of it is black, and None cuts nothing away. mean, std: of each channel. bgr: the channels are turned round.
    """

    edge: int
    mean: list[float]
    std: list[float]
    side: int | None = None
    keeps_shape: bool = False
    mode: str = "bicubic"
    bgr: bool = False


class Judge:
    """Any transformers image classifier, with the size and normalisation of its own preprocessor file."""

    def __init__(self, place: str | Path):
        """place: a local folder."""
        self.model = AutoModelForImageClassification.from_pretrained(
            str(place), use_safetensors=True, local_files_only=True, dtype=torch.float32, trust_remote_code=False
        ).eval()
        self.model.to(device())
        self.preprocessing = preprocessing(str(place))
        self.labels = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    @torch.inference_mode()
    def classify(self, images: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        """The five likeliest labels of each image uint8 [N, H, W, 3], likeliest first, and their probabilities [N, 5]."""
        parts = [self.model(pixel_values=part.to(device())).logits.cpu() for part in seen(images, self.preprocessing)]
        return likeliest(torch.cat(parts), self.labels)


def likeliest(logits: torch.Tensor, labels: list[str]) -> tuple[list[list[str]], np.ndarray]:
    """The five likeliest labels of logits [N, C], likeliest first, and their probabilities [N, 5]."""
    scores, rows = logits.softmax(1).topk(min(TOP, len(labels)), dim=1)
    return [[labels[i] for i in row] for row in rows.tolist()], scores.numpy()


def preprocessing(place: str) -> Preprocessing:
    """What a model's own image processor does, as its preprocessor_config.json and its class's defaults say.

    Raises ValueError, with the key, for what is not known here, and when a picture does not come out as from the processor.
    """
    own = AutoImageProcessor.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    where = f"{place}: preprocessor_config.json"
    resample = getattr(own, "resample", None)
    if resample not in MODES:
        raise ValueError(f"{where}: resample {resample} should be one of {list(MODES)}")
    edge, side, keeps_shape = geometry(own, where)
    mean, std = (own.image_mean, own.image_std) if own.do_normalize else ([0.0] * 3, [1.0] * 3)
    bgr = bool(getattr(own, "do_flip_channel_order", False))
    how = Preprocessing(edge, list(mean), list(std), side, keeps_shape, MODES[resample], bgr)
    if not refuses_its_size(own) and not agrees(own, how):
        name = type(own).__name__.removesuffix("Pil")
        raise ValueError(
            f"{where}: image_processor_type {name} prepares images in a way that is not known here; give a model whose "
            "processor scales, cuts and normalises alone"
        )
    return how


def geometry(own: BaseImageProcessor, where: str) -> tuple[int, int | None, bool]:
    """The edge, side and keeps_shape of a processor's `Preprocessing`. where: its file, for ValueError's message."""
    edge = edge_of(own.size, f"{where}: size")
    keeps_shape = bool(own.size.shortest_edge)
    side = edge_of(own.crop_size, f"{where}: crop_size") if own.do_center_crop else None
    if is_convnext(own) and keeps_shape and edge >= CROPPED_BELOW:
        return edge, side, False
    # Any processor keeps a crop_pct that its file gives, but only some classes know it.
    part = own.crop_pct if hasattr(type(own), "crop_pct") else None
    if part is None or refuses_its_size(own):
        return edge, side, keeps_shape
    return int(edge / part), side or (edge if is_convnext(own) else None), True


def is_convnext(own: BaseImageProcessor) -> bool:
    """Whether a processor is ConvNext's, which ResNet and RegNet have too: its crop_pct is of the square it cuts out itself."""
    return type(own).__name__.startswith("ConvNext")


def refuses_its_size(own: BaseImageProcessor) -> bool:
    """Whether a processor cannot be run on its own file: ConvNext's takes no height and width, which the included judges have."""
    return is_convnext(own) and not own.size.shortest_edge


def edge_of(size: SizeDict | None, field: str) -> int:
    """The one number that a processor's size is made of. ValueError when there is none, or several."""
    given = {name: value for name, value in (dict(size) if size else {}).items() if value}
    if set(given) not in ({"shortest_edge"}, {"height", "width"}) or len(set(given.values())) > 1:
        raise ValueError(f"{field} {given} should be a shortest_edge, or a height and an equal width")
    return next(iter(given.values()))


def agrees(own: BaseImageProcessor, how: Preprocessing) -> bool:
    """Whether a processor prepares a picture whose colours tell places apart as `how` does, to less than a level in the mean."""
    rows, columns = np.indices(TRIED_ON) / np.reshape(TRIED_ON, (2, 1, 1))
    picture = (255 * np.stack([rows, columns, (1 - rows) * (1 - columns)], axis=-1)).astype(np.uint8)
    theirs, ours = own(Image.fromarray(picture), return_tensors="pt").get("pixel_values"), to_pixels(picture[None], how)
    if theirs is None or theirs.shape != ours.shape:
        return False
    return bool((255 * (ours - theirs).abs() * torch.tensor(how.std).reshape(1, 3, 1, 1)).mean() < 1)


def seen(images: np.ndarray, how: Preprocessing) -> Iterator[torch.Tensor]:
    """What a model sees of images, a batch at a time: of large ones, all at once would take gigabytes."""
    for start in range(0, len(images), BATCH):
        yield to_pixels(images[start : start + BATCH], how)


def to_pixels(images: np.ndarray, how: Preprocessing) -> torch.Tensor:
    """Images uint8 [N, H, W, 3] → normalised float [N, 3, side, side], or of the scaled height and width without a side."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    height, width = pixels.shape[-2:]
    scaled = (how.edge, how.edge)
    if how.keeps_shape:
        scaled = tuple(how.edge * length // min(height, width) for length in (height, width))
    if scaled != (height, width):
        pixels = F.interpolate(pixels, scaled, mode=how.mode, antialias=True, align_corners=False).clamp(0, 1)
    if how.side is not None:
        pixels = middle(pixels, how.side)
    if how.bgr:
        pixels = pixels.flip(1)
    return (pixels - torch.tensor(how.mean).reshape(1, 3, 1, 1)) / torch.tensor(how.std).reshape(1, 3, 1, 1)


def middle(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """The middle square [N, 3, side, side] of [N, 3, H, W]; what lies beyond an edge is black."""
    height, width = pixels.shape[-2:]
    top, left = (height - side) // 2, (width - side) // 2
    # A negative padding cuts away.
    return F.pad(pixels, (-left, left + side - width, -top, top + side - height))
