"""The figures that the command prints."""

from __future__ import annotations

from pathlib import Path

from flows.tables import console, show


def test_small_figures_can_be_told_apart() -> None:
    metrics = {"fid_general": 1.25, "kid_general": 0.00031, "kid_original_general": -0.000088}
    summary = {
        "name": "x",
        "spec": {"concepts": [{"concept": "taxi"}]},
        "metrics": metrics,
        "seconds": {},
        "cached": [],
        "unjudged": ["bus", "truck"],
    }
    with console.capture() as printed:
        show(summary, Path("out"))
    text = printed.get()
    assert "Not in PSR, since the judge has no class for them: bus, truck" in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert ["KID × 1000, general prompts", "-0.088", "0.310", ""] in rows
    assert ["FID, general prompts", "", "1.250", ""] in rows
