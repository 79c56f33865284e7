"""Load a Stable Diffusion pipeline, and save an edited one whole."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from ..files import new_folder
from .source import ModelSource


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_pipeline(source: ModelSource, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """Load a pipeline for inference, with gradients off and no safety checker.

    Only safetensors are read, and the network is used for hub ids alone. Parts are moved to the accelerator if there is one.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    place = source.folder if source.folder is not None else source.name
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(place),
        dtype=dtype,
        use_safetensors=True,
        safety_checker=None,
        requires_safety_checker=False,
        local_files_only=source.folder is not None,
    )
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval()
    return pipeline.to(device())


def resolve_folder(source: ModelSource) -> Path:
    """The local folder of a model; a hub id is downloaded first (its safetensors and configs only)."""
    if source.folder is not None:
        return source.folder
    from huggingface_hub import snapshot_download

    kept = ["*.json", "*.txt", "*.safetensors"]
    return Path(
        snapshot_download(source.name, allow_patterns=kept, ignore_patterns=["*fp16*", "*non_ema*", "safety_checker/*"])
    )


def twin(unet: UNet2DConditionModel, owned: list[str]) -> UNet2DConditionModel:
    """A second UNet that has its own copies of the named weights and shares all the others with the first."""
    shared = {id(p): p for name, p in unet.named_parameters() if name not in set(owned)}
    return copy.deepcopy(unet, memo=shared)


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Save a stock diffusers folder, whole or not at all."""
    with new_folder(folder) as partial:
        pipeline.save_pretrained(partial, safe_serialization=True)
