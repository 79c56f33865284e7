"""The attacker in the search: for each sample the prompt near c_e that brings the concept back under θ'.

    c_w = c_e + argmin_{‖δ‖ ≤ r} ‖ε_θ'(z_t, t, c_e + δ) − ε_θ(z_t, t, c_e)‖²

By projected gradient descent in the space of prompt embeddings, as in adversarial training against prompts (RACE, Kim et al.,
ECCV 2024).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..randomness import Streams


def worst_prompts(
    erased: torch.Tensor,
    recovery: Callable[[torch.Tensor], torch.Tensor],
    radius: float,
    steps: int,
    streams: Streams,
) -> torch.Tensor:
    """c_w [B, R, d] for prompts c_e [B, R, d].

    recovery(c [B, R, d]) is the attacker's loss, a scalar. radius is a share of c_e's norm. Each sample has an even share of it for
    its own ball, so that what is erased is erased in the whole of the largest.
    """
    limit = radius * erased.flatten(1).norm(dim=1) * streams.uniform(1)[:, 0].to(erased.device)

    def of_length(direction: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        scale = length / direction.flatten(1).norm(dim=1).clamp(min=1e-12)
        return direction * scale.reshape(-1, *[1] * (direction.ndim - 1))

    start = streams.normal(*erased.shape[1:]).to(erased)
    away = of_length(start, limit * streams.uniform(1)[:, 0].to(erased.device))
    for _ in range(steps):
        at = (erased + away).requires_grad_(True)
        (gradient,) = torch.autograd.grad(recovery(at), at)
        moved = away - of_length(gradient, 2 * limit / steps)
        away = of_length(moved, torch.minimum(moved.flatten(1).norm(dim=1), limit))
    return erased + away
