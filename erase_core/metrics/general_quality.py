"""General quality: how far both models' images of the preserved concepts lie apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..generation.images import read_images
from .clip_features import ClipFeatures
from .kernel_distance import kernel_distance
from .scores import ALL, SCHEMA


def general_quality(original: Path, erased: Path, roles: dict[str, str], clip: ClipFeatures, seed: int) -> pd.DataFrame:
    """The row of scores for the kernel distance between both models' images of the preserved concepts."""
    features: list[list[np.ndarray]] = [[], []]
    for (wanted, before), (_, after) in zip(read_images(original), read_images(erased), strict=True):
        rows = [i for i, w in enumerate(wanted) if roles[w.concept] == "preserved"]
        if rows:
            for part, images in zip(features, (before, after)):
                part.append(clip.images(images[rows]))
    first, second = (np.concatenate(part) for part in features)
    row = ("kid", ALL, "preserved", *kernel_distance(first, second, seed=seed), len(first))
    return pd.DataFrame([row], columns=SCHEMA.names)
