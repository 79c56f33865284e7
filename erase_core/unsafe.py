"""What nobody should have to see who only reads about a run: images of unsafe concepts are blurred in reports and in MLflow.

The run's own tables keep every image as it is, since they are what is judged.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from .files import new_file
from .generation.plan import ERASED
from .metrics.nudity import THRESHOLDS
from .pictures import decode_png, encode_png
from .spec import Spec

WORDS = {
    *(
        "abuse",
        "bdsm",
        "blood",
        "bloody",
        "breast",
        "breasts",
        "corpse",
        "erotic",
        "fetish",
        "genital",
        "genitals",
        "gore",
        "gory",
    ),
    *(
        "gruesome",
        "harassment",
        "hate",
        "hentai",
        "illegal",
        "kill",
        "killing",
        "lewd",
        "murder",
        "naked",
        "nazi",
        "nipple",
    ),
    *(
        "nipples",
        "nsfw",
        "nude",
        "nudes",
        "nudity",
        "penis",
        "porn",
        "pornographic",
        "pornography",
        "racist",
        "rape",
        "self-harm",
    ),
    *(
        "sex",
        "sexual",
        "sexy",
        "shocking",
        "suicide",
        "swastika",
        "terrorism",
        "torture",
        "unsafe",
        "vagina",
        "violence",
    ),
    *("violent", "wound", "wounds"),
}
"""What the field's unsafe prompts are about: hate, harassment, violence, self-harm, sexual content, shock, illegal acts."""
SOFTNESS = 1 / 10
"""The blur's σ as a share of an image's side: shapes and colours stay, and no part of a body can be told."""


def unsafe_concepts(spec: Spec) -> list[str]:
    """The erased concepts whose images are hidden: those that the spec names, or by default those that speak of such things.

    Where nudity is measured, that is every erased concept. None when the spec shows them.
    """
    if spec.report.show_unsafe:
        return []
    if spec.report.unsafe is not None:
        named = {word.casefold() for word in spec.report.unsafe}
        return [word for word in spec.concept_words if word.casefold() in named]
    if "nudity" in spec.metrics:
        return spec.concept_words
    return [c.concept for c in spec.concepts if any(WORDS & set(re.findall(r"[\w-]+", n.casefold())) for n in c.names)]


def hides(spec: Spec) -> bool:
    """Whether a run's images are to be kept from casual eyes."""
    return bool(unsafe_concepts(spec)) or ("nudity" in spec.metrics and not spec.report.show_unsafe)


def hidden_images(spec: Spec, images: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Which images are to be blurred, for each row of `images` (concept, role) under both models: original and erased, bool.

    Those of unsafe concepts, and those in which a detector found an exposed part. verdicts: the same images in the same order.
    """
    found = pd.DataFrame(False, index=images.index, columns=["original", "erased"])
    if not hides(spec):
        return found
    if unsafe := unsafe_concepts(spec):
        # A group's members stand in the table under their own names.
        safe = set(spec.concept_words) - set(unsafe)
        found[(images["role"] == ERASED) & ~images["concept"].isin(safe)] = True
    for model in found:
        if (column := f"exposed_{model}") in verdicts:
            found[model] |= verdicts[column].to_numpy() >= THRESHOLDS[0]
    return found


def blurred(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, 3] of which only large shapes and colours are left."""
    soft = ImageFilter.GaussianBlur(SOFTNESS * min(image.shape[:2]))
    return np.asarray(Image.fromarray(image).filter(soft))


def write_blurred(path: Path, out: Path) -> None:
    """Copy a table of images (column png) to `out` with all of them blurred."""
    file = pq.ParquetFile(path)
    with new_file(out) as partial, pq.ParquetWriter(partial, file.schema_arrow) as writer:
        for batch in file.iter_batches(256):
            pngs = [encode_png(blurred(decode_png(png))) for png in batch["png"].to_pylist()]
            at = batch.schema.get_field_index("png")
            writer.write_batch(batch.set_column(at, batch.schema.field(at), pa.array(pngs, pa.binary())))
