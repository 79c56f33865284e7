"""Prompt embeddings: what the UNet's cross-attention reads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

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
            max_length=tokens_read(tokenizer, encoder),
            return_tensors="pt",
        )
        outputs.append(encoder(tokens.input_ids.to(encoder.device), output_hidden_states=len(parts) == 2))
    if len(parts) == 2:
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[-1].text_embeds
    return outputs[0].last_hidden_state, outputs[0].pooler_output


def embed_pooled(pipeline: DiffusionPipeline, texts: list[str]) -> torch.Tensor:
    """The pooled embeddings [B, p] alone, as `embed` gives them, without the rows of padding behind the longest text.

    A token reads none behind it, and the pooled embedding is the last token's: what is behind it changes nothing.
    """
    tokenizer, encoder = text_encoders(pipeline)[-1]
    tokens = tokenizer(
        texts, padding=True, truncation=True, max_length=tokens_read(tokenizer, encoder), return_tensors="pt"
    )
    output = encoder(tokens.input_ids.to(encoder.device))
    return output.text_embeds if "text_embeds" in output else output.pooler_output


def tokens_read(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel) -> int:
    """L, how many tokens of a text the encoder reads."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


@torch.inference_mode()
def encode_batches(
    pipeline: DiffusionPipeline, texts: list[str], batch_size: int = 256
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, batch by batch and in order, what `embed` gives of the texts."""
    work = functools.partial(embed, pipeline)
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        yield share_rows(work, part) if pipeline.device.type == "cpu" else work(part)


@torch.inference_mode()
def encode_pooled(
    pipeline: DiffusionPipeline,
    texts: list[str],
    batch_size: int = 1024,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> torch.Tensor:
    """The pooled embeddings [N, p] of texts, in their order; texts of one length are encoded together."""
    tokenizer, encoder = text_encoders(pipeline)[-1]
    tokens = tokenizer(texts, truncation=True, max_length=tokens_read(tokenizer, encoder)).input_ids
    order = sorted(range(len(texts)), key=lambda at: len(tokens[at]))
    work, found = functools.partial(embed_pooled, pipeline), []
    for start in range(0, len(order), batch_size):
        part = [texts[at] for at in order[start : start + batch_size]]
        found.append(share_rows(work, part) if pipeline.device.type == "cpu" else work(part))
        progress(start + len(part), len(order))
    return torch.cat(found)[torch.tensor(order).argsort()]


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
