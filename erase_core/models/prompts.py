"""Prompt embeddings: what the UNet's cross-attention reads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import StableDiffusionPipeline


@torch.inference_mode()
def encode_batches(
    pipeline: StableDiffusionPipeline, texts: list[str], batch_size: int = 256
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, batch by batch and in order, the prompt embeddings [B, L, d] and pooled embeddings [B, d]."""
    for start in range(0, len(texts), batch_size):
        tokens = pipeline.tokenizer(
            texts[start : start + batch_size],
            padding="max_length",
            truncation=True,
            max_length=pipeline.tokenizer.model_max_length,
            return_tensors="pt",
        )
        output = pipeline.text_encoder(tokens.input_ids.to(pipeline.device))
        yield output.last_hidden_state, output.pooler_output


def encode(pipeline: StableDiffusionPipeline, texts: list[str]) -> torch.Tensor:
    """Prompt embeddings [N, L, d] of texts."""
    with torch.no_grad():
        return torch.cat([embedding.clone() for embedding, _ in encode_batches(pipeline, texts)])
