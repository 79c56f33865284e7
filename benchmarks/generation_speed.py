"""Images by the batched sampler against a loop of stock pipeline calls, and how few steps are enough."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline

from erase_core.emoji_world.catalogue import concepts, with_article
from erase_core.generation.sampler import SAMPLERS, make_scheduler, sample
from erase_core.metrics.judge import Judge
from erase_core.models.source import WEIGHTS
from erase_core.spec import Generation

from .pairs import Ratio, compared

PROMPTS = [with_article(f"a {concept.word}") for concept in concepts()[:16]]
SEEDS = (0, 1, 2, 3)
STEPS = (5, 8, 10, 15, 20, 30)


def stock(pipeline: StableDiffusionPipeline, settings: Generation) -> np.ndarray:
    """One call of the stock pipeline an image, images uint8 [N, H, W, 3]."""
    own = StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    images = []
    for prompt in PROMPTS:
        for seed in SEEDS:
            own.scheduler = make_scheduler(pipeline, settings)
            found = own(
                prompt,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            )
            images.append((found.images[0] * 255).round().astype(np.uint8))
    return np.stack(images)


def batched(pipeline: StableDiffusionPipeline, settings: Generation) -> np.ndarray:
    """The same images by `sample`."""
    pairs = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
    return np.concatenate(list(sample(pipeline, [p for p, _ in pairs], [s for _, s in pairs], settings)))


def measure(pipeline: StableDiffusionPipeline, rounds: int) -> tuple[list[Ratio], dict[str, float]]:
    """The ratio for each sampler at 15 steps, and the mean difference of the images, in levels of 255."""
    ratios, apart = [], {}
    for name in SAMPLERS:
        settings = Generation(sampler=name, steps=15)
        ours, theirs = batched(pipeline, settings), stock(pipeline, settings)
        apart[name] = float(np.abs(ours.astype(float) - theirs.astype(float)).mean())
        ratios.append(
            compared(
                f"{len(ours)} images, {name}, 15 steps",
                lambda settings=settings: batched(pipeline, settings),
                lambda settings=settings: stock(pipeline, settings),
                rounds,
            )
        )
    return ratios, apart


def judged(pipeline: StableDiffusionPipeline) -> pd.DataFrame:
    """How many images of every concept the judge names right, a row a sampler and number of steps, 50 DDIM steps first."""
    judge = Judge(WEIGHTS / "concept_judge")
    words = [concept.word for concept in concepts()]
    rows = []
    for sampler, steps in [("ddim", 50), *((name, n) for name in SAMPLERS for n in STEPS)]:
        settings = Generation(sampler=sampler, steps=steps)
        prompts = [with_article(f"a {word}") for word in words]
        right = []
        for batch in sample(pipeline, prompts, [0] * len(prompts), settings):
            right += [labels[0] for labels in judge.classify(batch)[0]]
        rows.append(
            {"sampler": sampler, "steps": steps, "right": float(np.mean([a == b for a, b in zip(right, words)]))}
        )
    return pd.DataFrame(rows)
