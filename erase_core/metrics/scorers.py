"""What a spec's images are scored with: the judges, which of their labels stand for a concept, and CLIP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..emoji_world.labels import is_style
from ..emoji_world.labels import labels_of as emoji_labels
from ..models.source import WEIGHTS
from ..spec import Spec
from .clip_features import ClipFeatures
from .judge import Judge
from .labels import matching_labels


@dataclass(frozen=True)
class Scorers:
    """What scores are made with; a part that a run does not need is None."""

    judge_of: Callable[[str], Judge] | None
    """The judge that knows a concept."""
    labels_of: Callable[[str], set[str]]
    """The judge's labels that count as a concept."""
    clip: ClipFeatures | None


def scorers_of(spec: Spec) -> Scorers:
    """The scorers that a spec's metrics need: the emoji world's own on that model, where the spec names no others."""
    part, metrics = spec.scoring, spec.metrics
    own = spec.embedded and not part.judge
    synonyms = {concept.concept: concept.names for concept in spec.concepts}
    judge_of = clip = None
    if "erasure" in metrics:
        judge = Judge(part.judge or WEIGHTS / "concept_judge")
        style_judge = Judge(WEIGHTS / "style_judge") if own else None

        def judge_of(concept: str) -> Judge:
            return style_judge if own and is_style(concept) else judge

    if (part.clip or spec.embedded) and {"clip_score", "image_distance", "kid"} & set(metrics):
        clip = ClipFeatures(part.clip or WEIGHTS / "clip")

    def labels_of(concept: str) -> set[str]:
        names = synonyms.get(concept, [concept])
        if own and is_style(concept):
            return {concept}
        if own:
            return {label for name in names for label in emoji_labels(name)}
        return matching_labels(judge_of(concept).labels, names)

    return Scorers(judge_of, labels_of, clip)
