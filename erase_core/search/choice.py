"""What a search hands to a training step."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Choice:
    """A draw of B preserved concepts. rows [B] index the candidates; embeddings [B, L, d] are the mixtures G(π) ⊙ R.

    For a soft mixture, `rows` holds the heaviest word. weights [B, K] are the softmax weights that gradients go through.
    """

    words: list[str]
    rows: torch.Tensor
    probabilities: torch.Tensor
    embeddings: torch.Tensor
    weights: torch.Tensor
