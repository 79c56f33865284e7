"""Prompts in which some tokens' embeddings are given by hand, so that a search can have their gradient."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import torch
from diffusers import DiffusionPipeline
from transformers import PreTrainedTokenizerBase

from ..models.conditions import layout_of
from ..models.prompts import embed, text_encoders

FILLERS = "xqzjkvw"
"""Words that hold the place of a slot in the text, before any other of the tokenizer's."""


class Slots:
    """`count` free tokens in prompts. A template has {slots} where they stand."""

    def __init__(self, pipeline: DiffusionPipeline, templates: list[str], count: int):
        """Raises ValueError when a prompt is too long for the text encoder to read the slots."""
        self.pipeline, self.templates, self.count = pipeline, templates, count
        tokenizer = pipeline.tokenizer
        word, self.filler = filler_of(tokenizer, [template.replace("{slots}", "") for template in templates])
        self.texts = [template.replace("{slots}", " ".join([word] * count)) for template in templates]
        seen = tokenizer(self.texts, truncation=True, max_length=tokenizer.model_max_length).input_ids
        if any(row.count(self.filler) != count for row in seen):
            raise ValueError(
                f"attacks: {count} more tokens do not fit into the prompt; use fewer tokens or a shorter prompt"
            )

    def conditions(self, rows: list[int], embeddings: torch.Tensor) -> torch.Tensor:
        """Conditions [B, R, d] of templates number `rows` with the slots' token embeddings [n, w] or [B, n, w].

        w is the width of the token table, of both tables side by side for two text encoders. Gradients flow to `embeddings`.
        """
        spread = embeddings.expand(len(rows), -1, -1)
        with placed(self.pipeline, self.filler, spread):
            return layout_of(self.pipeline).pack(*embed(self.pipeline, [self.texts[row] for row in rows]))


def filler_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[str, int]:
    """A word of one token that the texts do not have, and the token's number."""
    used = {number for row in tokenizer(texts, add_special_tokens=False).input_ids for number in row}
    tokens = (token.removesuffix("</w>") for token in tokenizer.get_vocab())
    for word in itertools.chain(FILLERS, (token for token in tokens if token.isascii() and token.isalpha())):
        numbers = tokenizer(word, add_special_tokens=False).input_ids
        if len(numbers) == 1 and not used.issuperset(numbers):
            return word, numbers[0]
    raise ValueError("attacks: the prompts have every word of the tokenizer; give fewer of them")


def token_table(pipeline: DiffusionPipeline) -> torch.Tensor:
    """The token embeddings [V, w]; both encoders' side by side where there are two."""
    tables = [encoder.get_input_embeddings().weight.detach().float() for _, encoder in text_encoders(pipeline)]
    return torch.cat(tables, dim=1)


@contextlib.contextmanager
def placed(pipeline: DiffusionPipeline, filler: int, embeddings: torch.Tensor) -> Iterator[None]:
    """Within the block, the text encoders read `embeddings` [B, n, w] in place of the filler tokens, in order."""
    tables = [encoder.get_input_embeddings() for _, encoder in text_encoders(pipeline)]
    parts = embeddings.split([table.weight.shape[1] for table in tables], dim=-1)

    def hook_of(part: torch.Tensor):
        def replace(module, inputs, output):
            filled = output.clone()
            filled[inputs[0] == filler] = part.flatten(0, 1).to(output)
            return filled

        return replace

    hooks = [table.register_forward_hook(hook_of(part)) for table, part in zip(tables, parts)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
