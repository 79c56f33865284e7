"""A small benchmark for real, and a method added to it without running the other again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erase_core.pictures import encode_png
from erase_core.results import held
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import parse_spec
from flows import benchmark as module
from tests.command import erase, erase_here

SPEC = """
name: small benchmark
concepts: [taxi]
vocabulary: {{top_k: 4}}
training: {{steps: 2, batch_size: 2, trajectories: 1, latent_steps: 3}}
generation: {{seeds: [0], steps: 1}}
scoring: {{preserved: [bus, car], resamples: 100}}
output: {output}
"""


def test_pictures_that_a_run_lacks_are_told_before_any_runs(tmp_path: Path) -> None:
    """Each run has concepts of its own, and so other folders than the base's."""
    (tmp_path / "taxi.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    base = parse_spec(SPEC.format(output=tmp_path / "out") + f"attacks: {{images: {tmp_path}}}\n")
    with pytest.raises(SpecError, match="attacks.images: .*guitar' is not a folder of pictures"):
        module.benchmark.fn(base, ["naive"], ["objects-tuning"], [0])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_benchmark_and_an_added_method(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SPEC.format(output=tmp_path / "out"))
    common = ("--spec", str(tmp_path / "base.yaml"), "--tasks", "unsafe", "--seeds", "0")
    first = erase("benchmark", "--methods", "uce", *common)
    assert first.returncode == 0, first.stderr
    before = pd.read_parquet(tmp_path / "out" / "runs.parquet")
    second = erase("benchmark", "--methods", "uce,naive", *common)
    assert second.returncode == 0, second.stderr
    runs = pd.read_parquet(tmp_path / "out" / "runs.parquet")
    assert list(runs["method"]) == ["naive", "uce"] and runs["mlflow_run"].nunique() == 2
    assert runs["kid_preserved"].notna().all() and (runs["peak_memory_gib"] > 0.1).all()
    assert runs["mlflow_run"][1] == before["mlflow_run"][0] and runs["key"][1] == before["key"][0]
    summary = json.loads((tmp_path / "out" / "runs" / "unsafe-weapon-uce-0" / "summary.json").read_text())
    assert summary["cached"] == []
    assert "| original |" in (tmp_path / "out" / "benchmark.md").read_text()


@pytest.mark.slow
def test_a_run_that_fails_ends_no_other(tmp_path: Path) -> None:
    wild = SPEC.replace("steps: 2,", "steps: 2, learning_rate: 1e6,").format(output=tmp_path / "out")
    (tmp_path / "base.yaml").write_text(wild)
    only = ("--tasks", "unsafe", "--seeds", "0", "--methods", "naive,uce")
    ran = erase("benchmark", "--spec", str(tmp_path / "base.yaml"), *only)
    assert ran.returncode == 1 and "1 of 2 runs failed: unsafe-weapon-naive-0: " in ran.stderr
    assert "lower training.learning_rate" in ran.stderr
    assert list(pd.read_parquet(tmp_path / "out" / "runs.parquet")["method"]) == ["uce"]


@pytest.mark.slow
def test_what_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    """It ends without a result, and this one runs it then."""
    (tmp_path / "base.yaml").write_text(SPEC.format(output=tmp_path / "out"))
    cell = tmp_path / "out" / "runs" / "unsafe-weapon-uce-0"
    hold = (
        "import pathlib, sys, time; from erase_core.results import held\n"
        "with held(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(30)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(cell)], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        only = ("--tasks", "unsafe", "--seeds", "0", "--methods", "uce")
        ran = erase("benchmark", "--spec", str(tmp_path / "base.yaml"), *only)
        assert ran.returncode == 0, ran.stderr
        assert other.wait() == 0
    assert list(pd.read_parquet(tmp_path / "out" / "runs.parquet")["method"]) == ["uce"]


def test_what_others_hold_is_not_begun(monkeypatch, tmp_path: Path) -> None:
    """A flow of it would fail in Prefect, at every look."""
    base, other = parse_spec(SPEC.format(output=tmp_path / "out")), contextlib.ExitStack()
    begun: list[str] = []

    def begin(spec, parent: str, slots: bool) -> dict:
        begun.append("run")
        with held(Path(spec.output)):
            pass
        return {"metrics": {}, "step_seconds": 1.0, "peak_memory_gib": 1.0, "mlflow_run": parent}

    monkeypatch.setattr(module, "erase", begin)
    monkeypatch.setattr(module, "create_markdown_artifact", lambda *_, **__: None)
    looks = iter([lambda: begun.append("look"), other.close])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: next(looks)())
    other.enter_context(held(tmp_path / "out" / "runs" / "unsafe-weapon-uce-0"))
    module.benchmark.fn(base, ["uce"], ["unsafe"], [0])
    assert begun == ["look", "run"]


def test_who_joins_waits_until_abandoned_runs_are_ended(monkeypatch, tmp_path: Path) -> None:
    """Else its own were among them."""
    folder, joined = tmp_path / "out", threading.Event()

    def join() -> None:
        with held(folder, shared=True):
            joined.set()

    other = threading.Thread(target=join)

    def end_abandoned(output: str) -> None:
        other.start()
        assert not joined.wait(0.5)
        raise RuntimeError("seen")

    monkeypatch.setattr(module.tracking, "end_abandoned", end_abandoned)
    with pytest.raises(RuntimeError, match="seen"):
        module.benchmark.fn(parse_spec(SPEC.format(output=folder)), ["uce"], ["unsafe"], [0])
    other.join()
    assert joined.is_set()


def test_no_seeds() -> None:
    ran = erase_here("benchmark", "--seeds", "")
    assert ran.returncode == 2 and "seeds: are none" in ran.stderr
    ran = erase_here("benchmark", "--seeds", "0,one")
    assert ran.returncode == 2 and "seeds: '0,one' should be whole numbers" in ran.stderr


def test_unknown_method() -> None:
    ran = erase("benchmark", "--methods", "magic")
    assert ran.returncode == 2 and "methods: magic is not one of" in ran.stderr
