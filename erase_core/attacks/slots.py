"""Prompts in which some tokens' embeddings are given by hand, so that a search can have their gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from diffusers import DiffusionPipeline

from ..models.conditions import layout_of
from ..models.prompts import embed, text_encoders

FILLERS = "xqzjkvw"
"""One of these letters holds the place of each slot in the text: the first that the texts do not have as a word."""


class Slots:
    """`count` free tokens in prompts. A template has {slots} where they stand."""

    def __init__(self, pipeline: DiffusionPipeline, templates: list[str], count: int):
        """Raises ValueError when a prompt is too long for the text encoder to read the slots."""
        self.pipeline, self.templates, self.count = pipeline, templates, count
        words = {word.casefold() for template in templates for word in template.split()}
        letter = next(letter for letter in FILLERS if letter not in words)
        self.texts = [template.replace("{slots}", " ".join([letter] * count)) for template in templates]
        tokenizer = pipeline.tokenizer
        (self.filler,) = tokenizer(letter, add_special_tokens=False).input_ids
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
