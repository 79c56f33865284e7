"""The world's training, stage by stage. Every stage keeps its result in the work folder and goes on where it was stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import AutoModelForImageClassification, CLIPModel, CLIPTokenizer

from ..files import new_file, new_folder, write_json
from ..metrics.judge import Judge
from ..models.origin import write_origin
from ..models.pipeline import load_pipeline
from ..models.source import ModelSource
from ..spec import Generation
from . import card, quality, render, sharpen_decoder, train_autoencoder, train_clip, train_judges, train_unet
from .assemble import save_world, text_encoder_of
from .augment import premultiplied
from .fit import Report, silent

IMAGES_PER_CONCEPT = 8


@dataclass(frozen=True)
class Plan:
    """Steps and batch size of each part."""

    autoencoder: tuple[int, int] = (4000, 8)
    decoder: tuple[int, int] = (1500, 8)
    clip: tuple[int, int] = (1600, 128)
    concept: tuple[int, int] = (1500, 64)
    style: tuple[int, int] = (3500, 64)
    unet: tuple[int, int] = (12500, 32)

    def scaled(self, scale: float) -> Plan:
        """The same plan with every number of steps multiplied by `scale`."""
        return Plan(**{name: (max(2, round(steps * scale)), batch) for name, (steps, batch) in vars(self).items()})


def saved(folder: Path) -> bool:
    return (folder / "config.json").exists()


def save(model: torch.nn.Module, folder: Path) -> None:
    with new_folder(folder) as partial:
        model.save_pretrained(partial, safe_serialization=True)


def renders(work: Path) -> torch.Tensor:
    """Fetch the emoji packages and render them; premultiplied [concepts · styles, 4, S, S]."""
    path = work / "renders.npy"
    if not path.exists():
        images = render.render_all(render.fetch_packages(work / "npm"))
        with new_file(path) as partial, open(partial, "wb") as file:
            np.save(file, images)
    return premultiplied(np.load(path))


def tokenizer(work: Path) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer, built from the merges that its package ships."""
    if not (work / "tokenizer" / "tokenizer.json").exists():
        built = train_clip.build_tokenizer(train_clip.fetch_merges(work / "pip"))
        with new_folder(work / "tokenizer") as partial:
            built.save_pretrained(partial)
    return CLIPTokenizer.from_pretrained(work / "tokenizer")


def autoencoder(work: Path, plan: Plan, seed: int, report: Report = silent) -> None:
    if not saved(work / "vae"):
        steps, batch = plan.autoencoder
        save(
            train_autoencoder.train(renders(work), work, steps=steps, batch_size=batch, seed=seed, report=report),
            work / "vae",
        )


def decoder(work: Path, plan: Plan, seed: int, report: Report = silent) -> None:
    if not saved(work / "vae-sharp"):
        steps, batch = plan.decoder
        vae = AutoencoderKL.from_pretrained(work / "vae")
        sharpen_decoder.sharpen(vae, renders(work), work, steps=steps, batch_size=batch, seed=seed + 3, report=report)
        save(vae, work / "vae-sharp")


def clip(work: Path, plan: Plan, seed: int, report: Report = silent) -> None:
    if not saved(work / "clip"):
        steps, batch = plan.clip
        save(
            train_clip.train(
                renders(work), tokenizer(work), work, steps=steps, batch_size=batch, seed=seed, report=report
            ),
            work / "clip",
        )


def judge(which: str, work: Path, plan: Plan, seed: int, report: Report = silent) -> None:
    if not saved(work / f"{which}-judge"):
        steps, batch = getattr(plan, which)
        offset = {"concept": 1, "style": 2}[which]
        model = train_judges.train(
            which, renders(work), work, steps=steps, batch_size=batch, seed=seed + offset, report=report
        )
        save(model, work / f"{which}-judge")


def unet(work: Path, plan: Plan, seed: int, report: Report = silent) -> None:
    if not saved(work / "unet"):
        steps, batch = plan.unet
        vae, encoder = (
            AutoencoderKL.from_pretrained(work / "vae"),
            text_encoder_of(CLIPModel.from_pretrained(work / "clip")),
        )
        model = train_unet.train(
            renders(work), vae, tokenizer(work), encoder, work, steps=steps, batch_size=batch, seed=seed, report=report
        )
        save(model, work / "unet")


def assemble(work: Path, output: Path, every: int = 1, progress=lambda done, total: None) -> dict[str, float]:
    """Put the parts together in `output` with their model card and contact sheet; returns the measured figures.

    Every `every`-th concept is drawn to measure them.
    """
    judges = [
        AutoModelForImageClassification.from_pretrained(work / f"{which}-judge") for which in ("concept", "style")
    ]
    vae, model = AutoencoderKL.from_pretrained(work / "vae-sharp"), UNet2DConditionModel.from_pretrained(work / "unet")
    save_world(output, vae, tokenizer(work), CLIPModel.from_pretrained(work / "clip"), model, *judges)
    write_origin(output / "pipeline", card.origin())
    pipeline = load_pipeline(ModelSource("emoji-world", output / "pipeline"))
    figures, by_concept, sheet = quality.measure(
        pipeline,
        Judge(output / "concept_judge"),
        Judge(output / "style_judge"),
        renders(work),
        Generation(),
        IMAGES_PER_CONCEPT,
        every,
        progress,
    )
    quality.write_sheet(output / "contact-sheet.png", sheet)
    write_json(output / "quality.json", {"figures": figures, "concept_top_1": by_concept})
    (output / "README.md").write_text(card.render(figures, by_concept), encoding="utf-8")
    return figures
