"""A rank that is killed in mid-training: the step fails with its error, Prefect tries again, and the training goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.faults.runs import start_erase, wait_for

SPEC = """
name: killed rank
concepts: [taxi]
vocabulary: {{top_k: 10}}
training: {{steps: 16, batch_size: 2, processes: 2, trajectories: 1, latent_steps: 4, checkpoint_every: 4}}
generation: {{seeds: [0], steps: 2, processes: 2, batch_size: 2}}
scoring: {{preserved: [bus, rose], resamples: 100, processes: 2}}
output: {output}
"""


def ranks(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "erase_core.training.worker" in line and str(home) in " ".join(line) and "agent" not in " ".join(line):
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_rank_is_told_and_the_retry_goes_on(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.format(output=tmp_path / "out"))
    home, told = tmp_path / "home", tmp_path / "home.log"
    quiet = {"OMP_NUM_THREADS": "1", "PREFECT_LOGGING_LEVEL": "INFO"}
    run = start_erase("run", str(tmp_path / "spec.yaml"), home=home, **quiet)
    wait_for(lambda: list((home / "training").glob("*/checkpoints/step-*")), run)
    first = ranks(home)
    victim = max(first, key=lambda process: process.create_time())
    victim.kill()
    killed = time.monotonic()
    while [process for process in first if process.is_running()]:
        assert time.monotonic() - killed < 60
        time.sleep(0.1)
    assert run.wait() == 0, told.read_text()
    text = " ".join(told.read_text().split())
    assert "was killed by SIGKILL" in text and "rank" in text
    trace = pq.read_table(tmp_path / "out" / "trace.parquet").to_pandas()
    assert trace[trace["phase"] == "update"]["step"].tolist() == list(range(16))
    assert not ranks(home)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert 0 <= summary["esr_1"] <= 1 and 0 <= summary["psr_1"] <= 1
    assert not list((home / "shards").glob("*")) and not list((home / "training").glob("*"))
