"""What a search hands to a training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..randomness import Streams


@dataclass(frozen=True)
class Choice:
    """A draw of B concepts c_a.

    embeddings [B, L, d] are the conditions themselves. words are the words that were drawn, and word_embeddings [B, L, d]
    theirs: the same as `embeddings` unless a condition is a mixture or no word at all. weights [B, K] are what a search needs
    for its gradient, or None. home is the words whose trajectories give the latents, with their embeddings, where these are
    not the drawn words' own.
    """

    words: list[str]
    embeddings: torch.Tensor
    word_embeddings: torch.Tensor
    weights: torch.Tensor | None = None
    home: tuple[list[str], torch.Tensor] | None = None

    @property
    def at(self) -> tuple[list[str], torch.Tensor]:
        """The words whose trajectories give the latents, and their embeddings [B, L, d]."""
        return self.home or (self.words, self.word_embeddings)

    @property
    def elsewhere(self) -> list[int]:
        """The draws whose conditions are not those that their latents were sampled under."""
        _, under = self.at
        if self.embeddings is under:
            return []
        return [row for row, pair in enumerate(zip(self.embeddings, under)) if not torch.equal(*pair)]

    @property
    def measurable(self) -> Choice:
        """The words whose trajectories give the latents, under their own embeddings: what the frozen model's predictions are of."""
        words, under = self.at
        return Choice(words, under, under)

    def picked(self, rows: Sequence[int]) -> Choice:
        """Some of the draws of words, without weights."""
        words, embeddings = [self.words[row] for row in rows], self.embeddings[rows]
        home = self.home and ([self.home[0][row] for row in rows], self.home[1][rows])
        if home and home[0] == words:
            home = None
        return Choice(words, embeddings, embeddings, home=home)


@dataclass(frozen=True)
class Given:
    """In a chooser's place where the choice is made already."""

    choice: Choice

    def choose(self, streams: Streams) -> Choice:
        return self.choice
