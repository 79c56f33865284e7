"""The report: one self-contained HTML page that shows what an erasure did."""

from __future__ import annotations

from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from .. import methods
from ..files import new_file
from ..generation.dataset import images_at
from ..pictures import encode_png, grid, shown_at
from ..spec import Spec
from ..spec_texts import ALL
from ..unsafe import blurred, hidden_images, hides
from . import plots
from .attacks import attack_part
from .plots import SHOWN_SIDE, data_uri

SHOWN_PRESERVED = 24
SEEDS_IN_GRID = 4


def pairs_of(original: Path, roles: dict[str, str]) -> pd.DataFrame:
    """What every image shows, one row a prompt and seed: prompt, concept, role, seed."""
    pairs = pq.read_table(original, columns=["prompt", "concept", "seed"]).to_pandas()
    return pairs.assign(role=pairs["concept"].map(roles))


def strip(part: pd.DataFrame, images: list[dict[int, np.ndarray]]) -> dict:
    """One concept's images, before above after, a column a prompt and seed. images: both models', by the rows of the part."""
    small = np.stack([shown_at(of[row], SHOWN_SIDE) for of in images for row in part.index])
    png = encode_png(grid(small, columns=len(part)))
    first = part.iloc[0]
    return {"concept": first["concept"], "prompt": first["prompt"], "png": data_uri(png), "columns": len(part)}


def hurt_table(scores: pd.DataFrame) -> pd.DataFrame:
    """How much each preserved concept lost: the drop of PSR-1 and of the CLIP score, where they were measured."""
    own = scores[(scores["role"] == "preserved") & (scores["concept"] != ALL)]
    wide = own.pivot(index="concept", columns="metric", values="value")
    drops = pd.DataFrame(index=wide.index)
    for name in ("psr_1", "clip_score"):
        if name in wide:
            drops[f"{name}_drop"] = wide[f"{name}_original"] - wide[name]
    if "clip_distance" in wide:
        drops["clip_distance"] = wide["clip_distance"]
    return drops.sort_values(list(drops.columns), ascending=False).reset_index()


def build_figures(trace: pd.DataFrame, scores: pd.DataFrame, concepts: list[str]) -> dict[str, bytes]:
    """The run's plots as PNG, by file name."""
    figures = {"losses": plots.to_png(plots.loss_curves(trace))} if len(trace) else {}
    for i, concept in enumerate(concepts):
        if trace["drawn"].map(len).any():
            figures[f"preserved-{i}"] = plots.to_png(plots.search_trace(trace, concept))
    hurt = hurt_table(scores)
    for column, label in (("clip_score_drop", "CLIP score before − after"), ("psr_1_drop", "PSR-1 before − after")):
        if column in hurt:
            figures["most-hurt"] = plots.to_png(plots.most_hurt(hurt, column, label))
            break
    return figures


def build_page(output: Path, summary: dict, original: Path, erased: Path) -> dict[str, bytes]:
    """Write output/report.html from a run's summary and tables; returns the figures in it as PNG by name.

    Images of unsafe concepts are blurred. Reads trace.parquet, scores.parquet, verdicts.parquet and preserved.parquet in `output`,
    the attacks' files there if the spec has attacks, and the two image files.
    """
    trace = pq.read_table(output / "trace.parquet").to_pandas()
    scores = pq.read_table(output / "scores.parquet").to_pandas()
    spec = Spec.model_validate(summary["spec"])
    pairs = pairs_of(original, summary["roles"])
    hidden = hidden_images(spec, pairs, pq.read_table(output / "verdicts.parquet").to_pandas())
    concepts = spec.concept_words
    figures = build_figures(trace, scores, concepts)
    hurt = hurt_table(scores)

    preserved = pairs[pairs["role"] == "preserved"]
    near = (
        pq.read_table(output / "preserved.parquet").to_pandas().sort_values("rank")["word"]
        if len(trace)
        else pd.Series(dtype=str)
    )
    order = list(
        dict.fromkeys(
            [*(w for w in near if w in set(preserved["concept"]))][: SHOWN_PRESERVED // 2] + list(hurt["concept"])
        )
    )
    shown = {
        "erased": [
            part.head(SEEDS_IN_GRID) for _, part in pairs[pairs["role"] == "erased"].groupby("concept", sort=False)
        ],
        "preserved": [preserved[preserved["concept"] == c].head(SEEDS_IN_GRID) for c in order[:SHOWN_PRESERVED]],
    }
    # Only these are decoded: a benchmark's prompts may have thousands of images.
    rows = {row for parts in shown.values() for part in parts for row in part.index}
    images = [
        {row: blurred(image) if hidden[model][row] else image for row, image in images_at(path, rows)}
        for model, path in (("original", original), ("erased", erased))
    ]
    strips = {role: [strip(part, images) for part in parts] for role, parts in shown.items()}
    attacks = None
    if summary["spec"]["attacks"] is not None:
        attacks, figures["attacks"] = attack_part(output, hides(spec))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    html = environment.get_template("page.html").render(
        summary=summary,
        attacks=attacks,
        figures={name: data_uri(png) for name, png in figures.items()},
        concepts=concepts,
        solved=methods.solves(methods.load(spec.method.name)),
        **strips,
        hurt=hurt.head(15).round(3).to_dict("records"),
        hurt_columns=[c for c in hurt.columns if c != "concept"],
        hidden=bool(hidden.to_numpy().any()),
        totals=scores[scores["concept"] == ALL].to_dict("records"),
    )
    with new_file(output / "report.html") as partial:
        partial.write_text(html, encoding="utf-8")
    return figures
