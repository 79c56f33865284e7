"""Pictures of the user's own, cut and scaled as a model's images are."""

from __future__ import annotations

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
