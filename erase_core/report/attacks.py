"""What attacks brought back: a part of the report, and a page of its own."""

from __future__ import annotations

from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from ..files import new_file, read_json
from ..pictures import decode_png, encode_png, grid, shown_at
from ..spec import Spec
from ..spec_texts import ALL
from ..unsafe import blurred, hides
from .plots import ERASED, PRESERVED, QUIET, SHOWN_SIDE, data_uri, to_png

SHOWN = 6
MODELS = {"erased": ("erased model", ERASED), "original": ("original", PRESERVED), "control": ("control", QUIET)}


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def overall(table: pd.DataFrame) -> pd.DataFrame:
    """The rows for all concepts together, or for the only one."""
    return table[table["concept"] == (ALL if (table["concept"] == ALL).any() else table["concept"].iloc[0])]


def success_over_budget(table: pd.DataFrame, columns: int = 4) -> Figure:
    """A panel an attack: its success over the budget on the erased model, on the original, and of the control."""
    parts = list(overall(table).groupby("attack", sort=False))
    rows, columns = -(-len(parts) // columns), min(columns, len(parts))
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.3 * rows + 0.4), squeeze=False, sharey=True)
    for axis in axes.flat[len(parts) :]:
        axis.axis("off")
    for axis, (attack, part) in zip(axes.flat, parts):
        for model, (label, colour) in MODELS.items():
            line = part[part["model"] == model].sort_values("budget")
            axis.plot(line["budget"], line["success"], "o-", color=colour, markersize=3, label=label)
            axis.fill_between(line["budget"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
        axis.set_title(attack, fontsize=9)
        axis.set_xlabel(part["unit"].iloc[0])
        axis.set_ylim(-0.03, 1.03)
    for row in axes:
        row[0].set_ylabel("success")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def table_rows(table: pd.DataFrame, summary: dict) -> list[dict]:
    """A row an attack and budget, as text."""
    found = []
    for (attack, budget), part in overall(table).groupby(["attack", "budget"], sort=False):
        of = {row.model: row for row in part.itertuples()}
        if "erased" not in of:
            continue
        erased = of["erased"]
        found.append(
            {
                "attack": attack,
                "what": "" if attack in {row["attack"] for row in found} else summary["attacks"][attack]["what"],
                "budget": f"{budget:g} {erased.unit}",
                "success": percent(erased.success),
                "interval": f"{100 * erased.low:.0f}–{100 * erased.high:.0f}",
                **{model: percent(of[model].success) if model in of else "" for model in ("original", "control")},
                "n": erased.n,
            }
        )
    return found


def strips(attempts: pd.DataFrame, hidden: bool) -> list[dict]:
    """Some images of each attack and concept, from the erased model at the largest budget; blurred where they are hidden."""
    found = []
    own = attempts[(attempts["model"] == "erased") & (attempts["role"] == "attack")]
    for (attack, concept), part in own.groupby(["attack", "concept"], sort=False):
        last = part[part["budget"] == part["budget"].max()].sort_values("success", ascending=False, kind="stable")
        drawn = [shown_at(decode_png(png), SHOWN_SIDE) for png in last["png"].head(SHOWN)]
        images = np.stack([blurred(image) for image in drawn] if hidden else drawn)
        found.append(
            {
                "attack": attack,
                "concept": concept,
                "prompt": last["prompt"].iloc[0],
                "recovered": int(last["success"].sum()),
                "total": len(last),
                "png": data_uri(encode_png(grid(images, columns=len(images)))),
                "columns": len(images),
            }
        )
    return found


def attack_part(output: Path, hidden: bool) -> tuple[dict, bytes]:
    """What the template `attacks.html` shows of attacks.parquet, attempts.parquet and attacks.json in `output`, and the plot.

    hidden: its images are blurred.
    """
    table = pq.read_table(output / "attacks.parquet").to_pandas()
    attempts = pq.read_table(output / "attempts.parquet").to_pandas()
    plot = to_png(success_over_budget(table))
    return {
        "rows": table_rows(table, read_json(output / "attacks.json")),
        "plot": data_uri(plot),
        "strips": strips(attempts, hidden),
        "hidden": hidden,
        "images_alone": "sdedit" in set(table["attack"]),
    }, plot


def build_attack_page(output: Path, model: str) -> bytes:
    """Write output/attacks.html about attacks on `model`, and return the plot in it as PNG."""
    summary = read_json(output / "attacks.json")
    part, plot = attack_part(output, hides(Spec.model_validate(summary["spec"])))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    html = environment.get_template("attack_page.html").render(
        title=f"Attacks: {', '.join(summary['concepts'])}",
        model=model,
        base=summary["spec"]["model"],
        seed=summary["seed"],
        attacks=part,
    )
    with new_file(output / "attacks.html") as partial:
        partial.write_text(html, encoding="utf-8")
    return plot
