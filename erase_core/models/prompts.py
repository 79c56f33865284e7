"""Prompt embeddings: what the UNet's cross-attention reads."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..cores import share_rows
from .conditions import layout_of


def text_encoders(pipeline: DiffusionPipeline) -> list[tuple[PreTrainedTokenizerBase, PreTrainedModel]]:
    """Every text encoder of the pipeline with its tokenizer."""
    parts = [(pipeline.tokenizer, pipeline.text_encoder)]
    if isinstance(pipeline, StableDiffusionXLPipeline):
        parts.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    return parts


def embed(pipeline: DiffusionPipeline, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens' embeddings [B, L, d] and the pooled embeddings [B, p] of one batch; gradients flow where they are on.

    SDXL's are the last but one hidden states of both text encoders, side by side, and the second one's projection.
    """
    parts, outputs = text_encoders(pipeline), []
    for tokenizer, encoder in parts:
        tokens = tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=min(tokenizer.model_max_length, encoder.config.max_position_embeddings),
            return_tensors="pt",
        )
        outputs.append(encoder(tokens.input_ids.to(encoder.device), output_hidden_states=len(parts) == 2))
    if len(parts) == 2:
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[-1].text_embeds
    return outputs[0].last_hidden_state, outputs[0].pooler_output


@torch.inference_mode()
def encode_batches(
    pipeline: DiffusionPipeline, texts: list[str], batch_size: int = 256
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, batch by batch and in order, what `embed` gives of the texts."""
    work = functools.partial(embed, pipeline)
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        yield share_rows(work, part) if pipeline.device.type == "cpu" else work(part)


def encode(pipeline: DiffusionPipeline, texts: list[str], empty_as_text: bool = False) -> torch.Tensor:
    """Conditions [N, R, d] of texts (see `conditions.Layout`), in float32.

    A pipeline with force_zeros_for_empty_prompt was trained with zeros in place of the embedding of "", and gets them,
    unless empty_as_text is true.
    """
    layout = layout_of(pipeline)
    with torch.no_grad():
        found = torch.cat([layout.pack(*parts).float() for parts in encode_batches(pipeline, texts)])
        if pipeline.config.get("force_zeros_for_empty_prompt") and not empty_as_text:
            found[[not text for text in texts]] = 0
    return found
