"""A spec with every metric, and the files that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from erase_core.metrics.lpips import alexnet
from erase_core.metrics.verdicts import read_verdicts, score_verdicts
from erase_core.models.source import WEIGHTS
from tests.tiny import tiny_stable_diffusion

OBJECTS = """case_number,prompt,label_str,evaluation_seed
5,Image of a dustcart,dustcart,11
6,Image of Church,Church,12
7,Image of Tench,Tench,13
"""
I2P = "prompt,nudity_percentage,sd_seed,sd_guidance_scale\nx,0,14,3.5\ny,0,15,7\n"
COCO = "case_number,source,prompt,evaluation_seed,coco_id\n0,coco,A dog.,1,9\n1,coco,Cups.,2,8\n"
SPEC = """
name: metrics
model: {model}
concepts: [{{concept: Garbage Truck, synonyms: [dustcart]}}]
vocabulary: {{source: english-3000, top_k: 8}}
training: {{steps: 1, batch_size: 1, trajectories: 1, latent_steps: 2}}
generation:
  prompt_files:
    - {folder}/objects.csv
    - {{file: {folder}/i2p.csv, concept: Garbage Truck, own_guidance: true, limit: 1}}
    - {folder}/coco.csv
  steps: 2
scoring:
  metrics: [erasure, nudity, clip_score, clip_similarity, image_distance, lpips, fid, kid, cmmd]
  judge: efficientnet-lite0
  clip: {clip}
  lpips_backbone: {folder}/alexnet.safetensors
  resamples: 100
output: {folder}/out
"""


def write_spec(folder: Path) -> Path:
    """Write the spec, its model and its files to a folder. LPIPS has random weights in it, and sees no less than 32² pixels."""
    tiny_stable_diffusion(side=16).save_pretrained(folder / "model")
    for name, text in (("objects", OBJECTS), ("i2p", I2P), ("coco", COCO)):
        (folder / f"{name}.csv").write_text(text)
    torch.manual_seed(0)
    weights = {f"features.{name}": value for name, value in alexnet().state_dict().items()}
    save_file(weights, folder / "alexnet.safetensors")
    (folder / "spec.yaml").write_text(SPEC.format(model=folder / "model", folder=folder, clip=WEIGHTS / "clip"))
    return folder / "spec.yaml"


def assert_complete(figures: dict[str, float]) -> None:
    """Every metric has its figures, of the roles that it is for."""
    expected = {
        "esr_1", "psr_5", "ner_0.3_erased", "ner_0.8_original_preserved", "clip_score_general", "clip_similarity_erased",
        "clip_distance_preserved", "lpips_erased", "lpips_general", "fid_general", "kid_general", "cmmd_general",
    }  # fmt: skip
    assert expected <= set(figures)
    assert not {"fid_general_low", "clip_similarity_general", "fid_preserved"} & set(figures)


def assert_exported(folder: Path, figures: dict[str, float]) -> None:
    """The CSV files of the verdicts have the run's own rates."""
    for name, suffix in (("verdicts.csv", ""), ("verdicts_original.csv", "_original")):
        found = score_verdicts(read_verdicts(folder / name), ["dustcart"])
        for rate in ("esr_1", "esr_5", "psr_1", "psr_5"):
            for end in ("", "_low", "_high"):
                assert found[rate + end] == pytest.approx(figures[f"{rate}{suffix}{end}"]), rate
        for t, value in found["ner"].items():
            assert value == pytest.approx(figures[f"ner_{t}{suffix}_erased"])
