"""Pictures: as PNG, laid out in a grid, and a user's own, cut and scaled as a model's images are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def read_square(path: Path, width: int, height: int, resampling: Image.Resampling) -> np.ndarray:
    """A picture's middle square, scaled; uint8 [height, width, 3]. Raises OSError when it cannot be read."""
    with Image.open(path) as image:
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.convert("RGB").crop((left, top, left + short, top + short))
        return np.asarray(square.resize((width, height), resampling))


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """PNG as pixels uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay images uint8 [N, H, W, 3] out in rows of `columns` on white; uint8 [H', W', 3]."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, min(columns, count) * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
