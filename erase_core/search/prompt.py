"""Learnable prompt tokens that follow the erased concept's own."""

from __future__ import annotations

import copy

import torch

from ..randomness import Streams
from .choice import Choice


class PromptSearch:
    """p [n, d] and Adam on it; drawn as B copies."""

    searches = True

    def __init__(self, concept: str, start: torch.Tensor, *, tokens: int, learning_rate: float):
        """start: c_e [L, d], whose last `tokens` embeddings p begins with."""
        self.concept = concept
        self.tokens = start[-tokens:].clone().requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.tokens], lr=learning_rate, maximize=True)

    def choose(self, streams: Streams) -> Choice:
        drawn = self.tokens.detach().expand(len(streams), -1, -1)
        return Choice([self.concept] * len(streams), drawn, drawn)

    def gradient(self, choice: Choice, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient to p [n, d] from that to its B copies [B, n, d]."""
        return gradient.sum(0)

    def ascend(self, gradient: torch.Tensor) -> None:
        """One Adam step up the gradient [n, d]."""
        self.tokens.grad = gradient
        self.optimizer.step()

    def favourite(self, choice: Choice) -> tuple[None, None, None]:
        """A learnt prompt is no word."""
        return None, None, None

    def searched(self) -> torch.Tensor:
        """p [n, d]."""
        return self.tokens.detach()

    def state_dict(self) -> dict:
        return {"tokens": self.tokens.detach().clone(), "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def load_state_dict(self, state: dict) -> None:
        with torch.no_grad():
            self.tokens.copy_(state["tokens"])
        self.optimizer.load_state_dict(state["optimizer"])
