"""The report's page of a run that is as small as can be."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from erase_core.metrics.scores import SCHEMA, write_scores
from erase_core.pictures import decode_png, shown_at
from erase_core.report.page import build_page, strip
from erase_core.report.plots import SHOWN_SIDE
from erase_core.spec import make_spec

TRACE = {"phase": "update", "concept": "taxi", "word": None, "drawn": [], "erasing_loss": 0.1, "preservation_loss": 0.2}


@pytest.mark.parametrize(
    ("method", "told", "losses"),
    [
        (
            "adversarial",
            "100 steps of xattn weights",
            "Losses of the updates; the line is a running mean over 20 steps.",
        ),
        (
            "uce",
            "solved in closed form for xattn-strict weights",
            "in each layer that was solved for; the line is a running mean",
        ),
    ],
)
def test_how_it_was_erased(method: str, told: str, losses: str, tmp_path: Path, images_file) -> None:
    """Also of a run that preserves nothing, and so has no PSR."""
    spec = make_spec(
        {"name": "x", "concepts": ["taxi"], "method": method, "scoring": {"preserved": []}, "output": str(tmp_path)}
    )
    images = [images_file(name, [("a taxi", "taxi", 0)], (value,)) for name, value in (("before", 0), ("after", 200))]
    rows = [("esr_1", concept, "erased", 1.0, 0.5, 1.0, 1) for concept in ("all", "taxi")]
    write_scores(tmp_path / "scores.parquet", pd.DataFrame(rows, columns=SCHEMA.names))
    pd.DataFrame([{"step": step, **TRACE} for step in range(3)]).to_parquet(tmp_path / "trace.parquet")
    pd.DataFrame({"concept": ["taxi"]}).to_parquet(tmp_path / "verdicts.parquet")
    pd.DataFrame({"word": ["bus"], "rank": [0]}).to_parquet(tmp_path / "preserved.parquet")
    metrics = {"esr_1": 1.0, "esr_1_low": 0.5, "esr_1_high": 1.0}
    summary = {"name": "x", "metrics": metrics, "spec": spec.model_dump(mode="json"), "roles": {"taxi": "erased"}}
    figures = build_page(tmp_path, {**summary, "seconds": {}, "versions": {}}, *images)
    page = (tmp_path / "report.html").read_text()
    assert told in " ".join(page.split()) and losses in page and set(figures) == {"losses"}
    assert ("steps of" in page) == (method == "adversarial")


def test_images_are_kept_no_larger_than_a_page_shows_them() -> None:
    """A page of XL's images as they are would have hundreds of megabytes."""
    wide = np.tile(np.arange(1024, dtype=np.uint8)[None, :, None], (512, 1, 3))
    assert shown_at(wide, SHOWN_SIDE).shape == (128, 256, 3)
    small = np.zeros((64, 64, 3), np.uint8)
    assert shown_at(small, SHOWN_SIDE) is small
    part = pd.DataFrame({"concept": ["taxi"] * 2, "prompt": ["a taxi"] * 2}, index=[4, 7])
    png = base64.b64decode(strip(part, [{4: wide, 7: wide}] * 2)["png"].partition(",")[2])
    assert decode_png(png).shape == (2 * 128 + 2, 2 * 256 + 2, 3)
