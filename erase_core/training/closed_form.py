"""Closed-form methods: every cross-attention key and value projection is solved for once."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch
from diffusers import UNet2DConditionModel

from ..methods.closed_form import gram
from .step import Conditions, ErasedConcept


def token_rows(
    concepts: list[ErasedConcept], conditions: Conditions
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token embeddings: every prompt's [n, d] and the destination's [n, d] at the same positions, in float64, and those of all
    words to preserve [m, d], each word once, in float32: they may be many.
    """
    tokens = conditions.layout.tokens
    source = tokens(torch.cat([concept.embeddings for concept in concepts]))
    destination = torch.cat(
        [
            tokens(
                concept.neutrals.embeddings if concept.neutrals else conditions.neutral.expand_as(concept.embeddings)
            )
            for concept in concepts
        ]
    )
    words: dict[str, torch.Tensor] = {}
    for concept in concepts:
        if concept.candidates is not None:
            words |= zip(concept.candidate_words, tokens(concept.candidates[:]))
    kept = torch.stack(list(words.values())) if words else source[:0]
    return (
        source.flatten(0, 1).double(),
        destination.flatten(0, 1).double(),
        kept.flatten(0, 1),
    )


def solve_layers(
    unet: UNet2DConditionModel,
    trained: list[str],
    concepts: list[ErasedConcept],
    conditions: Conditions,
    method: ModuleType,
    settings,
) -> Iterator[tuple[str, torch.Tensor, float, float]]:
    """Yield each layer's name, its new weight, and what is left of ‖W' c_e − W c*‖² and ‖W' c_p − W c_p‖² per token."""
    source, wanted, kept = token_rows(concepts, conditions)
    products = gram(kept, kept)
    parameters = dict(unet.named_parameters())
    for name in trained:
        weight = parameters[name].detach().double()
        solved = method.solve(weight, source, wanted, kept, settings)
        erasing = (source @ solved.T - wanted @ weight.T).square().sum(1).mean()
        change = solved - weight
        preservation = ((change @ products) * change).sum() / max(1, len(kept))
        yield name, solved.float(), float(erasing), float(preservation)
