"""Continuous search: projected gradient ascent on an embedding, in a ball around the erased concept's."""

from __future__ import annotations

import torch

from ..randomness import Streams
from .choice import Choice
from .rows import Rows, nearest_row


class ProjectedSearch:
    """c_a ← Π(c_a + α g), from c_a = c_e, with g the gradient's direction (L2) or sign (L∞)."""

    searches = True

    def __init__(
        self,
        concept: str,
        start: torch.Tensor,
        words: list[str],
        embeddings: Rows,
        *,
        norm: str,
        radius: float,
        step_size: float,
    ):
        """start: c_e [L, d]. words, embeddings [K, L, d]: the vocabulary that distances are told to.

        radius and step_size are shares of c_e's norm for "l2" and of its root mean square for "linf".
        """
        self.concept, self.start, self.position = concept, start, start.clone()
        self.words, self.embeddings, self.norm = words, embeddings, norm
        unit = float(start.norm()) if norm == "l2" else float(start.square().mean().sqrt())
        self.radius, self.step_size = radius * unit, step_size * unit
        # What is nearest to where c_a was last asked for: finding it reads every word.
        self.near: tuple[torch.Tensor | None, int, float] = (None, 0, 0.0)

    def choose(self, streams: Streams) -> Choice:
        """The same c_a for all streams, at latents of c_e."""
        count = len(streams)
        return Choice(
            [self.concept] * count, self.position.expand(count, -1, -1), self.start.expand(count, -1, -1), None
        )

    def gradient(self, choice: Choice, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient to c_a [L, d] from that to its B copies [B, L, d]."""
        return gradient.sum(0)

    def ascend(self, gradient: torch.Tensor) -> None:
        """One projected step up the gradient [L, d]."""
        if self.norm == "linf":
            moved = self.position + self.step_size * gradient.sign()
            self.position = self.start + (moved - self.start).clamp(-self.radius, self.radius)
            return
        away = self.position + self.step_size * gradient / gradient.norm().clamp(min=1e-12) - self.start
        self.position = self.start + away * (self.radius / away.norm().clamp(min=1e-12)).clamp(max=1)

    def favourite(self, choice: Choice) -> tuple[str, float | None, float]:
        """The word nearest to c_a, no probability, and c_a's distance from that word."""
        if self.near[0] is not self.position:
            self.near = (self.position, *nearest_row(self.embeddings, self.position))
        _, best, distance = self.near
        return self.words[best], None, distance

    def searched(self) -> torch.Tensor:
        """c_a [L, d]."""
        return self.position

    def state_dict(self) -> dict:
        return {"position": self.position.clone()}

    def load_state_dict(self, state: dict) -> None:
        self.position = state["position"].to(self.start.device)
