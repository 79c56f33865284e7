"""Reading the cross-attention's probabilities while a UNet runs."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel


class RecordingProcessor:
    """Plain attention that also keeps its probabilities [B · heads, pixels, tokens] in `seen`."""

    def __init__(self, seen: list[torch.Tensor]):
        self.seen = seen

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        """hidden_states: [B, pixels, d]; encoder_hidden_states: [B, tokens, d_c]. Returns [B, pixels, d]."""
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = attn.get_attention_scores(query, key, attention_mask)
        self.seen.append(probabilities)
        attended = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](attended))


def record_attention(unet: UNet2DConditionModel) -> list[torch.Tensor]:
    """From now on every cross-attention layer of `unet` appends its probabilities to the list that is returned."""
    seen: list[torch.Tensor] = []
    unet.set_attn_processor(
        {
            name: RecordingProcessor(seen) if ".attn2." in name else processor
            for name, processor in unet.attn_processors.items()
        }
    )
    return seen
