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
    features: dict[str, Features],
    seed: int,
    reference: str | None = None,
) -> pd.DataFrame:
    """Rows of scores for FID, KID and CMMD, as far as `features` names them with what each is of; they have no intervals.

    Of the images of general prompts, or of the preserved concepts where there are none: the erased model's against the
    original's, or, with `reference`, a folder of real images, each model's against those.
    """
    role = GENERAL if GENERAL in roles.values() else PRESERVED
    models = list(dict.fromkeys(features.values()))
    found: dict[tuple[Features, str], list[np.ndarray]] = {
        (m, name): [] for m in models for name in ("original", "erased")
    }
    side = 0
    for (wanted, before), (_, after) in zip(read_images(original), read_images(erased), strict=True):
        rows = [i for i, w in enumerate(wanted) if roles[w.concept] == role]
        side = before.shape[1]
        for model in models if rows else ():
            found[model, "original"].append(model.images(before[rows]))
            found[model, "erased"].append(model.images(after[rows]))
    pairs = {}
    for model in models:
        original_of, erased_of = (np.concatenate(found[model, name]) for name in ("original", "erased"))
        pairs[model] = {"": (original_of, erased_of)}
        if reference is not None:
            real = np.concatenate([model.images(batch) for batch in read_pictures(reference, side)])
            pairs[model] = {"": (real, erased_of), "_original": (real, original_of)}
    rows = [
        (f"{metric}{suffix}", ALL, role, distance(metric, *pair, seed), math.nan, math.nan, len(pair[1]))
        for metric in METRICS
        if metric in features
        for suffix, pair in pairs[features[metric]].items()
    ]
    return pd.DataFrame(rows, columns=SCHEMA.names)
