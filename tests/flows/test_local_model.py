"""The whole DAG on local models: Stable Diffusion 1.x, 2.x and XL, from a diffusers folder and from a single file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from erase_core.files import read_json, write_json
from erase_core.models.export import export
from erase_core.models.published import KINDS
from erase_core.models.source import WEIGHTS, find_model
from tests.command import erase_here
from tests.tiny import tiny_folder_of

WORDS = "church boat truck river bottle mountain kitchen garden window horse teacher bridge"


def run(model: Path, folder: Path, more: str = "") -> dict:
    """The summary of a small run on a model, with its results in folder/out."""
    (folder / "words.txt").write_text(WORDS.replace(" ", "\n"))
    (folder / "spec.yaml").write_text(
        f"""
name: local
model: {model}
concepts: [garbage truck]
vocabulary: {{source: {folder / "words.txt"}, top_k: 8}}
training: {{steps: 2, batch_size: 2, trajectories: 1, latent_steps: 3, learning_rate: 1e-2}}
generation: {{seeds: [0], steps: 2}}
output: {folder / "out"}
{more}"""
    )
    ran = erase_here("run", str(folder / "spec.yaml"))
    assert ran.returncode == 0, ran.stderr
    assert (folder / "out" / "report.html").exists()
    return json.loads((folder / "out" / "summary.json").read_text())


@pytest.mark.slow
def test_local_folder(server, tiny_folder: Path, tmp_path: Path) -> None:
    scoring = f"scoring: {{preserved: [boat, church], clip: {WEIGHTS / 'clip'}, resamples: 100}}"
    summary = run(tiny_folder, tmp_path, scoring)
    assert "esr_1" not in summary and summary["clip_score_preserved"] >= 0 and summary["pixel_distance_erased"] >= 0


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        # Two that have least in common are in the fast suite; that all forms are read is tested beside the formats.
        pytest.param(
            kind, form, marks=[] if (kind, form) in {("sd1", "folder"), ("sdxl", "file")} else pytest.mark.slow
        )
        for kind in KINDS
        for form in ("folder", "file")
    ],
)
def test_every_model_in_every_form(server, kind: str, form: str, tmp_path: Path) -> None:
    """Without a CLIP there is no CLIP score; the delta, put on the other form of the base, is the run's model to the bit."""
    folder, file = tiny_folder_of(kind, tmp_path / kind), tmp_path / f"{kind}.safetensors"
    export(find_model(str(folder)), file)
    own, other = (folder, file) if form == "folder" else (file, folder)
    summary = run(own, tmp_path, "scoring: {preserved: [boat, church], resamples: 100}")
    assert "clip_score_preserved" not in summary and summary["pixel_distance_erased"] > 0
    delta = tmp_path / "out" / "delta.safetensors"
    applied = erase_here("apply", str(delta), str(other), str(tmp_path / "applied"))
    assert applied.returncode == 0, applied.stderr
    made, base, again = (
        load_file(place / "unet" / "diffusion_pytorch_model.safetensors")
        for place in (tmp_path / "out" / "model", folder, tmp_path / "applied")
    )
    assert all((made[name] == again[name]).all() for name in made)
    assert any((made[name] != base[name]).any() for name in made)


def test_a_gate_that_could_not_be_judged_ends_the_run_before_the_training(server, tmp_path: Path) -> None:
    """The judge has a class for none of the nearest words, which are preserved where the spec names none."""
    judge = shutil.copytree(WEIGHTS / "concept_judge", tmp_path / "judge")
    write_json(
        judge / "config.json", {**read_json(judge / "config.json"), "id2label": {"0": "garbage truck", "1": "tank"}}
    )
    (tmp_path / "words.txt").write_text(WORDS.replace(" ", "\n"))
    (tmp_path / "spec.yaml").write_text(
        f"name: local\nmodel: {tiny_folder_of('sd1', tmp_path / 'sd1')}\nconcepts: [garbage truck]\noutput: {tmp_path / 'out'}\n"
        f"vocabulary: {{source: {tmp_path / 'words.txt'}, top_k: 8}}\nscoring: {{judge: {judge}}}\ngate: {{max_psr_1_drop: 1}}\n"
    )
    ran = erase_here("run", str(tmp_path / "spec.yaml"))
    assert ran.returncode == 1 and "scoring.preserved: the judge" in ran.stderr, ran
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "v1-5.ckpt", "out"], "is a pickle"),
        (["export", "emoji-world", "out.ckpt"], "would be a pickle"),
        (["apply", "absent.safetensors", "emoji-world", "out"], "is no file"),
        (["export", "nothing/here/at-all", "out"], "is not emoji-world"),
    ],
)
def test_what_cannot_be_written_is_refused(arguments: list[str], message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = erase_here(*arguments)
    assert refused.returncode == 2 and message in refused.stderr
    assert not any(tmp_path.iterdir())
