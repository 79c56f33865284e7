"""No search: preserved concepts are drawn evenly."""

from __future__ import annotations

import torch

from .choice import Choice


class UniformChoice:
    """Preserve words drawn evenly from the candidates; nothing is learned."""

    def __init__(self, words: list[str], embeddings: torch.Tensor):
        self.words, self.embeddings = words, embeddings

    def choose(self, count: int, rng: torch.Generator) -> Choice:
        rows = torch.randint(len(self.words), (count,), generator=rng).to(self.embeddings.device)
        even = torch.full((count, len(self.words)), 1 / len(self.words), device=self.embeddings.device)
        return Choice([self.words[row] for row in rows], rows, even[:, 0], self.embeddings[rows], even)
