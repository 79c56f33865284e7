"""What an attack is run against and with, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline

from ..generation.sampler import encode_images, sample, sample_embeddings
from ..randomness import generator
from ..spec import Generation

ATTACK, CONTROL = "attack", "control"


@dataclass(frozen=True)
class Attempt:
    """One image: what was spent on it, the prompt and seed it was drawn with, and pixels uint8 [H, W, 3].

    role is "attack", or "control" for an image that the judge would only name the concept for by mistake.
    """

    budget: float
    prompt: str
    seed: int
    image: np.ndarray
    role: str = ATTACK


@dataclass(frozen=True)
class Target:
    """A model under attack, and what the attacker has at hand."""

    pipeline: DiffusionPipeline
    concept: str
    names: list[str]
    """The concept and its synonyms."""
    prompts: list[str]
    """Plain prompts for the concept."""
    unrelated_prompts: list[str]
    """Plain prompts for things that are neither the concept nor near it."""
    images: np.ndarray
    """Images of the concept, uint8 [N, H, W, 3]."""
    related: tuple[np.ndarray, list[str]]
    """Images of near concepts, without the concept, and their prompts."""
    unrelated: tuple[np.ndarray, list[str]]
    """Images of far concepts, and their prompts."""
    generation: Generation
    seed: int
    controlled: bool = True
    """Whether the control's images are wanted."""

    def generator(self, *names: object) -> torch.Generator:
        """The random stream of one purpose: the same for every model that is attacked."""
        return generator(self.seed, "attack", self.concept, *names)

    def seeds(self, count: int) -> list[int]:
        """The seeds that images are judged with."""
        return torch.randint(2**31, (count,), generator=self.generator("seeds")).tolist()

    def latents(self, images: np.ndarray) -> torch.Tensor:
        """Clean latents z_0 [N, C, h, w] of images."""
        return encode_images(self.pipeline, images)

    def draw(
        self,
        budget: float,
        prompts: Sequence[str],
        *,
        role: str = ATTACK,
        conditions: Sequence[torch.Tensor] | None = None,
        pipeline: DiffusionPipeline | None = None,
        clean: torch.Tensor | None = None,
        strength: float = 1.0,
    ) -> list[Attempt]:
        """Draw one image for each prompt; none for a control that is not wanted.

        conditions: the prompts' embeddings, where they are not those of the words. pipeline: another model than the target's.
        clean, strength: latents that the sampling starts from, as in `sample_embeddings`.
        """
        if role == CONTROL and not self.controlled:
            return []
        model, seeds = pipeline or self.pipeline, list(self.seeds(len(prompts)))
        if conditions is None:
            batches = sample(model, list(prompts), seeds, self.generation, clean, strength)
        else:
            batches = sample_embeddings(model, conditions, seeds, self.generation, clean, strength)
        images = np.concatenate(list(batches))
        return [Attempt(budget, *row, role) for row in zip(prompts, seeds, images)]

    def control(self, budget: float, count: int, pipeline: DiffusionPipeline | None = None) -> list[Attempt]:
        """Images of unrelated prompts: how often the judge names the concept where there is none."""
        return self.draw(budget, repeated(self.unrelated_prompts, count), role=CONTROL, pipeline=pipeline)


def repeated(items: Sequence, count: int) -> list:
    """The items in turn, `count` of them."""
    return [items[i % len(items)] for i in range(count)]
