"""No search: c_a is drawn evenly."""

from __future__ import annotations

import torch

from ..randomness import Streams
from .choice import Choice


class UniformChoice:
    """Words drawn evenly from the candidates; nothing is learned."""

    searches = False

    def __init__(self, words: list[str], embeddings: torch.Tensor):
        """embeddings: the candidates' prompt embeddings [K, L, d]."""
        self.words, self.embeddings = words, embeddings

    def choose(self, streams: Streams) -> Choice:
        rows = streams.integers(len(self.words)).to(self.embeddings.device)
        drawn = self.embeddings[rows]
        return Choice([self.words[row] for row in rows], drawn, drawn)

    def favourite(self, choice: Choice) -> tuple[str, float, float]:
        """The first word drawn, its probability, and no distance from it."""
        return choice.words[0], 1 / len(self.words), 0.0
