"""Soft-prompt search: free token embeddings before the concept's prompt (the relaxed form of UnlearnDiffAtk, arXiv 2310.11868).

    δ* = argmin_{‖δ_i‖ ≤ r} L(c([δ_1 … δ_n; "a taxi"]), θ'),   L of `objective`; r: the longest row of the token table

Adam steps, each followed by the projection onto the balls. The attacker has the weights and some images of the concept, and
uses its name. Control: unrelated prompts. At budget 0 the prefix is random tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .learning import learn
from .settings import SoftPrompt
from .slots import Slots, token_table
from .target import Attempt, Target

UNIT = "steps"


def project(embeddings: torch.Tensor, radius: float) -> torch.Tensor:
    """Rows [n, d] that are longer than `radius`, cut to it."""
    return embeddings * (radius / embeddings.norm(dim=-1, keepdim=True)).clamp(max=1)


def run(target: Target, settings: SoftPrompt) -> Iterator[Attempt]:
    slots = Slots(target.pipeline, [f"{{slots}} {prompt}" for prompt in target.prompts], settings.tokens)
    table = token_table(target.pipeline)
    rows = torch.randint(len(table), (settings.tokens,), generator=target.generator("soft-prompt", "start"))
    radius = float(table.norm(dim=1).max())
    yield from learn(
        target, settings, slots, table[rows], "soft-prompt", lambda embeddings: project(embeddings, radius)
    )
