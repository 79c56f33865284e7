"""Prompt embeddings: what the UNet's cross-attention reads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..cores import share_rows
from ..cpu_kernels import cpu_forwards, using
from .conditions import layout_of

FEWEST_ALIKE = 64
"""So many texts of one length are encoded by themselves; fewer are padded and go with the next longer ones."""


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
    return embed_tokens(pipeline, *tokens_of(pipeline, texts))


def tokens_of(pipeline: DiffusionPipeline, texts: list[str]) -> list[torch.Tensor]:
    """What each text encoder reads of the texts [B, L]."""
    return [
        tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=tokens_read(tokenizer, encoder),
            return_tensors="pt",
        ).input_ids
        for tokenizer, encoder in text_encoders(pipeline)
    ]


def embed_tokens(pipeline: DiffusionPipeline, *tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `embed`, of each text encoder's tokens [B, L]."""
    outputs = [
        encoder(ids.to(encoder.device), output_hidden_states=len(tokens) == 2)
        for ids, (_, encoder) in zip(tokens, text_encoders(pipeline))
    ]
    if len(tokens) == 2:
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[-1].text_embeds
    return outputs[0].last_hidden_state, outputs[0].pooler_output


def tokens_read(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel) -> int:
    """L, how many tokens of a text the encoder reads."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def encoded(pipeline: DiffusionPipeline, work: Callable, *part: Sequence) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """What `work` gives of a batch of texts' tokens: on a CPU shared among its cores, and by the layers' faster ways."""
    if pipeline.device.type != "cpu":
        return work(*part)
    forwards = [cpu_forwards(encoder) for _, encoder in text_encoders(pipeline)]
    with using({layer: forward for found in forwards for layer, forward in found.items()}):
        return share_rows(work, *part)


@torch.inference_mode()
def encode_batches(
    pipeline: DiffusionPipeline, texts: list[str], batch_size: int = 256
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, batch by batch and in order, what `embed` gives of the texts."""
    work = functools.partial(embed_tokens, pipeline)
    for start in range(0, len(texts), batch_size):
        # A tokenizer is not for several threads at once.
        yield encoded(pipeline, work, *tokens_of(pipeline, texts[start : start + batch_size]))


@torch.inference_mode()
def encode_pooled(
    pipeline: DiffusionPipeline,
    texts: list[str],
    batch_size: int = 512,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> torch.Tensor:
    """The pooled embeddings [N, p] of texts, as `embed` gives them; texts of a length are encoded together, hardly padded.

    A token reads none behind it, and the pooled embedding is the last token's: what is behind it changes nothing.
    """
    tokenizer, encoder = text_encoders(pipeline)[-1]
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(tokens_read(tokenizer, encoder))
    backend.no_padding()
    # A tokenizer's own call also says where in its text each token stands, for twice the time.
    tokens = [encoding.ids for encoding in backend.encode_batch_fast(texts)]

    def work(rows: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, rows))
        padded = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
        output = encoder(torch.tensor(padded, device=encoder.device))
        return output.text_embeds if "text_embeds" in output else output.pooler_output

    found, order = [], sorted(range(len(texts)), key=lambda at: len(tokens[at]))
    for part in alike(order, [len(tokens[at]) for at in order], batch_size):
        found.append(encoded(pipeline, work, [tokens[at] for at in part]))
        progress(sum(map(len, found)), len(texts))
    return torch.cat(found)[torch.tensor(order).argsort()]


def alike(items: list[int], lengths: list[int], most: int) -> Iterator[list[int]]:
    """Items in the order of their lengths, in parts of at most `most` and of one length; those of rare lengths in one part."""
    part: list[int] = []
    for at, (item, length) in enumerate(zip(items, lengths)):
        if len(part) == most or (len(part) >= FEWEST_ALIKE and length != lengths[at - 1]):
            yield part
            part = []
        part.append(item)
    if part:
        yield part


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
