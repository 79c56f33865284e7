"""The configurations that Stable Diffusion 1.4 (sd1), 2.1 (sd2) and XL 1.0 (sdxl) were published with.

A single-file checkpoint holds weights alone; these say the rest.
"""

from __future__ import annotations

from pathlib import Path

from ...files import read_json, write_json

KINDS = ("sd1", "sd2", "sdxl")


def configs(kind: str) -> dict[str, dict]:
    """Configuration by part: model_index, unet, vae, text_encoder, scheduler, tokenizer, …"""
    return read_json(Path(__file__).parent / f"{kind}.json")


def write_configs(folder: Path, parts: dict[str, dict]) -> None:
    """Write the configurations as those of a diffusers folder, with CLIP's tokenizer and without weights."""
    from transformers import AutoTokenizer

    from ..source import WEIGHTS

    for part, config in parts.items():
        if part.startswith("tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(
                WEIGHTS / "pipeline" / "tokenizer",
                model_max_length=parts["text_encoder"]["max_position_embeddings"],
                local_files_only=True,
                **config,
            )
            tokenizer.save_pretrained(folder / part)
        elif part == "model_index":
            write_json(folder / "model_index.json", config)
        else:
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            write_json(folder / part / name, config)
