"""What a search hands to a training step."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Choice:
    """A draw of B concepts c_a.

    embeddings [B, L, d] are the conditions themselves. words are those whose trajectories give the latents, and
    word_embeddings [B, L, d] theirs: the same as `embeddings` unless a condition is a mixture or no word at all.
    weights [B, K] are what a search needs for its gradient, or None.
    """

    words: list[str]
    embeddings: torch.Tensor
    word_embeddings: torch.Tensor
    weights: torch.Tensor | None = None

    @property
    def exact(self) -> bool:
        """Whether the conditions are the words themselves."""
        return self.embeddings is self.word_embeddings
