"""What predicts an erasure's damage? The drop of each concept's CLIP score against three orders of the concepts: by cosine
similarity to the target's text; by L2, how far the edited model's predictions for the concept have moved, which a search ascends;
and by L2 as a share of the concept's signal, what it adds to the neutral concept's prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from ..models.delta import apply_delta
from ..models.pipeline import load_pipeline, twin
from ..models.prompts import encode, encode_batches
from ..models.source import local_model
from ..models.trainable import trainable_names
from ..report.charts import scatters
from ..spec import Spec, make_spec
from ..training.candidates import conditions_of
from ..training.latents import TrajectoryBank
from ..training.predictions import noise_predictor
from ..training.step import sampler_of
from .findings import Findings, clip_drop, summary
from .places import stage_folder
from .variants import require_preserved, variant

RESAMPLES = 2000
LEAST = 3
"""Concepts that ranks can be correlated of."""
ORDERS = {"similarity": "text similarity", "preservation_loss": "L2", "share": "L2 as a share of the signal"}
AXES = {**ORDERS, "similarity": "cosine similarity to the target's text"}


def runs(base: Spec) -> dict[str, Spec]:
    """One run, with nothing preserved."""
    require_preserved(base, LEAST)
    return {"naive": variant(base, "naive", method="naive", scoring={"metrics": ["clip_score"]})}


def find(outputs: dict[str, Path]) -> Findings:
    path = outputs["naive"]
    spec = make_spec(summary(path)["spec"])
    frame, target = clip_drop(path).reset_index(drop=True), spec.concepts[0].concept
    pipeline = load_pipeline(local_model(spec.model)[0])
    whole = torch.cat([embeddings for embeddings, _ in encode_batches(pipeline, [target, *frame["concept"]])]).flatten(
        1
    )
    frame["similarity"] = torch.cosine_similarity(whole[1:], whole[:1]).tolist()
    delta = stage_folder(path, "training") / "delta.safetensors"
    frame = frame.join(preservation_losses(spec, pipeline, delta, list(frame["concept"])))
    frame["share"] = frame["preservation_loss"] / frame["signal"]
    figures, said = {}, []
    apart = difference(*(frame[column].to_numpy() for column in ("preservation_loss", "similarity", "drop")), spec.seed)
    figures |= dict(zip(("l2_over_similarity", "l2_over_similarity/low", "l2_over_similarity/high"), apart))
    for column, name in ORDERS.items():
        value, low, high = rank_correlation(frame[column].to_numpy(), frame["drop"].to_numpy(), spec.seed)
        figures |= {f"{column}/rank_correlation": value, f"{column}/low": low, f"{column}/high": high}
        said.append(f"{name} {value:.2f} (95 % {low:.2f} to {high:.2f})")
    return Findings(
        frame,
        scatters(frame, AXES, "drop", "concept"),
        figures,
        f"Rank correlation with the CLIP drop after {target} was erased: {', '.join(said)}; "
        f"L2 over text similarity {apart[0]:.2f} ({apart[1]:.2f} to {apart[2]:.2f}).",
    )


def preservation_losses(spec: Spec, pipeline, delta: Path, words: list[str]) -> pd.DataFrame:
    """Means over the trajectories of each word c that a training would read, a row a word: preservation_loss,
    ‖ε_θ'(z_t, t, c) − ε_θ(z_t, t, c)‖², and signal, ‖ε_θ(z_t, t, c) − ε_θ(z_t, t, c_n)‖².
    """
    unet, scheduler, part = pipeline.unet, pipeline.scheduler, spec.training
    edited_unet = twin(unet, trainable_names(unet, part.trainable))
    apply_delta(edited_unet, delta)
    conditions = conditions_of(spec, pipeline)
    frozen, edited = (noise_predictor(each, scheduler, layout=conditions.layout) for each in (unet, edited_unet))
    sampler = sampler_of(unet, scheduler, conditions, part)
    bank = TrajectoryBank(sampler, frozen, part.trajectories, spec.seed)
    found = []
    for word, embedding in zip(words, encode(pipeline, words)):
        sampled = bank.sampled(word, embedding)
        under, timesteps = embedding.expand(part.latent_steps, -1, -1), sampler.timesteps.to(embedding.device)
        known, neutral = (torch.from_numpy(sampled[name]) for name in ("conditional", "neutral"))
        squared = []
        for latents, expected in zip(torch.from_numpy(sampled["z"]), known):
            with torch.inference_mode():
                made = edited(latents[:-1].to(embedding.device), timesteps, under)
            squared.append(float((made - expected.to(embedding.device)).square().mean()))
        found.append((float(np.mean(squared)), float((known - neutral).square().mean())))
    return pd.DataFrame(found, columns=["preservation_loss", "signal"])


def rank_correlation(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Spearman's ρ of x and y [N] and its 95 % bootstrap interval over pairs."""
    return with_interval(lambda p: spearmanr(x[p], y[p]).statistic, y, seed)


def difference(first: np.ndarray, second: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, float, float]:
    """By how much y's rank correlation with one order [N] is over that with another, and its 95 % bootstrap interval."""
    return with_interval(lambda p: spearmanr(first[p], y[p]).statistic - spearmanr(second[p], y[p]).statistic, y, seed)


def with_interval(figure: Callable[[np.ndarray], float], y: np.ndarray, seed: int) -> tuple[float, float, float]:
    """A figure of all rows [N], by their numbers, and its 95 % bootstrap interval over those draws whose y are not all alike."""
    picks = np.random.default_rng(seed).integers(len(y), size=(RESAMPLES, len(y)))
    drawn = [figure(p) for p in picks if len(set(y[p])) > 1]
    return (float(figure(np.arange(len(y)))), *map(float, np.quantile(drawn, [0.025, 0.975])))
