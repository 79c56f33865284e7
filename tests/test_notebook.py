"""The notebook in docs runs from top to bottom in a kernel of its own."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "compare_methods.ipynb"


@pytest.mark.timeout(900)
def test_compare_methods() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += """
neighbours, training = ["bus"], {"steps": 2, "batch_size": 1, "latent_steps": 3, "trajectories": 1}
generation = {"seeds": [0], "sampler": "dpm-solver++", "steps": 5}
"""
    NotebookClient(notebook, timeout=800, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert any("adversarial" in table and "naive" in table and "psr_1" in table for table in tables)
    assert any("image/png" in output.get("data", {}) for output in shown)
