"""No search: c_a is drawn evenly."""

from __future__ import annotations

from ..randomness import Streams
from .choice import Choice
from .rows import Rows, drawn, homes


class UniformChoice:
    """Words drawn evenly from the candidates; nothing is learned."""

    searches = False

    def __init__(self, words: list[str], embeddings: Rows, with_trajectories: int | None = None):
        """embeddings: the candidates' prompt embeddings [K, L, d]. with_trajectories: how many have trajectories of their own."""
        self.words, self.embeddings = words, embeddings
        self.homes = homes(embeddings, with_trajectories)

    def choose(self, streams: Streams) -> Choice:
        rows = streams.integers(len(self.words))
        return drawn(self.words, self.embeddings, rows, self.homes)

    def favourite(self, choice: Choice) -> tuple[str, float, float]:
        """The first word drawn, its probability, and no distance from it."""
        return choice.words[0], 1 / len(self.words), 0.0
