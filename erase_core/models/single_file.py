"""Single-file checkpoints in the original layout: read into a diffusers folder, and written from a pipeline."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from transformers import AutoTokenizer

from ..artifacts import produce
from ..files import digest, file_digest, new_file
from .checkpoint_layout import CONFIGS_KEY, OPEN_CLIP, TEXT, UNET, VAE, VELOCITY, ZERO_SNR, configs_of
from .origin import Origin, read_header, write_origin
from .pipeline import told_of, write_pipeline
from .published import configs, write_configs
from .source import WEIGHTS, ModelError

VERSION = 2
"""Raised when a checkpoint is converted otherwise."""
ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sd2 v": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
VAE_NAMES = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
)
OPEN_CLIP_NAMES = (
    (r"^embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def read_checkpoint(file: Path) -> Path:
    """The diffusers folder that a checkpoint is converted to, once. Nothing is fetched: its configs are at hand.

    Raises ModelError when its header cannot be read, before anything is converted.
    """
    parts, origin = configs_of(file), read_header(file)

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            write_configs(Path(name), parts)
            kind = StableDiffusionXLPipeline if "text_encoder_2" in parts else StableDiffusionPipeline
            absent = {} if "text_encoder_2" in parts else {"safety_checker": None}
            pipeline = kind.from_single_file(str(file), config=name, local_files_only=True, **absent)
            write_pipeline(pipeline, folder / "pipeline")
            write_origin(folder / "pipeline", origin)

    return produce("models", digest(VERSION, file_digest(file), parts), build).file("pipeline")


def kind_of(pipeline: DiffusionPipeline) -> str:
    """sdxl, sd2 (one text encoder of OpenCLIP's activation) or sd1."""
    if isinstance(pipeline, StableDiffusionXLPipeline):
        return "sdxl"
    return "sd2" if pipeline.text_encoder.config.hidden_act == "gelu" else "sd1"


def write_checkpoint(pipeline: DiffusionPipeline, path: Path, origin: Origin) -> None:
    """Write a pipeline as one safetensors file in the original layout, with its origin, whole or not at all.

    Its configurations travel in the header, so that reading it back gives the same pipeline. ModelError when the tokenizer
    is not CLIP's, which a single file has no place for.
    """
    kind = kind_of(pipeline)
    stock = AutoTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer", local_files_only=True)
    if pipeline.tokenizer.get_vocab() != stock.get_vocab():
        raise ModelError(
            "model: its tokenizer is not CLIP's, which a single file has no place for; save a folder instead"
        )
    weights = {UNET + name: value for name, value in unet_weights(pipeline)}
    weights |= {VAE + name: value for name, value in vae_weights(pipeline)}
    for part, prefix in TEXT[kind].items():
        of = open_clip_weights if (kind, part) in OPEN_CLIP else clip_weights
        weights |= {prefix + name: value for name, value in of(getattr(pipeline, part))}
    side = pipeline.unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    scale = pipeline.vae_scale_factor
    velocity = pipeline.scheduler.config.prediction_type == "v_prediction"
    if kind == "sdxl":
        marks = {VELOCITY: velocity, ZERO_SNR: pipeline.scheduler.config.get("rescale_betas_zero_snr")}
        weights |= {name: torch.zeros(0) for name, marked in marks.items() if marked}
    header = {
        "format": "pt",
        "modelspec.architecture": ARCHITECTURES["sd2 v" if kind == "sd2" and velocity else kind],
        "modelspec.resolution": f"{width * scale}x{height * scale}",
        "modelspec.prediction_type": "v" if velocity else "epsilon",
        CONFIGS_KEY: json.dumps(carried_configs(pipeline, kind)),
        **origin.header,
    }
    with new_file(path) as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, partial, header)


def carried_configs(pipeline: DiffusionPipeline, kind: str) -> dict:
    """The configurations of a pipeline's parts, without where each was loaded from."""
    found = {"force_zeros_for_empty_prompt": bool(pipeline.config.get("force_zeros_for_empty_prompt"))}
    for part in sorted(set(configs(kind)) - {"model_index", "tokenizer", "tokenizer_2"}):
        of = getattr(pipeline, part)
        text = of.config.to_json_string() if hasattr(of.config, "to_json_string") else of.to_json_string()
        config = told_of(of, json.loads(text)) if part == "scheduler" else json.loads(text)
        found[part] = {
            name: value for name, value in config.items() if not name.startswith("_") or name == "_class_name"
        }
    return found


def unet_weights(pipeline: DiffusionPipeline) -> Iterator[tuple[str, torch.Tensor]]:
    """The UNet's weights under their original names: levels and layers counted through, from the outside in and out again."""
    config = pipeline.unet.config
    layers = config.layers_per_block
    if not isinstance(layers, int):
        raise ModelError("model: its UNet has another number of layers in each block, which a single file cannot say")

    def renamed(name: str) -> str:
        for ours, theirs in OUTER.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        side, level, kind, index, rest = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()
        level, index = int(level), int(index)
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            attends = "CrossAttn" in config.up_block_types[level]
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if attends else 1}.{rest}"
        block = f"input_blocks.{1 + level * (layers + 1) + index}" if side == "down" else None
        block = block or f"output_blocks.{level * (layers + 1) + index}"
        return f"{block}.{0 if kind == 'resnets' else 1}.{rest}"

    for name, value in pipeline.unet.state_dict().items():
        named = renamed(name)
        if ".resnets." in name:
            head, part, leaf = named.rsplit(".", 2)
            named = f"{head}.{RESNET[part]}.{leaf}"
        yield named, value


def vae_weights(pipeline: DiffusionPipeline) -> Iterator[tuple[str, torch.Tensor]]:
    """The autoencoder's weights: the decoder's levels are counted from the inside, and its attention is a 1×1 convolution."""
    last = len(pipeline.vae.config.block_out_channels) - 1
    for name, value in pipeline.vae.state_dict().items():
        for ours, theirs in VAE_NAMES:
            name = re.sub(ours, theirs, name)
        name = re.sub(r"\.up_blocks\.(\d+)\.resnets\.", lambda m: f".up.{last - int(m[1])}.block.", name)
        name = re.sub(r"\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f".up.{last - int(m[1])}.upsample.", name)
        attends = re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", name)
        yield name, value[..., None, None] if attends and value.ndim == 2 else value


def clip_weights(encoder: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in encoder.state_dict().items():
        yield name.removeprefix("text_model."), value


def open_clip_weights(encoder: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """A text encoder's weights in OpenCLIP's layout: queries, keys and values in one matrix, the projection transposed."""
    own = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
    for name, value in own.items():
        if name == "text_projection.weight":
            yield "text_projection", value.T
            continue
        if found := re.match(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            layer, which, leaf = found.groups()
            if which == "q":
                joined = [own[f"encoder.layers.{layer}.self_attn.{each}_proj.{leaf}"] for each in "qkv"]
                yield f"transformer.resblocks.{layer}.attn.in_proj_{leaf}", torch.cat(joined)
            continue
        for ours, theirs in OPEN_CLIP_NAMES:
            name = re.sub(ours, theirs, name)
        yield name, value
