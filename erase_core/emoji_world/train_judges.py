"""Train the two judges: a ResNet that names the concept and a RegNet that names the style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import RegNetConfig, RegNetForImageClassification, ResNetConfig, ResNetForImageClassification

from .augment import spoil
from .catalogue import STYLES, concepts
from .fit import Report, fit, silent

HELD_OUT_SEED = 1_000_000
"""Held-out augmentations are drawn from a stream that no training step uses."""


def labels(names: list[str]) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def build_concept_judge() -> ResNetForImageClassification:
    names = [c.word for c in concepts()]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 192], depths=[2, 1, 1, 1], layer_type="basic", **labels(names)
        )
    )


def build_style_judge() -> RegNetForImageClassification:
    return RegNetForImageClassification(
        RegNetConfig(
            embedding_size=32,
            hidden_sizes=[64, 160, 320],
            depths=[1, 2, 2],
            groups_width=32,
            layer_type="x",
            **labels(list(STYLES)),
        )
    )


def train(
    which: str, rgba: torch.Tensor, folder: Path, *, steps: int, batch_size: int, seed: int, report: Report = silent
) -> nn.Module:
    """Train the "concept" or the "style" judge on spoiled renders [concepts · styles, 4, S, S] in catalogue order.

    Beside its own classes it learns to tell every single render, with a layer that is dropped afterwards: a judge that
    knows the drawing is not fooled by the texture that a decoder leaves.
    """
    torch.manual_seed(seed)
    judge = (build_concept_judge if which == "concept" else build_style_judge)().to(memory_format=torch.channels_last)
    recall = nn.Linear(judge.config.hidden_sizes[-1], len(rgba))
    target = class_of(which, len(rgba))

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        picks = rng.integers(len(rgba), size=batch_size)
        images = spoil(rgba[picks], rng).to(memory_format=torch.channels_last)
        features = judge.base_model(images).pooler_output
        named = F.cross_entropy(judge.classifier(features), target[picks], label_smoothing=0.05)
        return named + F.cross_entropy(recall(features.flatten(1)), torch.from_numpy(picks), label_smoothing=0.05)

    fit(
        f"{which}-judge",
        nn.ModuleList([judge, recall]),
        loss_of,
        steps=steps,
        learning_rate=2e-3,
        checkpoint=folder / f"{which}-judge.pt",
        seed=seed,
        weight_decay=0.05,
        report=report,
    )
    return judge


def class_of(which: str, count: int) -> torch.Tensor:
    """The class of each render in catalogue order."""
    index = torch.arange(count)
    return index // len(STYLES) if which == "concept" else index % len(STYLES)


@torch.inference_mode()
def held_out_accuracy(which: str, model: nn.Module, rgba: torch.Tensor, rounds: int = 4) -> float:
    """Top-1 accuracy over `rounds` unseen spoilings of every render."""
    model.eval()
    rng, target, hits = np.random.default_rng(HELD_OUT_SEED), class_of(which, len(rgba)), 0
    for _ in range(rounds):
        for i in range(0, len(rgba), 128):
            spoilt = spoil(rgba[i : i + 128], rng).to(next(model.parameters()).device)
            hits += int((model(pixel_values=spoilt).logits.argmax(1).cpu() == target[i : i + 128]).sum())
    return hits / (rounds * len(rgba))
