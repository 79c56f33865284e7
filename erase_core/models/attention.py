"""Reading the cross-attention's probabilities while a UNet runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from diffusers import UNet2DConditionModel


class RecordingProcessor:
    """Plain attention that also gives its probabilities [B · heads, pixels, tokens] to a record, while that is kept."""

    def __init__(self, record: AttentionRecord):
        self.record = record

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        """hidden_states: [B, pixels, d]; encoder_hidden_states: [B, tokens, d_c]. Returns [B, pixels, d]."""
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        if self.record.seen is not None:
            self.record.seen.append(probabilities)
        attended = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](attended))


class AttentionRecord:
    """The probabilities of every cross-attention layer of a UNet, a layer each, whenever they are recorded."""

    def __init__(self, unet: UNet2DConditionModel):
        """Replaces the UNet's cross-attention processors."""
        self.seen: list[torch.Tensor] | None = None
        unet.set_attn_processor(
            {
                name: RecordingProcessor(self) if ".attn2." in name else processor
                for name, processor in unet.attn_processors.items()
            }
        )

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[torch.Tensor]]:
        """Yield the list that the block's calls of the UNet fill."""
        self.seen = seen = []
        try:
            yield seen
        finally:
            self.seen = None
