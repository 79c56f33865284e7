"""How good the world is: what the judges say of its images, on seeds that nothing was chosen by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from ..generation.sampler import sample
from ..metrics.judge import Judge
from ..pictures import encode_png, grid
from ..spec import Generation
from .augment import draw
from .catalogue import STYLES, concepts, with_article
from .train_judges import held_out_accuracy

FIRST_SEED = 70_000
"""Seeds from here on are used for measuring only."""
SHEET_SEEDS = 4


def measure(
    pipeline: StableDiffusionPipeline,
    concept_judge: Judge,
    style_judge: Judge,
    rgba: torch.Tensor | None,
    settings: Generation,
    images_per_concept: int,
    every: int = 1,
    progress=lambda done, total: None,
) -> tuple[dict[str, float], dict[str, float], np.ndarray]:
    """The world's figures, each concept's top-1, and a contact sheet uint8 [H, W, 3].

    concept_top_1: over images_per_concept images of "a {concept}". style_top_1: over one image of every concept in every
    style. With the renders at hand also the judges' accuracy on held-out augmentations and on the autoencoder's
    reconstructions. Only every `every`-th concept is drawn.
    """
    words = [c.word for c in concepts()][::every]
    named = [(with_article(f"a {w}"), FIRST_SEED + i, w) for w in words for i in range(images_per_concept)]
    pairs = [(w, s) for w in words for s in STYLES]
    styled = [(with_article(f"a {w} in {s} style"), FIRST_SEED + i, s) for i, (w, s) in enumerate(pairs)]
    made = []
    for batch in sample(pipeline, [p for p, _, _ in named + styled], [s for _, s, _ in named + styled], settings):
        made.append(batch)
        progress(sum(map(len, made)), len(named) + len(styled))
    images = np.concatenate(made)
    seen, _ = concept_judge.classify(images[: len(named)])
    hits = np.array([labels[0] == word for labels, (_, _, word) in zip(seen, named)]).reshape(len(words), -1)
    styles, _ = style_judge.classify(images[len(named) :])
    figures = {
        "concept_top_1": float(hits.mean()),
        "style_top_1": float(np.mean([labels[0] == style for labels, (_, _, style) in zip(styles, styled)])),
    }
    if rgba is not None:
        for which, judge in (("concept", concept_judge), ("style", style_judge)):
            figures[f"{which}_judge_held_out"] = held_out_accuracy(which, judge.model, rgba)
        figures["concept_judge_on_reconstructions"] = reconstruction_accuracy(pipeline, concept_judge, rgba)
    each = images[: len(named)].reshape(len(words), images_per_concept, *images.shape[1:])[:, :SHEET_SEEDS]
    sheet = grid(each.reshape(-1, *images.shape[1:]), columns=SHEET_SEEDS * 7)
    return figures, dict(zip(words, hits.mean(1).tolist())), sheet


@torch.inference_mode()
def reconstruction_accuracy(pipeline: StableDiffusionPipeline, judge: Judge, rgba: torch.Tensor) -> float:
    """Top-1 of the concept judge on what the autoencoder makes of the renders: no generator on it can do better."""
    rng, hits = np.random.default_rng(FIRST_SEED), 0
    for start in range(0, len(rgba), 64):
        drawn = draw(rgba[start : start + 64], rng).to(pipeline.device)
        latents = pipeline.vae.encode(drawn).latent_dist.mean
        made = pipeline.vae.decode(latents).sample.clamp(-1, 1)
        truth = torch.arange(start, start + len(latents)) // len(STYLES)
        hits += int((judge.model(pixel_values=made).logits.argmax(1).cpu() == truth).sum())
    return hits / len(rgba)


def write_sheet(path: Path, sheet: np.ndarray) -> None:
    path.write_bytes(encode_png(sheet))
