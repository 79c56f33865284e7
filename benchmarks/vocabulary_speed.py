"""Encoding a vocabulary against one call a word, and the top-K against reading the bytes once."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from erase_core.concepts.embeddings import EmbeddingTable, write_embeddings
from erase_core.concepts.nearest import top_k
from erase_core.concepts.vocabulary import candidates
from erase_core.models.prompts import encode, encode_pooled

from .pairs import Ratio, compared

SAMPLE = 4096


def one_by_one(pipeline: StableDiffusionPipeline, words: list[str], padding: str | bool = "max_length") -> list:
    """One call of the tokenizer and of the text encoder for each word, [1, L, d] each; without padding L is the word's own."""
    found = []
    with torch.no_grad():
        for word in words:
            tokens = pipeline.tokenizer(
                word,
                padding=padding,
                truncation=True,
                max_length=pipeline.tokenizer.model_max_length,
                return_tensors="pt",
            )
            found.append(pipeline.text_encoder(tokens.input_ids).last_hidden_state)
    return found


def measure(pipeline: StableDiffusionPipeline, rounds: int) -> list[Ratio]:
    """Encoding is compared on a sample of the tokens, since one call a word takes minutes for all 49,408."""
    tokens = [candidate.word for candidate in candidates("clip-tokens", pipeline.tokenizer.get_vocab)]
    sample = tokens[:: len(tokens) // SAMPLE][:SAMPLE]
    whole, pooled = (functools.partial(way, pipeline, sample) for way in (encode, encode_pooled))
    sides = {
        "whole, batched / one call a token": (whole, "max_length"),
        "to pooled embeddings, batched / one call a token, as the UNet reads it": (pooled, "max_length"),
        "to pooled embeddings, batched / one call a token, without padding": (pooled, False),
    }
    encoding = [
        compared(
            f"encoding {SAMPLE} of the tokens {told}",
            ours,
            functools.partial(one_by_one, pipeline, sample, padding),
            rounds,
        )
        for told, (ours, padding) in sides.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.arrow"
        write_embeddings(path, pipeline, tokens, {})
        table, allowed = EmbeddingTable(path), set(tokens)
        (query,) = encode(pipeline, ["taxi"])

        def passed_over() -> int:
            """Every byte of the map once, eight at a time, on the threads that the other side has."""
            every = np.memmap(path, np.uint8, mode="r")
            return int(torch.from_numpy(every[: len(every) // 8 * 8].view(np.int64)).sum())

        yardsticks = {"reading the file into memory": path.read_bytes, "one pass over the map": passed_over}
        nearest = [
            compared(
                f"top-50 of {len(tokens)} tokens / {told}",
                lambda: top_k(table, query, 50, "cosine", allowed),
                read,
                rounds,
            )
            for told, read in yardsticks.items()
        ]
    return [*encoding, *nearest]
