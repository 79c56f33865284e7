"""CLIP score of an image for its prompt, and the CLIP distance of two images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPModel

from ..models.pipeline import device
from .judge import preprocessing, seen


class ClipFeatures:
    """Unit-length CLIP features of images and texts."""

    def __init__(self, place: str | Path):
        """place: a local folder of a CLIPModel with its tokenizer."""
        self.model = CLIPModel.from_pretrained(
            str(place), use_safetensors=True, local_files_only=True, dtype=torch.float32
        ).eval()
        self.model.to(device())
        self.tokenizer = AutoTokenizer.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
        self.preprocessing = preprocessing(str(place))

    @torch.inference_mode()
    def images(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [N, H, W, 3] → float32 [N, d]."""
        parts = [
            self.model.get_image_features(pixel_values=part.to(device())).pooler_output.cpu()
            for part in seen(images, self.preprocessing)
        ]
        return torch.nn.functional.normalize(torch.cat(parts), dim=1).numpy()

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> np.ndarray:
        """Texts → float32 [N, d]; each distinct text is encoded once."""
        unique = list(dict.fromkeys(texts))
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(unique, padding=True, truncation=True, max_length=length, return_tensors="pt")
        features = self.model.get_text_features(
            input_ids=tokens.input_ids.to(device()), attention_mask=tokens.attention_mask.to(device())
        ).pooler_output.cpu()
        row = {text: i for i, text in enumerate(unique)}
        return torch.nn.functional.normalize(features, dim=1).numpy()[[row[text] for text in texts]]


def clip_score(image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
    """100 · max(cos, 0) of matching unit-length rows [N, d]; float [N] (Hessel et al., EMNLP 2021, with weight 100)."""
    return 100 * np.maximum((image_features * text_features).sum(1), 0)


def clip_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 − cos of matching unit-length rows [N, d]; float [N], 0 for equal images."""
    return 1 - (first * second).sum(1)
