"""How c_a is chosen, by the kind that a method's CHOICE names."""

from __future__ import annotations

import torch

from .gumbel import GumbelSearch
from .projected import ProjectedSearch
from .prompt import PromptSearch
from .rows import Rows
from .uniform import UniformChoice

Chooser = GumbelSearch | ProjectedSearch | PromptSearch | UniformChoice


def chooser_of(
    kind: str | None,
    concept: str,
    embedding: torch.Tensor,
    words: list[str],
    candidates: Rows | None,
    settings,
    with_trajectories: int,
) -> Chooser | None:
    """The chooser of one erased concept; None when the method chooses nothing.

    kind: gumbel (π over the candidates), pgd (any embedding near c_e), prompt (learnable tokens); for random, nearest,
    anchor, neutral and fixed an even draw from the candidates. embedding: c_e [L, d]; candidates: [K, L, d].
    with_trajectories: how many candidates have trajectories of their own.
    """
    if kind is None:
        return None
    if kind == "gumbel":
        hard = getattr(settings, "gumbel", "soft") == "hard"
        return GumbelSearch(
            words,
            candidates,
            temperature=settings.temperature,
            learning_rate=settings.search_learning_rate,
            mixed=1 if hard else getattr(settings, "mixed", len(words)),
            with_trajectories=with_trajectories,
        )
    if kind == "pgd":
        return ProjectedSearch(
            concept,
            embedding,
            words,
            candidates,
            norm=settings.norm,
            radius=settings.radius,
            step_size=settings.step_size,
        )
    if kind == "prompt":
        return PromptSearch(
            concept, embedding, tokens=settings.prompt_tokens, learning_rate=settings.search_learning_rate
        )
    return UniformChoice(words, candidates, with_trajectories)
