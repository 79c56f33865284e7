"""How long until the concept is gone and the others are there: ours against the published loop."""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from statistics import mean

from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from erase_core.api import neighbours
from erase_core.generation.images import generate
from erase_core.generation.plan import roles, wanted_images
from erase_core.metrics.per_image import judge_images
from erase_core.metrics.scorers import scorers_of
from erase_core.metrics.scores import headline, score
from erase_core.models.trainable import CHOICES
from erase_core.spec import Spec, make_spec
from erase_core.training.candidates import conditions_of, erased_concepts
from erase_core.training.loop import train
from erase_core.training.result import put_weights

from . import reference_loop

GONE, KEPT = 0.98, 0.03
"""The quality: ESR-1 of at least this, and PSR-1 no more than this below the original's."""
TIMES, LOOKS = 10, 20
"""The published loop has this many times as long as ours took, and its model is looked at so often."""
SEEDS = (0, 1, 2)
"""Ours is trained with each."""
RATES_TOLD = ("esr_1", "psr_1", "psr_1_original")
OTHERS = [
    *("bus", "police car", "car", "delivery truck", "ambulance", "fire engine", "tractor", "bicycle", "dog", "fox"),
    *("lion", "banana", "rose", "guitar", "church", "house", "hammer", "penguin", "trumpet", "ship"),
]
PROMPTS = ["a photo of a taxi", "a drawing of a taxi", "a cab", "a taxi in noto style", "a taxi in fluent style"]


PLAIN = {
    "method": {
        "name": "adversarial",
        "search": "gradient",
        "preservation_weight": 1.0,
        "neutral_share": 0.0,
        "weighting": "clean",
    },
    "training": {"steps": 150, "learning_rate": 5e-4, "schedule": "constant", "timesteps": "weighted"},
}
"""The losses of the plain loop; their timesteps are drawn otherwise, which in the mean leaves them what they are."""
RATES = (1e-5, 3e-5, 1e-4)
"""The published learning rate, and larger ones."""


def spec_of(**changes: object) -> Spec:
    """The taxi; 18 images of it, 60 of others."""
    return make_spec(
        {
            "name": "time to quality",
            "concepts": [{"concept": "taxi", "synonyms": ["cab"], "prompts": PROMPTS}],
            **changes,
            "generation": {"seeds": [0, 1, 2], "sampler": "dpm-solver++", "steps": 15},
            "scoring": {"preserved": OTHERS, "metrics": ["erasure"]},
            "output": "-",
        }
    )


class Quality:
    """Scores an edited UNet against the original, whose images are drawn once."""

    def __init__(self, pipeline: StableDiffusionPipeline, spec: Spec, folder: Path):
        self.pipeline, self.spec, self.folder = pipeline, spec, folder
        self.roles = roles(spec, [])
        self.scorers, self.wanted = scorers_of(spec), wanted_images(spec, self.roles)
        generate(pipeline, self.wanted, spec.generation, "original", folder / "original.parquet")

    def of(self, unet: UNet2DConditionModel) -> dict[str, float]:
        """esr_1, psr_1 and psr_1_original."""
        parts = {**self.pipeline.components, "unet": unet}
        edited = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        generate(edited, self.wanted, self.spec.generation, "edited", self.folder / "edited.parquet")
        files = (self.folder / "original.parquet", self.folder / "edited.parquet")
        found = headline(score(judge_images(*files, self.roles, self.scorers), ["erasure"], 100, 0))
        return {name: found[name] for name in RATES_TOLD}


def reached(quality: dict[str, float]) -> bool:
    return quality["esr_1"] >= GONE and quality["psr_1"] >= quality["psr_1_original"] - KEPT


def ours(pipeline: StableDiffusionPipeline, told: str, spec: Spec, judge: Quality) -> dict:
    """Whole trainings with nothing kept from an earlier one, a seed each: seconds, and what they leave; means and the range."""
    found = []
    for seed in SEEDS:
        seeded = spec.model_copy(update={"seed": seed})
        with tempfile.TemporaryDirectory() as name:
            given = erased_concepts(seeded, pipeline, *neighbours(seeded, pipeline, Path(name)))
            began = time.perf_counter()
            parts = (pipeline.unet, pipeline.scheduler, given, conditions_of(seeded, pipeline))
            weights = train(*parts, seeded.method, seeded.training, seed, trajectories=Path(name))
            seconds = time.perf_counter() - began
        unet = copy.deepcopy(pipeline.unet)
        put_weights(unet, weights)
        quality = judge.of(unet)
        found.append({"seconds": seconds, **quality, "reached": reached(quality)})
    means = {name: mean(row[name] for row in found) for name in ("seconds", *RATES_TOLD)}
    times = f"{sum(row['reached'] for row in found)} of {len(found)}"
    return {"loop": told, "steps": spec.training.steps, **means, "whole": means["seconds"], "reached": times}


def published(
    pipeline: StableDiffusionPipeline, spec: Spec, judge: Quality, learning_rate: float, patience: float
) -> list[dict]:
    """The published loop until the quality is reached, or for `patience` seconds: a row for each of LOOKS looks on the way.

    The time of looking is left out. whole: seconds that its published number of steps takes at this pace.
    """
    with tempfile.TemporaryDirectory() as name:
        (concept,) = erased_concepts(spec, pipeline, *neighbours(spec, pipeline, Path(name)))
        rows = concept.candidates.float()
    unconditional = conditions_of(spec, pipeline).unconditional
    settings = reference_loop.Published(learning_rate=learning_rate)
    seen: list[dict] = []
    began, looking = time.perf_counter(), 0.0

    def look(step: int, unet: UNet2DConditionModel) -> bool:
        nonlocal looking
        spent = time.perf_counter() - began - looking
        if spent < patience * (len(seen) + 1) / LOOKS and step + 1 < settings.steps:
            return False
        at = time.perf_counter()
        quality = judge.of(unet)
        row = {"loop": f"published, learning rate {learning_rate:g}", "steps": step + 1, "seconds": spent, **quality}
        seen.append(row | {"whole": spent / (step + 1) * settings.steps, "reached": str(reached(quality))})
        looking += time.perf_counter() - at
        return reached(quality) or len(seen) == LOOKS

    concepts = [(embedding, rows) for embedding in concept.embeddings]
    reference_loop.erase(
        pipeline.unet, pipeline.scheduler, concepts, unconditional, CHOICES["xattn"], settings, spec.seed, look
    )
    return seen


def measure(pipeline: StableDiffusionPipeline) -> list[dict]:
    """Ours with its defaults, longer, and with the plain loop's losses, and the published loop at each rate for TIMES as long."""
    with tempfile.TemporaryDirectory() as name:
        plain = spec_of(**PLAIN)
        judge = Quality(pipeline, plain, Path(name))
        # What a process does once, the import of DeepSpeed above all, is no training's.
        warm = spec_of(training={"steps": 1, "trajectories": 1})
        given = erased_concepts(warm, pipeline, *neighbours(warm, pipeline, Path(name)))
        train(pipeline.unet, pipeline.scheduler, given, conditions_of(warm, pipeline), warm.method, warm.training, 0)
        own = ours(pipeline, "ours, defaults", spec_of(), judge)
        longer = ours(pipeline, "ours, defaults, more steps", spec_of(training={"steps": 150}), judge)
        same = ours(pipeline, "ours, the plain loop's losses", plain, judge)
        patience = TIMES * same["seconds"]
        looks = [row for rate in RATES for row in published(pipeline, plain, judge, rate, patience)]
        return [own, longer, same, *looks]
