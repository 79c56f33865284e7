"""The guide's example, offered by a package from outside, runs through the whole DAG."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from erase_core import methods
from tests.command import erase_here

GUIDE = Path(__file__).parents[2] / "docs" / "methods.md"
SPEC = """
name: outside
method: {{name: towards, words: [bus]}}
concepts: [taxi]
vocabulary: {{top_k: 5}}
training: {{steps: 3, batch_size: 2, trajectories: 1, latent_steps: 3}}
generation: {{seeds: [0], steps: 2}}
scoring: {{preserved: [bus], resamples: 100}}
output: {output}
"""


def offer(folder: Path) -> None:
    """What installing a package with the guide's module and entry point leaves behind."""
    text = GUIDE.read_text(encoding="utf-8")
    (module,) = re.findall(r"```python\n(.*?)```", text.split("## Adding one")[1], re.DOTALL)
    group, name, value = re.search(r'entry-points\."(.*?)"\]\n(\w+) = "(.*?)"', text).groups()
    package, file = value.split(".")
    (folder / package).mkdir()
    (folder / package / f"{file}.py").write_text(module, encoding="utf-8")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def test_a_method_from_outside(server, tmp_path: Path, monkeypatch) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (tmp_path / "spec.yaml").write_text(SPEC.format(output=tmp_path / "out"))
    assert "'towards' is not a method" in erase_here("run", str(tmp_path / "spec.yaml")).stderr
    offer(packages)
    # For the ranks, and for this process as if it began now.
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.syspath_prepend(packages)
    methods.modules.cache_clear()
    try:
        ran = erase_here("run", str(tmp_path / "spec.yaml"))
    finally:
        monkeypatch.undo()
        methods.modules.cache_clear()
    assert ran.returncode == 0, ran.stderr
    trace = pd.read_parquet(tmp_path / "out" / "trace.parquet")
    assert len(trace) == 3 and trace["preservation_loss"].isna().all()
    assert [list(drawn) for drawn in trace["drawn"]] == [["bus", "bus"]] * 3
