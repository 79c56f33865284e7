"""Pictures: as PNG, laid out in a grid, and a user's own, cut and scaled as a model's images are."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def read_square(path: Path, width: int, height: int, resampling: Image.Resampling) -> np.ndarray:
    """A picture's middle square, upright, on white where it is transparent, and scaled; uint8 [height, width, 3].

    Raises OSError when it cannot be read.
    """
    with Image.open(path) as file:
        image = upright(file)
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = on_white(image).crop((left, top, left + short, top + short))
        return np.asarray(square.resize((width, height), resampling))


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its camera says; as it lies in the file where what the camera says cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error):
        return image


def on_white(image: Image.Image) -> Image.Image:
    """A picture in RGB; what is transparent shows white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """PNG as pixels uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def shown_at(image: np.ndarray, side: int) -> np.ndarray:
    """An image uint8 [H, W, 3], scaled down where its longer side is longer."""
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    smaller = Image.fromarray(image)
    smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(smaller)


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay images uint8 [N, H, W, 3] out in rows of `columns` on white; uint8 [H', W', 3]."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, min(columns, count) * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
