"""Named random streams: every draw comes from the spec's seed and a name, never from a shared state."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .files import digest


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for one purpose; the same seed and names give the same stream on every rank and after a restart."""
    return torch.Generator().manual_seed(int(digest(seed, *names), 16) % 2**63)


class Streams:
    """One random stream for each sample of a batch, and one, `shared`, for what all samples have in common.

    A sample's stream is named by its index in the global batch. What a sample draws thus depends neither on the rank that
    it falls to nor on how many ranks there are, and no two samples draw the same.
    """

    def __init__(self, seed: int, *names: object, samples: Iterable[int]):
        self.samples = [generator(seed, *names, "sample", index) for index in samples]
        self.shared = generator(seed, *names, "shared")

    def __len__(self) -> int:
        return len(self.samples)

    def integers(self, high: int) -> torch.Tensor:
        """An integer below `high` for each sample; int64 [B]."""
        return torch.cat([torch.randint(high, (1,), generator=stream) for stream in self.samples])

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform in [0, 1); float32 [B, *shape]."""
        return torch.stack([torch.rand(*shape, generator=stream) for stream in self.samples])

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal; float32 [B, *shape]."""
        return torch.stack([torch.randn(*shape, generator=stream) for stream in self.samples])
