"""What disk a run takes, told before it starts: in its results, in the caches, and in MLflow. No weights are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch._subclasses.fake_tensor import FakeTensorMode

from .concepts.vocabulary import candidates, curate, embedded_words
from .memory import FULL, bytes_of, parts_of, pixels_of, wanted_at_most
from .models.conditions import pooled_size
from .models.source import find_model
from .models.trainable import trainable_names
from .preflight import tokenizer_vocabulary
from .spec import Spec

RESULTS, CACHES, MLFLOW = "results", "caches", "MLflow"
HALF = 2
"""Bytes of a number in half precision."""
OF_KINDS = 3
"""An attacker has images of the concept, and as many of near and of far ones."""


@dataclass(frozen=True)
class Kept:
    """Something that a run keeps, and its bytes by place."""

    what: str
    places: dict[str, int]


def disk_forecast(spec: Spec, folder: Path) -> list[Kept]:
    """What a run keeps when it ends. folder: of the model's configurations and tokenizers.

    Images are counted as their pixels, which PNG makes fewer of; trajectories as what they may take.
    """
    part = spec.training
    with FakeTensorMode():
        networks = parts_of(folder)
        unet, vae = networks["unet"], networks["vae"]
        model = sum(map(bytes_of, networks.values()))
        trained = FULL * sum(unet.get_parameter(name).numel() for name in trainable_names(unet, part.trainable))
        each = 3 * math.prod(pixels_of(vae, unet))
        length, width = networks["text_encoder"].config.max_position_embeddings, unet.config.cross_attention_dim
        pooled = pooled_size(unet) or networks["text_encoder"].config.hidden_size
    images = 2 * each * len(wanted_at_most(spec))
    words = candidates(spec.vocabulary_source, lambda: tokenizer_vocabulary(folder / "tokenizer"))
    embedded = len(embedded_words(curate(words, spec.never_preserved, spec.vocabulary.exclude)))
    whole = HALF * length * width
    if spec.vocabulary.pooled:
        embeddings = HALF * embedded * pooled + whole * min(spec.vocabulary.top_k * len(spec.concepts), embedded)
    else:
        embeddings = whole * embedded
    found = [
        Kept("the erased model, in fp32", {RESULTS: model, MLFLOW: model}),
        Kept("its changed weights", {RESULTS: trained, CACHES: trained}),
        Kept("images of both models, at most", dict.fromkeys((RESULTS, CACHES, MLFLOW), images)),
        Kept("prompt embeddings", {CACHES: embeddings}),
    ]
    if spec.attacks is not None:
        settings, every = [attack.settings for attack in spec.attacks.run], each * len(spec.concepts)
        attempts = every * sum(2 * own.drawn - own.controls for own in settings)
        found += [
            Kept("images of the attacks, at most", dict.fromkeys((RESULTS, CACHES, MLFLOW), attempts)),
            Kept("images that attackers have, at most", {CACHES: every * OF_KINDS * spec.attacks.references}),
        ]
    if part.latents == "frozen-bank":
        found.append(Kept("latents of all runs, at most", {CACHES: int(part.trajectory_gib * 2**30)}))
    if find_model(spec.model).folder is None:
        found.append(Kept("the model itself, in fp32", {CACHES: model}))
    return found
