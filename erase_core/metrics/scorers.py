"""What a spec's images are scored with: the judges, what they call a concept, CLIP, and a detector of nudity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..emoji_world.labels import is_style
from ..emoji_world.labels import labels_of as emoji_labels
from ..models.source import WEIGHTS
from ..spec import Spec
from .clip_features import ClipFeatures
from .judge import Judge
from .labels import matching_labels
from .nudity import NudityDetector


@dataclass(frozen=True)
class Scorers:
    """What scores are made with; a part that a run does not need is None."""

    judge_of: Callable[[str], Judge] | None = None
    """The judge that knows a concept."""
    names_of: Callable[[str], Iterable[str]] = lambda concept: [concept]
    """Everything that a concept is called, itself first: a label that holds one of the names counts as the concept."""
    clip: ClipFeatures | None = None
    nudity: NudityDetector | None = None

    def labels_of(self, concept: str) -> set[str]:
        """The judge's labels that count as a concept."""
        return matching_labels(self.judge_of(concept).labels, self.names_of(concept))


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

    def names_of(concept: str) -> list[str]:
        names = synonyms.get(concept, [concept])
        if not own or is_style(concept):
            return names
        labels = {label for name in names for label in emoji_labels(name)}
        return list(dict.fromkeys([concept, *sorted(labels)]))

    return Scorers(judge_of, names_of, clip, NudityDetector() if "nudity" in metrics else None)
