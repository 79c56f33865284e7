"""Commands on a model's files: draw with it, write it in another format, put an erasure on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from infra.environment import allow_hub, prepare

from ..tables import complaints, console
from .app import MODEL, app, place_of, refusing

if TYPE_CHECKING:
    from erase_core.models.source import ModelSource
    from erase_core.spec import Generation

Precision = Annotated[Literal["fp32", "fp16", "bf16"], typer.Option(help="Of the weights that are written.")]


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help=MODEL)],
    prompts: Annotated[list[str], typer.Argument(help="One row of images each.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("grid.png"),
    seeds: Annotated[int, typer.Option(min=1, help="Images per prompt, with seeds 0, 1, …")] = 4,
    steps: Annotated[int, typer.Option(min=1, max=999, help="Sampling steps.")] = 30,
    guidance_scale: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 5.0,
    sampler: Annotated[str, typer.Option(help="ddim, dpm-solver++ or unipc.")] = "ddim",
) -> None:
    """Draw a grid of images: a row a prompt, a column a seed."""
    from erase_core.files import PlaceError, check_file, new_file, writing
    from erase_core.models.source import ModelError, find_model

    with refusing(ValueError):
        source = find_model(place_of(model))
        settings = sampling(source, steps, guidance_scale, sampler)
        check_file("out", out, ".png")
    prepare()
    if source.on_hub:
        allow_hub()
    import numpy as np
    from rich.progress import Progress

    from erase_core.generation.sampler import sample
    from erase_core.models.pipeline import load_pipeline
    from erase_core.pictures import encode_png, grid

    with refusing(ModelError):
        pipeline = load_pipeline(source)
    pairs = [(prompt, seed) for prompt in prompts for seed in range(seeds)]
    images = []
    with Progress(console=complaints) as bars:
        bar = bars.add_task("images", total=len(pairs))
        for batch in sample(pipeline, [p for p, _ in pairs], [s for _, s in pairs], settings):
            images.append(batch)
            bars.advance(bar, len(batch))
    with refusing(PlaceError), writing("out", out), new_file(out) as partial:
        partial.write_bytes(encode_png(grid(np.concatenate(images), columns=seeds)))
    console.print(f"{out}", highlight=False)


def sampling(source: ModelSource, steps: int, guidance_scale: float, sampler: str) -> Generation:
    """The settings of a grid's images. SpecError names the option that a spec could not have either."""
    from pydantic import ValidationError

    from erase_core.preflight import check_steps
    from erase_core.spec import Generation, Spec, Training
    from erase_core.spec_errors import SpecError, describe

    try:
        settings = Generation(steps=steps, guidance_scale=guidance_scale, sampler=sampler)
    except ValidationError as error:
        raise SpecError("\n".join(describe(problem, Generation) for problem in error.errors())) from None
    try:
        # Nothing is trained here; two strides span any schedule.
        check_steps(Spec.model_construct(generation=settings, training=Training(latent_steps=2)), source)
    except ValueError as error:
        raise SpecError(str(error).removeprefix("generation.")) from None
    return settings


def write_model(model: str, out: Path, precision: str, delta: Path | None = None, any_base: bool = False) -> None:
    """Write a model to `out` in the format that its name asks for, or end with what is wrong."""
    from erase_core.models.source import ModelError, find_model

    with refusing(ValueError):
        source = find_model(place_of(model))
        if delta is not None and not delta.is_file():
            raise ModelError(f"delta: {delta} is no file; give a run's delta.safetensors")
        prepare()
        if source.on_hub:
            allow_hub()
        from erase_core.models.export import export as write

        write(source, out, precision, delta, any_base)
    console.print(f"{out}", highlight=False, soft_wrap=True)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help=MODEL)],
    out: Annotated[Path, typer.Argument(help="A folder, or a name that ends in .safetensors for a single file.")],
    precision: Precision = "fp32",
) -> None:
    """Write a model in another format: a diffusers folder, or a single file that other programs read."""
    write_model(model, out, precision)


@app.command()
def convert(
    pickle: Annotated[Path, typer.Argument(help="A pickled checkpoint: .ckpt, .bin, .pt or .pth.")],
    out: Annotated[Path, typer.Argument(help="A name that ends in .safetensors.")],
) -> None:
    """Make safetensors of a pickle. Nothing that the pickle holds is run: all but tensors is left out."""
    with refusing(ValueError):
        if not pickle.is_file():
            raise ValueError(f"pickle: {pickle} is no file; give a checkpoint")
        if out.suffix != ".safetensors":
            raise ValueError(f"out: {out} should end in .safetensors")
        prepare()
        from erase_core.models.pickled import convert as write

        count = write(pickle, out)
    console.print(f"{out}: {count} tensors", highlight=False, soft_wrap=True)


@app.command()
def apply(
    delta: Annotated[Path, typer.Argument(help="A run's delta.safetensors.")],
    base: Annotated[
        str, typer.Argument(help="A copy of the model it was made from: folder, .safetensors file or hub id.")
    ],
    out: Annotated[Path, typer.Argument(help="A folder, or a name that ends in .safetensors for a single file.")],
    precision: Precision = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Apply it to another base of the same architecture.")] = False,
) -> None:
    """Put an erasure on a copy of its base model."""
    write_model(base, out, precision, delta, force)
