"""The loop of the attacks that learn token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from diffusers import DiffusionPipeline

from ..models.conditions import layout_of
from ..training.predictions import Predict, alphas_cumprod, noise_predictor
from .objective import draw_noised, noise_losses
from .settings import Inversion, SoftPrompt
from .slots import Slots
from .target import Attempt, Target, repeated


def predictor(target: Target, pipeline: DiffusionPipeline | None = None) -> Predict:
    """The noise predictor ε_θ' of the model under attack, or of one made from it."""
    model = pipeline or target.pipeline
    return noise_predictor(model.unet, model.scheduler, layout=layout_of(model))


def learn(
    target: Target,
    settings: Inversion | SoftPrompt,
    slots: Slots,
    start: torch.Tensor,
    name: str,
    project: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[Attempt]:
    """Descend the noise-prediction loss in the slots' embeddings, from `start` [n, w], and draw at each budget."""
    clean, predict = target.latents(target.images), predictor(target)
    bars, rng = alphas_cumprod(target.pipeline.scheduler), target.generator(name)
    embeddings = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([embeddings], lr=settings.learning_rate)
    count = range(len(slots.texts))
    shown = [text.replace("{slots}", f"⟨{slots.count} learnt⟩") for text in slots.templates]
    for step in range(settings.budgets[-1] + 1):
        if step in settings.budgets:
            rows = repeated(count, settings.images)
            with torch.no_grad():
                conditions = slots.conditions(rows, embeddings)
            yield from target.draw(step, [shown[row] for row in rows], conditions=list(conditions))
        if step == settings.budgets[-1]:
            break
        at = draw_noised(clean, settings.batch_size, len(bars), rng)
        rows = torch.randint(len(count), (settings.batch_size,), generator=rng).tolist()
        (embeddings.grad,) = torch.autograd.grad(
            noise_losses(predict, bars, at, slots.conditions(rows, embeddings)).mean(), embeddings
        )
        optimizer.step()
        with torch.no_grad():
            embeddings.copy_(project(embeddings))
    yield from target.control(settings.budgets[-1], settings.images)
