"""Named random streams: every draw comes from the spec's seed and a name, never from a shared state."""

from __future__ import annotations

import torch

from .files import digest


def generator(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for one purpose; the same seed and names give the same stream on every rank and after a restart."""
    return torch.Generator().manual_seed(int(digest(seed, *names), 16) % 2**63)
