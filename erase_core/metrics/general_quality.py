"""General quality: how far both models' images lie apart, or from real ones, as sets of features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from PIL import Image

from ..files import pictures_in
from ..generation.dataset import read_images
from ..generation.plan import GENERAL, PRESERVED
from ..pictures import read_square
from ..spec_texts import ALL
from .cmmd import cmmd
from .frechet_distance import frechet_distance
from .kernel_distance import kernel_distance
from .scores import SCHEMA

METRICS = ("fid", "kid", "cmmd")
BATCH = 64


class Features(Protocol):
    """What turns images uint8 [N, H, W, 3] into features [N, d]."""

    def images(self, images: np.ndarray) -> np.ndarray: ...


def distance(metric: str, first: np.ndarray, second: np.ndarray, seed: int) -> float:
    """A metric of two sets of features."""
    if metric == "kid":
        return kernel_distance(first, second, seed=seed)
    return frechet_distance(first, second) if metric == "fid" else cmmd(first, second)


def read_pictures(folder: str | Path, side: int) -> Iterator[np.ndarray]:
    """Yield batches uint8 [B, side, side, 3] of a folder's pictures, each cut to its middle square."""
    paths = pictures_in(folder)
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        yield np.stack([read_square(path, side, side, Image.Resampling.BICUBIC) for path in batch])


def general_quality(
    original: Path,
    erased: Path,
    roles: dict[str, str],
    features: Features,
    metrics: list[str],
    seed: int,
    reference: str | None = None,
) -> pd.DataFrame:
    """Rows of scores for FID, KID and CMMD, as far as `metrics` names them; they have no intervals.

    Of the images of general prompts, or of the preserved concepts where there are none: the erased model's against the
    original's, or, with `reference`, a folder of real images, each model's against those.
    """
    role = GENERAL if GENERAL in roles.values() else PRESERVED
    found: dict[str, list[np.ndarray]] = {"original": [], "erased": []}
    side = 0
    for (wanted, before), (_, after) in zip(read_images(original), read_images(erased), strict=True):
        rows = [i for i, w in enumerate(wanted) if roles[w.concept] == role]
        side = before.shape[1]
        if rows:
            found["original"].append(features.images(before[rows]))
            found["erased"].append(features.images(after[rows]))
    of = {model: np.concatenate(parts) for model, parts in found.items()}
    pairs = {"": (of["original"], of["erased"])}
    if reference is not None:
        real = np.concatenate([features.images(batch) for batch in read_pictures(reference, side)])
        pairs = {"": (real, of["erased"]), "_original": (real, of["original"])}
    rows = [
        (f"{metric}{suffix}", ALL, role, distance(metric, *pair, seed), math.nan, math.nan, len(pair[1]))
        for metric in METRICS
        if metric in metrics
        for suffix, pair in pairs.items()
    ]
    return pd.DataFrame(rows, columns=SCHEMA.names)
