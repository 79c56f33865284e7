"""Every metric in one run of the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import erase
from tests.metrics_spec import assert_complete, assert_exported, write_spec


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_metric_in_a_run(tmp_path: Path) -> None:
    ran = erase("run", str(write_spec(tmp_path)))
    assert ran.returncode == 0, ran.stderr
    assert "NER above 0.5" in ran.stdout and "FID, general prompts" in ran.stdout
    figures = json.loads((tmp_path / "out" / "summary.json").read_text())["metrics"]
    assert_complete(figures)
    assert_exported(tmp_path / "out", figures)
    assert (tmp_path / "out" / "report.html").stat().st_size > 0
