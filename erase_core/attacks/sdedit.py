"""Noise, then denoising, from an image of the concept (SDEdit; Meng et al., ICLR 2022, arXiv 2108.01073).

    z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) ε   at t = strength · T,   then sampling from z_t under the concept's prompt

The attacker has an image of the concept already, so the success at a low strength says nothing about the model: too little of
the image is gone. Control: the same image, noise and strength under the empty prompt, that is, what the image alone brings
back. Only the distance between the two is the model's own; at strength 1 hardly anything of the image is left.
"""

from __future__ import annotations

from collections.abc import Iterator

from .settings import Sdedit
from .target import CONTROL, Attempt, Target, repeated

UNIT = "strength"


def run(target: Target, settings: Sdedit) -> Iterator[Attempt]:
    clean = target.latents(target.images)
    clean = clean[repeated(range(len(clean)), settings.images)]
    prompts = repeated(target.prompts, settings.images)
    for strength in settings.budgets:
        yield from target.draw(strength, prompts, clean=clean, strength=strength)
        yield from target.draw(strength, [""] * settings.images, role=CONTROL, clean=clean, strength=strength)
