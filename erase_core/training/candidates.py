"""What a method may preserve while each concept is erased."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline

from .. import methods
from ..concepts.embeddings import EmbeddingTable
from ..concepts.nearest import Neighbour
from ..models.prompts import encode
from ..spec import Spec
from .loop import ErasedConcept


def erased_concepts(
    spec: Spec, pipeline: StableDiffusionPipeline, table: EmbeddingTable, near: dict[str, list[Neighbour]]
) -> list[ErasedConcept]:
    """A spec's concepts with the embeddings of their names and prompts, and of the candidates the method chooses from."""
    kind, settings = methods.load(spec.method.name).PRESERVES, spec.method.settings
    given = {"fixed": lambda: list(settings.words), "neutral": lambda: [settings.neutral], None: list}.get(kind)
    words = given() if given else []
    shared = encode(pipeline, words) if words else None
    found = []
    for concept in spec.concepts:
        prompts = [*concept.names, *concept.prompts]
        if given:
            names, candidates = words, shared
        else:
            chosen = near[concept.concept][:1] if kind == "nearest" else near[concept.concept]
            names, candidates = (
                [n.word for n in chosen],
                table.rows([n.row for n in chosen]).to(pipeline.device, torch.float32),
            )
        found.append(ErasedConcept(concept.concept, prompts, encode(pipeline, prompts), names, candidates))
    return found
