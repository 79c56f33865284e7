"""A few steps of ordinary training on images that do not show the concept, then plain prompts for it.

    min_θ' L(c, θ') over images z_0 with their own prompts c, L of `objective`

An erasure that only hides the concept comes undone when the weights move a little in any direction that training likes; the
attacker has the weights and never shows them the concept, so what comes back was there. Control: unrelated prompts under the
fine-tuned model.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..models.pipeline import twin, with_unet
from ..models.prompts import encode
from ..models.trainable import trainable_names
from ..training.predictions import alphas_cumprod
from .learning import predictor
from .objective import draw_noised, noise_losses
from .settings import FineTuning
from .target import Attempt, Target, repeated


def tune(target: Target, settings: FineTuning, images: tuple[np.ndarray, list[str]], name: str) -> Iterator[Attempt]:
    """Train a copy of the UNet on images [N, H, W, 3] and their prompts, and draw the concept's prompts at each budget."""
    pixels, prompts = images
    clean, conditions = target.latents(pixels), encode(target.pipeline, prompts)
    trained = trainable_names(target.pipeline.unet, settings.trainable)
    unet = twin(target.pipeline.unet, trained)
    tuned, wanted = with_unet(target.pipeline, unet), set(trained)
    parameters = [p.requires_grad_(True) for weight, p in unet.named_parameters() if weight in wanted]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    predict = predictor(target, tuned)
    bars, rng = alphas_cumprod(target.pipeline.scheduler), target.generator(name)
    for step in range(settings.budgets[-1] + 1):
        if step in settings.budgets:
            yield from target.draw(step, repeated(target.prompts, settings.images), pipeline=tuned)
        if step == settings.budgets[-1]:
            break
        at = draw_noised(clean, settings.batch_size, len(bars), rng)
        optimizer.zero_grad()
        noise_losses(predict, bars, at, conditions[at.rows]).mean().backward()
        optimizer.step()
    yield from target.control(settings.budgets[-1], settings.images, tuned)
