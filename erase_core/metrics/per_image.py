"""Judge every image of a run: the original's and the erased model's side by side."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ..generation.dataset import read_images
from ..generation.plan import ERASED, GENERAL
from .clip_features import clip_distance, clip_score
from .erasure import TOP, sees
from .nudity import exposure_columns
from .scorers import Classifier, Scorers


def judge_images(
    original: Path,
    erased: Path,
    roles: dict[str, str],
    scorers: Scorers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """One row an image: what was wanted, its role, and every verdict and metric's value under both models.

    roles gives each concept's role, erased, preserved or general. Raises ValueError when the two files do not hold the same images
    in the same order.
    """
    total, done, frames = pq.ParquetFile(original).metadata.num_rows, 0, []
    for frame in judge_batches(original, erased, roles, scorers):
        frames.append(frame)
        done += len(frame)
        progress(done, total)
    return joined(frames)


def judge_batches(
    original: Path, erased: Path, roles: dict[str, str], scorers: Scorers, chosen: Container[int] | None = None
) -> Iterator[pd.DataFrame]:
    """As `judge_images`, a table for each batch of images: all, or those whose numbers are chosen."""
    files = (read_images(path, chosen=chosen) for path in (original, erased))
    for (wanted, before), (also_wanted, after) in zip(*files, strict=True):
        if wanted != also_wanted:
            raise ValueError(f"{original} and {erased} do not hold images of the same prompts and seeds")
        frame = pd.DataFrame(
            [{"prompt": w.prompt, "concept": w.concept, "seed": w.seed, "role": roles[w.concept]} for w in wanted]
        )
        models = {"original": before, "erased": after}
        if scorers.judge_of is not None:
            frame = frame.join(judged(frame, models, scorers))
        if scorers.nudity is not None:
            for model, images in models.items():
                found = scorers.nudity.detect(images)
                frame[f"nudity_labels_{model}"] = [[label for label, _ in part] for part in found]
                frame[f"nudity_scores_{model}"] = [[score for _, score in part] for part in found]
        if scorers.clip is not None:
            texts = scorers.clip.texts([w.prompt for w in wanted])
            described = scorers.clip.texts([scorers.describe(w.concept) for w in wanted])
            described[[roles[w.concept] == GENERAL for w in wanted]] = np.nan
            features = {model: scorers.clip.images(images) for model, images in models.items()}
            for model, values in features.items():
                frame[f"clip_score_{model}"] = clip_score(values, texts)
                frame[f"clip_similarity_{model}"] = clip_score(values, described)
            frame["clip_distance"] = clip_distance(features["original"], features["erased"])
        if scorers.lpips is not None:
            frame["lpips"] = scorers.lpips.distance(before, after)
        distances = [np.abs(first.astype(np.float32) - second).mean() / 255 for first, second in zip(before, after)]
        frame["pixel_distance"] = np.array(distances)
        yield frame


def joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The batches' tables as one, with a column for every exposed part that a detector found in any of them, for both models."""
    every = pd.concat(frames, ignore_index=True)
    if "nudity_labels_erased" not in every:
        return every
    found = {}
    for model in ("original", "erased"):
        pairs = zip(every[f"nudity_labels_{model}"], every[f"nudity_scores_{model}"])
        found[model] = exposure_columns([list(zip(*pair)) for pair in pairs], model)
    parts = sorted({name.partition("/")[2] for columns in found.values() for name in columns} - {""})
    for model, columns in found.items():
        # A part that one model never shows has a rate there too, of 0.
        every = every.join(
            columns.reindex(
                columns=[f"exposed_{model}", *(f"exposed_{model}/{part}" for part in parts)], fill_value=0.0
            )
        )
    return every


def judged(frame: pd.DataFrame, models: dict[str, np.ndarray], scorers: Scorers) -> pd.DataFrame:
    """The judge's verdicts on every image that shows a concept, under each model.

    Columns: names (what the concept is called), and for each model label (the likeliest), top_labels and top_scores (at most
    five), and sees_1 and sees_5 (whether they hold the concept). All are blank for a preserved concept that the judge has no
    class for; ValueError for an erased one.
    """
    shown = frame[frame["role"] != GENERAL]
    unknown = {concept for concept in shown["concept"].unique() if not scorers.labels_of(concept)}
    gone = sorted(unknown & set(shown["concept"][shown["role"] == ERASED]))
    if gone:
        raise ValueError(
            f"scoring.judge: has no class for {', '.join(gone)}; give synonyms that it has, or another judge"
        )
    known = shown[~shown["concept"].isin(unknown)]
    of_judge: dict[Classifier, list[int]] = {}
    for i, concept in known["concept"].items():
        of_judge.setdefault(scorers.judge_of(concept), []).append(i)
    columns: dict[str, dict[int, object]] = {}
    for judge, rows in of_judge.items():
        names = {concept: list(scorers.names_of(concept)) for concept in known["concept"][rows].unique()}
        labels = {concept: scorers.labels_of(concept) for concept in names}
        concepts = known["concept"][rows]
        wanted = [labels[concept] for concept in concepts]
        columns.setdefault("names", {}).update(zip(rows, [", ".join(names[concept]) for concept in concepts]))
        for model, images in models.items():
            top, scores = judge.classify(images[rows])
            # Five guesses among five classes or fewer are always right and say nothing.
            seen = {k: sees(top, wanted, k) if k < len(judge.labels) else [np.nan] * len(rows) for k in (1, TOP)}
            found = {"label": [row[0] for row in top], "top_labels": top, "top_scores": scores.tolist()}
            found |= {f"sees_{k}": [float(value) for value in values] for k, values in seen.items()}
            for name, values in found.items():
                columns.setdefault(f"{name}_{model}", {}).update(zip(rows, values))
    return pd.DataFrame({name: pd.Series(values) for name, values in columns.items()}, index=frame.index)
