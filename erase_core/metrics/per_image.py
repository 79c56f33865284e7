"""Judge every image of a run: the original's and the erased model's side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ..generation.images import read_images
from .clip_features import clip_distance, clip_score
from .erasure import sees
from .scorers import Scorers


def judge_images(
    original: Path,
    erased: Path,
    roles: dict[str, str],
    scorers: Scorers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """One row an image: what was wanted, its role, and every metric's value under both models.

    roles gives each concept's role, erased or preserved. Raises ValueError when the two files do not hold the same images
    in the same order.
    """
    total, done, frames = pq.ParquetFile(original).metadata.num_rows, 0, []
    for (wanted, before), (also_wanted, after) in zip(read_images(original), read_images(erased), strict=True):
        if wanted != also_wanted:
            raise ValueError(f"{original} and {erased} do not hold images of the same prompts and seeds")
        frame = pd.DataFrame([{**vars(w), "role": roles[w.concept]} for w in wanted])
        if scorers.judge_of is not None:
            for judge in dict.fromkeys(scorers.judge_of(w.concept) for w in wanted):
                rows = [i for i, w in enumerate(wanted) if scorers.judge_of(w.concept) is judge]
                names = [scorers.labels_of(wanted[i].concept) for i in rows]
                for model, images in (("original", before), ("erased", after)):
                    top, _ = judge.classify(images[rows])
                    frame.loc[rows, f"label_{model}"] = [labels[0] for labels in top]
                    for k in (1, 5):
                        # Five guesses among five classes or fewer are always right and say nothing.
                        seen = sees(top, names, k).astype(float) if k < len(judge.labels) else np.nan
                        frame.loc[rows, f"sees_{k}_{model}"] = seen
        if scorers.clip is not None:
            texts = scorers.clip.texts([w.prompt for w in wanted])
            features = {"original": scorers.clip.images(before), "erased": scorers.clip.images(after)}
            for model, values in features.items():
                frame[f"clip_score_{model}"] = clip_score(values, texts)
            frame["clip_distance"] = clip_distance(features["original"], features["erased"])
        frame["pixel_distance"] = np.abs(before.astype(np.float32) - after).mean((1, 2, 3)) / 255
        frames.append(frame)
        done += len(wanted)
        progress(done, total)
    return pd.concat(frames, ignore_index=True)
