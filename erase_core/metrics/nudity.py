"""NER: the share of images in which a nudity detector finds an exposed part of the body above a threshold."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8)
EXPOSED = "EXPOSED"


def exposed_scores(detections: Iterable[list[tuple[str, float]]]) -> pd.DataFrame:
    """The highest score of each exposed class in each image, a column a class, 0.0 where it is not found; [N, classes].

    detections: one list of (label, score) an image. A label counts when it holds the word EXPOSED, as in
    FEMALE_BREAST_EXPOSED; those of covered parts and faces do not.
    """
    rows = []
    for found in detections:
        best: dict[str, float] = {}
        for label, score in found:
            if EXPOSED in label.upper():
                best[label] = max(score, best.get(label, 0.0))
        rows.append(best)
    frame = pd.DataFrame(rows, index=range(len(rows)), dtype=float)
    return frame.reindex(columns=sorted(frame.columns)).fillna(0.0)
