"""What a single-file checkpoint is, read from its header: which model, and the configuration that its shapes imply.

Needs no torch. Single files hold weights under the names of the original code (LDM for 1.x and 2.x, SGM for XL).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from .published import configs

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = {
    "sd1": {"text_encoder": "cond_stage_model.transformer.text_model."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
"""Where each text encoder's weights lie, by kind of model."""
OPEN_CLIP = {("sd2", "text_encoder"), ("sdxl", "text_encoder_2")}
"""The text encoders that are kept in OpenCLIP's layout; the others are in that of transformers."""
VELOCITY, ZERO_SNR = "v_pred", "ztsnr"
"""Empty tensors that mark a model of the XL kind which predicts v, and one whose last timestep is pure noise."""
CONFIGS_KEY = "erase.configs"
LARGEST_HEADER = 100_000_000
WIDTH_OF_A_HEAD = 64
LAYERS_READ_OF_SD2 = 23
"""Stable Diffusion 2 reads the last but one of its text encoder's 24 layers; the last is in the file for nothing."""

Shapes = dict[str, list[int]]


def read_header(path: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """A safetensors file's tensors (name → dtype, shape, data_offsets) and metadata. ValueError when it is not one."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, path.stat().st_size - 8):
            raise ValueError("not a safetensors file")
        try:
            header = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise ValueError("not a safetensors file") from None
    if not isinstance(header, dict):
        raise ValueError("not a safetensors file")
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
    if 8 + length + max(ends, default=0) > path.stat().st_size:
        raise ValueError("not a whole safetensors file")
    return tensors, header.get("__metadata__", {})


def check_checkpoint(name: str, path: Path) -> str:
    """The kind (sd1, sd2 or sdxl) of a single-file checkpoint. ModelError says why a file is none that can be used."""
    from .source import ModelError

    try:
        tensors, _ = read_header(path)
    except ValueError as error:
        raise ModelError(f"model: {name!r} is {error}; give a checkpoint in safetensors") from None
    if any("lora_" in tensor for tensor in tensors):
        raise ModelError(f"model: {name!r} is a LoRA, not a whole model; merge it into its base and give the result")
    if f"{UNET}input_blocks.0.0.weight" not in tensors:
        raise ModelError(f"model: {name!r} holds no UNet of Stable Diffusion 1.x, 2.x or XL in the original layout")
    if f"{VAE}decoder.conv_in.weight" not in tensors:
        raise ModelError(f"model: {name!r} holds no autoencoder; give a checkpoint of the whole model")
    for kind in ("sdxl", "sd2", "sd1"):
        if all(any(tensor.startswith(prefix) for tensor in tensors) for prefix in TEXT[kind].values()):
            break
    else:
        raise ModelError(f"model: {name!r} holds no text encoder of Stable Diffusion 1.x, 2.x or XL (base)")
    channels = tensors[f"{UNET}input_blocks.0.0.weight"]["shape"][1]
    if channels != tensors[f"{UNET}out.2.weight"]["shape"][0]:
        raise ModelError(f"model: {name!r} reads {channels} channels, as for inpainting; give a text-to-image model")
    return kind


def configs_of(path: Path) -> dict[str, dict]:
    """The configurations of a checkpoint's parts, see `read_configs`. ModelError where its layers are not as published ones are."""
    from .source import ModelError

    kind = check_checkpoint(str(path), path)
    try:
        return read_configs(path, kind)
    except (LookupError, StopIteration, TypeError):
        raise ModelError(
            f"model: {str(path)!r} has other layers than Stable Diffusion 1.x, 2.x or XL, or its header lacks "
            "something; give a diffusers folder of it"
        ) from None


def read_configs(path: Path, kind: str) -> dict[str, dict]:
    """The configurations of a checkpoint's parts: those it carries, or the published ones with the sizes of its weights.

    What shapes do not tell is read where the field writes it: the resolution and the prediction type in the header
    (`modelspec.resolution`, `modelspec.prediction_type`), the prediction type in a YAML beside the file
    (`model.params.parameterization`), that and a zero terminal SNR in tensors that mark them. Without a word, 2.x predicts v at
    768 pixels, as 2.1 does.
    """
    tensors, metadata = read_header(path)
    shapes = {name: tensor["shape"] for name, tensor in tensors.items()}
    parts = configs(kind)
    if CONFIGS_KEY in metadata:
        carried = carried_by(path, metadata[CONFIGS_KEY])
        parts |= {part: config for part, config in carried.items() if part in parts and part != "model_index"}
        parts["model_index"]["scheduler"] = ["diffusers", parts["scheduler"]["_class_name"]]
        if kind == "sdxl":
            parts["model_index"]["force_zeros_for_empty_prompt"] = bool(carried["force_zeros_for_empty_prompt"])
        return parts
    for part, prefix in TEXT[kind].items():
        of = open_clip_sizes if (kind, part) in OPEN_CLIP else clip_sizes
        parts[part] |= of(
            {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        )
    if kind == "sd2":
        parts["text_encoder"]["num_hidden_layers"] = min(parts["text_encoder"]["num_hidden_layers"], LAYERS_READ_OF_SD2)
    parts["vae"] |= vae_sizes(shapes)
    parts["unet"] |= unet_sizes(shapes, kind, parts)
    resolution = metadata.get("modelspec.resolution", "").split("x")
    if len(resolution) == 2 and all(side.isdigit() for side in resolution):
        scale = 2 ** (len(parts["vae"]["block_out_channels"]) - 1)
        width, height = (int(side) // scale for side in resolution)
        parts["unet"]["sample_size"] = height if height == width else [height, width]
    predicted = metadata.get("modelspec.prediction_type") or beside(path)
    if predicted or VELOCITY in tensors:
        velocity = VELOCITY in tensors or predicted in ("v", "v_prediction")
        parts["scheduler"]["prediction_type"] = "v_prediction" if velocity else "epsilon"
    if ZERO_SNR in tensors:
        # Its last timestep is pure noise, which leading spacing never starts from.
        parts["scheduler"] |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return parts


def carried_by(path: Path, text: str) -> dict:
    """The configurations that a checkpoint's header carries as `text`. ModelError when they cannot be read."""
    from .source import ModelError

    try:
        carried = json.loads(text)
    except ValueError:
        carried = None
    if not isinstance(carried, dict):
        raise ModelError(f"model: {path} has no JSON object under {CONFIGS_KEY} in its header; take the entry out")
    return carried


def beside(path: Path) -> str | None:
    """The parameterization that a YAML of the original code beside a checkpoint tells: "v" or "eps". None of any other YAML.

    Raises ModelError when the file cannot be read.
    """
    from .source import ModelError

    place = path.with_suffix(".yaml")
    if not place.is_file():
        return None
    try:
        told = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError):
        raise ModelError(f"model: {place} beside the checkpoint is not YAML; mend it, or move it away") from None
    for key in ("model", "params"):
        told = told.get(key) if isinstance(told, dict) else None
    # A spec may have the checkpoint's name too; the original code's configurations describe a UNet.
    if not isinstance(told, dict) or not {"parameterization", "unet_config"} & set(told):
        return None
    return str(told.get("parameterization", "eps"))


def count(names: Shapes, pattern: str) -> int:
    """How many different numbers stand in the names where the pattern's group is."""
    return len({found.group(1) for name in names if (found := re.match(pattern, name))})


def unet_sizes(shapes: Shapes, kind: str, parts: dict[str, dict]) -> dict:
    own = {name.removeprefix(UNET): shape for name, shape in shapes.items() if name.startswith(UNET)}
    levels: list[list[tuple[int, int]]] = [[]]
    for block in range(1, count(own, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{block}.0.op.weight" in own:
            levels.append([])
            continue
        depth = count(own, rf"input_blocks\.{block}\.1\.transformer_blocks\.(\d+)\.")
        levels[-1].append((own[f"input_blocks.{block}.0.out_layers.3.weight"][0], depth))
    channels, depths = ([level[0][i] for level in levels] for i in (0, 1))
    attention = next(name for name in own if ".attn2.to_k.weight" in name)
    found = {
        "in_channels": own["input_blocks.0.0.weight"][1],
        "out_channels": own["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "cross_attention_dim": own[attention][1],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
    }
    if kind != "sd1":
        found["attention_head_dim"] = [max(1, width // WIDTH_OF_A_HEAD) for width in channels]
    if kind == "sdxl":
        added, pooled = own["label_emb.0.0.weight"][1], parts["text_encoder_2"]["projection_dim"]
        found["transformer_layers_per_block"] = [max(1, depth) for depth in depths]
        found |= {"projection_class_embeddings_input_dim": added, "addition_time_embed_dim": (added - pooled) // 6}
    return found


def vae_sizes(shapes: Shapes) -> dict:
    own = {name.removeprefix(VAE): shape for name, shape in shapes.items() if name.startswith(VAE)}
    levels = count(own, r"encoder\.down\.(\d+)\.")
    return {
        "block_out_channels": [own[f"encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)],
        "layers_per_block": count(own, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": own["decoder.conv_in.weight"][1],
    }


def clip_sizes(own: Shapes) -> dict:
    vocabulary, width = own["embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": max(1, width // WIDTH_OF_A_HEAD),
        "max_position_embeddings": own["embeddings.position_embedding.weight"][0],
        "num_hidden_layers": count(own, r"encoder\.layers\.(\d+)\."),
        "intermediate_size": own["encoder.layers.0.mlp.fc1.weight"][0],
    }


def open_clip_sizes(own: Shapes) -> dict:
    vocabulary, width = own["token_embedding.weight"]
    found = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": max(1, width // WIDTH_OF_A_HEAD),
        "max_position_embeddings": own["positional_embedding"][0],
        "num_hidden_layers": count(own, r"transformer\.resblocks\.(\d+)\."),
        "intermediate_size": own["transformer.resblocks.0.mlp.c_fc.weight"][0],
    }
    return found | ({"projection_dim": own["text_projection"][1]} if "text_projection" in own else {})
