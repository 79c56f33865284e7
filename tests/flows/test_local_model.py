"""The whole DAG on a local diffusers folder with other dimensions than the embedded model's."""

from __future__ import annotations

import json
from pathlib import Path

from erase_core.models.source import WEIGHTS
from tests.command import erase


def test_local_folder(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        f"""
name: local
model: {tiny_folder}
concepts: [garbage truck]
vocabulary: {{source: english-3000, top_k: 8}}
training: {{steps: 2, batch_size: 2, trajectories: 1, latent_steps: 3}}
generation: {{seeds: [0], steps: 2}}
scoring: {{preserved: [boat, church], clip: {WEIGHTS / "clip"}, resamples: 100}}
output: {tmp_path / "out"}
"""
    )
    ran = erase("run", str(tmp_path / "spec.yaml"))
    assert ran.returncode == 0, ran.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "esr_1" not in summary and summary["clip_score_preserved"] >= 0 and summary["pixel_distance_erased"] >= 0
    assert (tmp_path / "out" / "report.html").exists()
