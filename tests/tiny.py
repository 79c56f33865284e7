"""Tiny models with random weights, in the formats of the real ones, and images of one colour."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from erase_core.generation.dataset import SCHEMA
from erase_core.models.published import configs, write_configs
from erase_core.models.source import WEIGHTS
from erase_core.pictures import encode_png


def tiny_stable_diffusion(prediction_type: str = "epsilon", side: int = 8) -> StableDiffusionPipeline:
    """4 latent channels, a context of 77 tokens, side × side latents, images of twice the side."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer", model_max_length=77)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=2 * side,
    )
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (vae, text_encoder, unet):
        part.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


TINY_UNET = {"block_out_channels": [32, 64, 64], "layers_per_block": 1, "sample_size": 8}
TINY_TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1, "num_hidden_layers": 2}
TINY_VAE = {
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "sample_size": 16,
}
TINY = {
    "sd1": {
        "unet": {
            **TINY_UNET,
            "cross_attention_dim": 32,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        },
        "text_encoder": {**TINY_TEXT, "projection_dim": 32},
    },
    "sdxl": {
        "unet": {
            **TINY_UNET,
            "cross_attention_dim": 32 + 64,
            "attention_head_dim": [1, 1, 1],
            "transformer_layers_per_block": [1, 1, 2],
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64 + 6 * 8,
        },
        "text_encoder": {**TINY_TEXT, "projection_dim": 32},
        "text_encoder_2": {**TINY_TEXT, "hidden_size": 64, "projection_dim": 64},
    },
}
TINY["sd2"] = {**TINY["sd1"], "unet": {**TINY["sd1"]["unet"], "attention_head_dim": [1, 1, 1]}}


def tiny_configs(kind: str, **unet) -> dict[str, dict]:
    """The published configurations of sd1, sd2 or sdxl, key for key, with small sizes; `unet` replaces the UNet's."""
    small = {**TINY[kind], "unet": {**TINY[kind]["unet"], **unet}, "vae": TINY_VAE}
    return {part: {**config, **small.get(part, {})} for part, config in configs(kind).items()}


def tiny_folder_of(kind: str, folder: Path, **unet) -> Path:
    """A diffusers folder of sd1, sd2 or sdxl with random weights, of the published classes."""
    torch.manual_seed(0)
    parts = tiny_configs(kind, **unet)
    write_configs(folder, parts)
    for part, (library, name) in ((p, c) for p, c in parts["model_index"].items() if isinstance(c, list)):
        if library == "diffusers" and part != "scheduler":
            getattr(diffusers, name).from_config(parts[part]).save_pretrained(folder / part)
        elif library == "transformers" and not part.startswith("tokenizer"):
            config = transformers.CLIPTextConfig(**parts[part])
            getattr(transformers, name)(config).save_pretrained(folder / part)
    return folder


def grey_images(path: Path, wanted: list[tuple[str, str, int]], values: tuple[int, ...]) -> Path:
    """Write a file of images as a run draws them, 64×64 and of one grey value each."""
    rows = [
        {
            "prompt": prompt,
            "concept": concept,
            "seed": seed,
            "model": "m",
            "png": encode_png(np.full((64, 64, 3), value, np.uint8)),
        }
        for (prompt, concept, seed), value in zip(wanted, values, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path
