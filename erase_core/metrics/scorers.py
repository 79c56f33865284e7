"""What a spec's images are scored with: the judges, what they call a concept, and the networks of the other metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..emoji_world.labels import is_style
from ..emoji_world.labels import labels_of as emoji_labels
from ..models.source import WEIGHTS
from ..preflight_scorers import read_config
from ..revisions import located
from ..spec import Spec
from .clip_features import ClipFeatures
from .general_quality import METRICS, Features
from .imagenet import ImagenetJudge
from .imagenet_classes import EFFICIENTNET
from .inception import InceptionFeatures
from .judge import Judge
from .labels import matching_labels
from .lpips import Lpips
from .nudity import NudityDetector
from .zero_shot import ZeroShotJudge

CLIP_METRICS = ("clip_score", "clip_similarity", "image_distance")


class Classifier(Protocol):
    """What names the likeliest classes of images; its classes are `labels`."""

    labels: list[str]

    def classify(self, images: np.ndarray) -> tuple[list[list[str]], np.ndarray]: ...


@dataclass(frozen=True)
class Scorers:
    """What scores are made with; a part that a run does not need is None."""

    judge_of: Callable[[str], Classifier] | None = None
    """The judge that knows a concept."""
    names_of: Callable[[str], Iterable[str]] = lambda concept: [concept]
    """Everything that a concept is called, itself first: a label that holds one of the names counts as the concept."""
    clip: ClipFeatures | None = None
    nudity: NudityDetector | None = None
    lpips: Lpips | None = None
    features: dict[str, Features] = field(default_factory=dict)
    """Of each of the general quality metrics: CMMD is CLIP's by its definition."""
    describe: Callable[[str], str] = lambda concept: concept
    """The text that stands for a concept in the CLIP similarity."""

    def labels_of(self, concept: str) -> set[str]:
        """The judge's labels that count as a concept."""
        return matching_labels(self.judge_of(concept).labels, self.names_of(concept))


def judge_named(spec: Spec, concepts: Iterable[str], clip: ClipFeatures | None) -> Classifier:
    """The spec's own judge; a CLIP chooses among the spec's classes, else among the erased and the other `concepts`."""
    part = spec.scoring
    if part.judge == EFFICIENTNET:
        return ImagenetJudge()
    if read_config("scoring.judge", Path(part.judge) / "config.json").get("model_type") != "clip":
        return Judge(part.judge)
    classes = part.judge_classes or spec.concept_words + list(concepts)
    model = clip if clip is not None and part.clip == part.judge else ClipFeatures(part.judge)
    return ZeroShotJudge(model, classes, part.description)


def scorers_of(spec: Spec, concepts: Iterable[str] = ()) -> Scorers:
    """The scorers that a spec's metrics need: the emoji world's own on that model, where the spec names no others.

    concepts: those that are drawn, the classes of a zero-shot judge. What is on the hub is fetched first.
    """
    spec = located(spec)
    part, metrics = spec.scoring, set(spec.metrics)
    own = spec.embedded and not part.judge
    synonyms = {concept.concept: concept.names for concept in spec.concepts}
    quality = [metric for metric in METRICS if metric in metrics]
    judge_of = clip = None
    of_clip = [metric for metric in quality if metric == "cmmd" or part.features == "clip"]
    if (part.clip or spec.embedded) and (metrics & set(CLIP_METRICS) or of_clip):
        clip = ClipFeatures(part.clip or WEIGHTS / "clip")
    if "erasure" in metrics:
        judge = Judge(WEIGHTS / "concept_judge") if own else judge_named(spec, concepts, clip)
        style_judge = Judge(WEIGHTS / "style_judge") if own else None

        def judge_of(concept: str) -> Classifier:
            return style_judge if own and is_style(concept) else judge

    features: dict[str, Features] = dict.fromkeys(of_clip, clip)
    if others := [metric for metric in quality if metric not in of_clip]:
        features |= dict.fromkeys(others, InceptionFeatures(part.features))

    def names_of(concept: str) -> list[str]:
        names = list(synonyms.get(concept, [concept]))
        if not spec.embedded or is_style(concept):
            return names
        # What a group takes with it is gone when none of the group is seen: a dagger in place of a sword is a weapon still.
        names += [n for c in spec.concepts if any(concept in emoji_labels(name) for name in c.names) for n in c.names]
        if not own:
            return list(dict.fromkeys(names))
        labels = {label for name in names for label in emoji_labels(name)}
        return list(dict.fromkeys([concept, *sorted(labels)]))

    return Scorers(
        judge_of,
        names_of,
        clip,
        NudityDetector() if "nudity" in metrics else None,
        Lpips(part.lpips_backbone) if "lpips" in metrics else None,
        features,
        lambda concept: part.description.replace("{concept}", concept),
    )
