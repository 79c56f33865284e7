"""CLIP as a zero-shot judge: the class whose description an image resembles most (Radford et al., ICML 2021).

With classes that are artists, and a description such as "a painting in the style of {concept}", it is a classifier of styles.
"""

from __future__ import annotations

import numpy as np
import torch

from .clip_features import ClipFeatures
from .judge import likeliest


class ZeroShotJudge:
    """A judge whose classes are words."""

    def __init__(self, clip: ClipFeatures, classes: list[str], description: str = "a photo of a {concept}"):
        """description: what stands for a class, with {concept} in its place."""
        self.clip, self.labels = clip, list(dict.fromkeys(classes))
        texts = clip.texts([description.replace("{concept}", label) for label in self.labels])
        self.classes = torch.from_numpy(texts)
        self.scale = clip.model.logit_scale.detach().exp().cpu()

    def classify(self, images: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        """As `Judge.classify`: the softmax over classes of the scaled cosine of image and description."""
        return likeliest(self.scale * torch.from_numpy(self.clip.images(images)) @ self.classes.T, self.labels)
