"""A model written in the format that its new name asks for: a diffusers folder, or one safetensors file."""

from __future__ import annotations

from pathlib import Path

from ..files import writing
from .delta import apply_delta, weights_hash
from .origin import origin_of, read_header
from .pipeline import DTYPES, load_pipeline, parts_of, resolve_folder, save_pipeline
from .places import check_model_place
from .source import ModelSource, model_hash


def export(
    source: ModelSource, out: Path, precision: str = "fp32", delta: Path | None = None, any_base: bool = False
) -> None:
    """Write a model, with a delta's weights where one is given, to `out`: one file when it ends in .safetensors, else a folder.

    precision: fp32, bf16 or fp16, of the weights. any_base: put the delta on another base than its own. Raises ModelError,
    DeltaError, and, before anything is loaded, PlaceError.
    """
    check_model_place(out, source, delta)
    pipeline = load_pipeline(source)
    folder = resolve_folder(source)
    origin = origin_of(folder, source.name, model_hash(folder), weights_hash(pipeline.unet))
    if delta is not None:
        apply_delta(pipeline.unet, delta, any_base)
        made = read_header(delta)
        origin = origin.without(made.erased_concepts, made.erasure_method)
    for part in parts_of(pipeline):
        part.to(DTYPES[precision])
    with writing("out", out):
        if out.suffix == ".safetensors":
            from .single_file import write_checkpoint

            write_checkpoint(pipeline, out, origin)
        else:
            save_pipeline(pipeline, out, origin)
