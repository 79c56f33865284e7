"""Whether the folders of a judge and of a CLIP hold what they are loaded from. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

from .models.source import PICKLES, conversion

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "vocab.json")
MODES = {2: "bilinear", 3: "bicubic"}
"""Ways to scale an image, by PIL's numbers."""


def check_scorer(field: str, folder: Path) -> None:
    """Raise ValueError for a judge's or CLIP's folder that cannot be loaded, with the fix."""
    told = read_config(field, folder / "config.json")
    kind = told.get("model_type")
    if field == "scoring.clip" and kind not in (None, "clip"):
        raise ValueError(f"{field}: {str(folder)!r} is a {kind}; give a CLIP's folder or hub id")
    if "transformers_weights" not in told and not any((folder / name).is_file() for name in SAFETENSORS):
        pickle = next((path for path in sorted(folder.iterdir()) if path.suffix in PICKLES), None)
        fix = conversion(pickle) if pickle else "give a folder with its weights"
        raise ValueError(f"{field}: {str(folder)!r} has no {SAFETENSORS[0]}; {fix}")
    if kind == "clip" and not any((folder / name).is_file() for name in TOKENIZER):
        raise ValueError(f"{field}: {str(folder)!r} has no {TOKENIZER[0]}; put its tokenizer's files there")
    check_processor(field, folder, told)


def check_processor(field: str, folder: Path, told: dict) -> None:
    """Raise ValueError when there is no image processor, or one whose file alone says that it prepares images otherwise.

    told: the model's configuration, in which timm's models have it.
    """
    if not (how := processor_of(field, folder)):
        if "pretrained_cfg" in told:
            return
        raise ValueError(
            f"{field}: {str(folder)!r} has no preprocessor_config.json, which says how images are prepared; put the model's there"
        )
    where = f"{field}: {folder}: preprocessor_config.json"
    # Each class has its own default, which is one of these.
    if "resample" in how and how["resample"] not in MODES:
        raise ValueError(f"{where}: resample {how['resample']} should be one of {list(MODES)}; give another model")
    size = how.get("size")
    if isinstance(size, dict) and size.get("height") != size.get("width"):
        raise ValueError(
            f"{where}: size {size} should be a shortest_edge, or a height and an equal width; give another model"
        )


def processor_of(field: str, folder: Path) -> dict:
    """An image processor's settings, from the file that transformers reads first; empty without one."""
    if (folder / "processor_config.json").is_file():
        nested = read_config(field, folder / "processor_config.json").get("image_processor")
        if nested:
            return nested
    file = folder / "preprocessor_config.json"
    return read_config(field, file) if file.is_file() else {}


def read_config(field: str, file: Path) -> dict:
    """The mapping in a JSON file. ValueError when it is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{field}: {str(file)!r} is not readable as JSON; put the model's own file there")
    return value
