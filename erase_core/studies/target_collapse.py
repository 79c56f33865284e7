"""Do all erased concepts end in the same image? The distance between images of different erased concepts, before the
erasure, after it with one neutral target (η = 0, the neutral concept's prediction itself), and with each concept's own
searched target. Of the erased model's images those alone count that no longer show their concept, where there is a judge:
others are apart because they are not erased.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from ..benchmark import OBJECTS, TUNING, named
from ..generation.dataset import read_images
from ..report.charts import bars
from ..spec import Spec
from .findings import Findings, summary
from .places import stage_folder
from .variants import variant


def runs(base: Spec) -> dict[str, Spec]:
    """Several concepts erased at once, by each kind of target."""
    several = [concept.model_dump() for concept in base.concepts]
    concepts = several if len(several) > 1 else [named(word) for word in OBJECTS[TUNING]["A"]]
    # Nothing is preserved: with so weak a pull, what is kept would keep the concepts too.
    neutral = {"name": "naive", "negative_guidance": 0.0}
    return {
        "neutral target": variant(base, "neutral target", concepts=concepts, method=neutral),
        "searched target (age)": variant(base, "searched target", concepts=concepts, method="age"),
    }


def between(path: Path, concepts: set[str], left: set[tuple[str, int]] = frozenset()) -> list[float]:
    """Mean absolute pixel difference (0 to 1) of every two concepts' images of one seed, without those in left."""
    by_seed: dict[int, list[tuple[str, np.ndarray]]] = {}
    for wanted, images in read_images(path):
        for one, image in zip(wanted, images):
            if one.concept in concepts and (one.prompt, one.seed) not in left:
                by_seed.setdefault(one.seed, []).append((one.concept, image.astype(np.float32) / 255))
    pairs = [pair for same in by_seed.values() for pair in itertools.combinations(same, 2)]
    return [float(np.abs(a - b).mean()) for (one, a), (other, b) in pairs if one != other]


def still_seen(path: Path) -> set[tuple[str, int]]:
    """Prompt and seed of the erased model's images in which the judge sees the concept."""
    verdicts = pd.read_parquet(stage_folder(path, "scores") / "verdicts.parquet")
    if "sees_1_erased" not in verdicts:
        return set()
    seen = verdicts[(verdicts["role"] == "erased") & (verdicts["sees_1_erased"] == 1)]
    return set(zip(seen["prompt"], seen["seed"].astype(int)))


def find(outputs: dict[str, Path]) -> Findings:
    first = next(iter(outputs.values()))
    concepts = {w for w, role in summary(first)["roles"].items() if role == "erased"}
    found = {"original": between(stage_folder(first, "original") / "images.parquet", concepts)}
    found |= {
        label: between(stage_folder(path, "erased") / "images.parquet", concepts, still_seen(path))
        for label, path in outputs.items()
    }
    esr = {"original": summary(first)["metrics"].get("esr_1_original")}
    esr |= {label: summary(path)["metrics"].get("esr_1") for label, path in outputs.items()}
    rows = [
        {"target": label, "distance": float(np.mean(values or [np.nan])), "pairs": len(values), "esr_1": esr[label]}
        for label, values in found.items()
    ]
    table = pd.DataFrame(rows)
    return Findings(
        table,
        bars(table.assign(panel="between erased concepts"), "target", "distance", "panel", "mean pixel distance"),
        {f"distance/{row['target']}": row["distance"] for row in rows},
        "Mean distance between different erased concepts' images: "
        + ", ".join(f"{row['target']} {row['distance']:.3f}" for row in rows)
        + ".",
    )
