"""Put the trained parts together into the folders that ship: pipeline, clip, concept_judge, style_judge."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from ..files import new_folder, read_json, write_json
from ..models.places import check_world_place
from .augment import IMAGE_SIDE
from .train_clip import image_processor
from .train_unet import scheduler

TEXT_SHARD = "text.safetensors"
REST_SHARD = "rest.safetensors"


def text_encoder_of(clip: CLIPModel) -> CLIPTextModel:
    """The text tower of a CLIP as a model of its own."""
    encoder = CLIPTextModel(clip.config.text_config)
    encoder.load_state_dict(clip.text_model.state_dict())
    return encoder.eval()


def save_world(
    folder: Path,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    clip: CLIPModel,
    unet: UNet2DConditionModel,
    concept_judge: nn.Module,
    style_judge: nn.Module,
) -> None:
    """Write all of the world's models in half precision, whole or not at all.

    CLIP's token embeddings are most of its weight and are the text encoder's too, so the clip folder links to the text
    encoder's file as one of its shards. Raises PlaceError when the folder holds anything but a world.
    """
    check_world_place(folder)
    with new_folder(folder) as partial:
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder_of(clip),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(dtype=torch.float16).save_pretrained(partial / "pipeline", safe_serialization=True)
        for part in ("unet", "vae"):
            # Where a part was loaded from is nobody's business who uses it.
            config = read_json(partial / "pipeline" / part / "config.json")
            config.pop("_name_or_path", None)
            write_json(partial / "pipeline" / part / "config.json", config)
        save_clip(partial, clip.half(), tokenizer)
        for name, judge in (("concept_judge", concept_judge), ("style_judge", style_judge)):
            judge.half().save_pretrained(partial / name, safe_serialization=True)
            write_json(
                partial / name / "preprocessor_config.json",
                {"size": {"height": IMAGE_SIDE, "width": IMAGE_SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            )


def save_clip(folder: Path, clip: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """Write the clip folder as two shards, of which one is the text encoder's own file."""
    target, text_encoder = folder / "clip", folder / "pipeline" / "text_encoder"
    clip.config.save_pretrained(target)
    tokenizer.save_pretrained(target)
    image_processor().save_pretrained(target)
    state = {name: value.contiguous() for name, value in clip.state_dict().items() if not name.endswith("position_ids")}
    text = {name: value for name, value in state.items() if name.startswith("text_model.")}
    # Stable Diffusion's own text encoders carry the prefix too; stock loaders read the file either way.
    save_file(text, text_encoder / "model.safetensors", metadata={"format": "pt"})
    save_file(
        {name: value for name, value in state.items() if name not in text},
        target / REST_SHARD,
        metadata={"format": "pt"},
    )
    weight_map = {name: TEXT_SHARD if name in text else REST_SHARD for name in state}
    size = sum(value.numel() * value.element_size() for value in state.values())
    write_json(target / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
    for link, file in (
        (TEXT_SHARD, text_encoder / "model.safetensors"),
        ("tokenizer.json", folder / "pipeline/tokenizer/tokenizer.json"),
    ):
        (target / link).unlink(missing_ok=True)
        os.symlink(os.path.relpath(file, target), target / link)
    # The stock loader would otherwise take the stored precision for the one to compute in.
    config = read_json(text_encoder / "config.json")
    write_json(text_encoder / "config.json", config | {"dtype": "float32"})
