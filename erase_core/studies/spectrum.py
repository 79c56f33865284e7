"""The spectrum of what an erasure changes: over a whole vocabulary, how alike are the images of θ and θ' for a concept?

The neutral concepts are marked, with the percentile at which they lie.
"""

from __future__ import annotations

from pathlib import Path

from ..report.charts import histogram
from ..spec import Spec
from .findings import Findings, concept_scores
from .variants import variant, words_of

NEUTRAL = ("a photo", "a picture", "a drawing")


def runs(base: Spec) -> dict[str, Spec]:
    """One run, with nothing preserved, whose images show every word of the vocabulary and the neutral concepts."""
    words = list(dict.fromkeys([*words_of(base, base.vocabulary_source), *NEUTRAL]))
    drawn = {"metrics": ["image_distance"], "preserved": words}
    return {"naive": variant(base, "naive", method="naive", scoring=drawn, generation={"prompts": ["{concept}"]})}


def find(outputs: dict[str, Path]) -> Findings:
    frame = concept_scores(outputs["naive"])
    frame = frame[frame["role"] == "preserved"]
    value = "clip_distance" if "clip_distance" in frame else "pixel_distance"
    table = frame[["concept"]].assign(similarity=1 - frame[value]).sort_values("similarity", ignore_index=True)
    table["percentile"] = 100 * table["similarity"].rank(pct=True)
    table["neutral"] = table["concept"].isin(NEUTRAL)
    where = table[table["neutral"]].set_index("concept")["percentile"]
    return Findings(
        table,
        histogram(table, "similarity", "concept", list(NEUTRAL), "similarity of the images of θ and θ'"),
        {f"percentile/{word}": float(value) for word, value in where.items()},
        "Neutral concepts lie at the percentiles " + ", ".join(f"{w} {v:.0f}" for w, v in where.items()) + ".",
    )
