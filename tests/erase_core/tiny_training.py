"""A training on the tiny model: one concept, twelve words, four steps."""

from __future__ import annotations

from erase_core.concepts.vocabulary import candidates, curate
from erase_core.models.prompts import encode
from erase_core.spec import Training
from erase_core.training.step import Conditions, ErasedConcept

WORDS = [row.word for row in curate(candidates("emoji-world"), ["taxi"], []) if row.kept][:12]


def inputs(pipeline, words=WORDS):
    """The first four arguments of `train`."""
    prompts = ["taxi", "a taxi"]
    concept = ErasedConcept("taxi", prompts, encode(pipeline, prompts), words, encode(pipeline, words), [[1], [2]])
    empty = encode(pipeline, [""])[0]
    return pipeline.unet, pipeline.scheduler, [concept], Conditions(empty, empty)


def settings(**changes) -> Training:
    small = {
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "latent_steps": 2,
        "trajectories": 2,
        "checkpoint_every": 2,
    }
    return Training(**{**small, **changes})
