"""Load a Stable Diffusion pipeline, and save an edited one whole."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import torch
from diffusers import ConfigMixin, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from ..files import new_file, new_folder, read_json, write_json
from ..hub import UNUSED_FILES, HubError, snapshot
from ..spec import Generation
from .origin import CARD, LICENCE_FILES, Origin, write_origin
from .source import ModelError, ModelSource, check_folder, variant_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HUB_FILES = ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors", CARD, *LICENCE_FILES]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_pipeline(source: ModelSource, precision: str = "fp32") -> DiffusionPipeline:
    """Load a pipeline for inference, with gradients off and no safety checker.

    Only safetensors are read, and the network is used for hub ids alone. Parts are moved to the accelerator if there is
    one. precision: fp32, bf16 or fp16; an autoencoder that overflows in half precision, as SDXL's does, stays in fp32.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = resolve_folder(source)
    kind = check_folder(source.name, folder)
    absent = {"safety_checker": None, "requires_safety_checker": False} if kind == "StableDiffusionPipeline" else {}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(folder),
            dtype=DTYPES[precision],
            variant=variant_of(folder),
            use_safetensors=True,
            local_files_only=True,
            **absent,
        )
    except (OSError, SafetensorError) as error:
        # The system's own errors, such as a disk that is away, may be another time's.
        if getattr(error, "errno", None) is not None:
            raise
        raise ModelError(f"model: {source.name!r} cannot be loaded: {error}; copy or download it again") from None
    pipeline.set_progress_bar_config(disable=True)
    for part in parts_of(pipeline):
        part.requires_grad_(False).eval()
    if pipeline.vae.config.force_upcast:
        pipeline.vae.float()
    return pipeline.to(device())


def parts_of(pipeline: DiffusionPipeline) -> list[torch.nn.Module]:
    """The networks of a pipeline."""
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def resolve_folder(source: ModelSource) -> Path:
    """The local folder of a model.

    A hub id is downloaded first (its safetensors and configs only); a single-file checkpoint is converted once, below the
    project's home.
    """
    if source.folder is not None:
        return source.folder
    if source.file is not None:
        from .single_file import read_checkpoint

        return read_checkpoint(source.file)
    return download(source.name, HUB_FILES, UNUSED_FILES)


def download(name: str, patterns: list[str], unused: list[str] | None = None) -> Path:
    """The local folder of a hub model's files that match the patterns, at one commit. Raises ModelError, and HubAway.

    unused: patterns of what is left out.
    """
    try:
        return snapshot("model", name, "model_index.json", patterns, unused)
    except HubError as error:
        raise ModelError(str(error)) from None


def with_unet(pipeline: DiffusionPipeline, unet: UNet2DConditionModel) -> DiffusionPipeline:
    """A pipeline of the same kind that has another UNet and shares all other parts."""
    options = set(inspect.signature(type(pipeline).__init__).parameters) & set(pipeline.config)
    settings = {name: pipeline.config[name] for name in options - set(pipeline.components)}
    made = type(pipeline)(**{**pipeline.components, "unet": unet}, **settings)
    made.set_progress_bar_config(disable=True)
    return made


def twin(unet: UNet2DConditionModel, owned: list[str]) -> UNet2DConditionModel:
    """A second UNet that has its own copies of the named weights and shares all the others with the first."""
    shared = {id(p): p for name, p in unet.named_parameters() if name not in set(owned)}
    return copy.deepcopy(unet, memo=shared)


def hold_in_half(unet: UNet2DConditionModel, edited: UNet2DConditionModel, trained: list[str]) -> None:
    """Round all weights of `unet`, and those that its twin shares with it, to bf16; the twin's trained ones stay in fp32."""
    unet.bfloat16()
    own = set(trained)
    for name, parameter in edited.named_parameters():
        if name not in own:
            parameter.data = parameter.data.bfloat16()


def prepare_sampling(pipeline: DiffusionPipeline, settings: Generation) -> DiffusionPipeline:
    """The pipeline itself, with its weights in the precision, and its attention computed the way, that sampling asks for."""
    for part in parts_of(pipeline):
        if part is not pipeline.vae or not pipeline.vae.config.force_upcast:
            part.to(DTYPES[settings.precision])
    if settings.attention_slicing:
        pipeline.enable_attention_slicing()
    return pipeline


def save_pipeline(pipeline: DiffusionPipeline, folder: Path, origin: Origin) -> None:
    """Save a stock diffusers folder with its origin, whole or not at all."""
    with new_folder(folder) as partial:
        write_pipeline(pipeline, partial)
        for weights in partial.glob("text_encoder*/model.safetensors"):
            name_as_published(weights)
        write_origin(partial, origin)


def write_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline's parts to a folder; of its scheduler what it was told and no more.

    Another sampler made of that has its own defaults for the rest, and so it has of the folder that the pipeline came from.
    """
    pipeline.save_pretrained(folder, safe_serialization=True)
    file = folder / "scheduler" / "scheduler_config.json"
    write_json(file, told_of(pipeline.scheduler, read_json(file)))


def told_of(part: ConfigMixin, config: dict) -> dict:
    """A part's configuration without what nobody told it: its class's defaults."""
    defaults = part.config.get("_use_default_values", ())
    return {name: value for name, value in config.items() if name not in defaults}


def name_as_published(weights: Path) -> None:
    """Give a text encoder's weights the names that every version of transformers reads; version 5 saves them without their part."""
    found = load_file(weights)
    whole = {n if n.startswith(("text_model.", "text_projection.")) else f"text_model.{n}": v for n, v in found.items()}
    with new_file(weights) as partial:
        save_file(whole, partial, {"format": "pt"})
