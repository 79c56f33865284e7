"""The figures of a run, as matplotlib figures."""

from __future__ import annotations

import base64
import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

INK, ERASED, PRESERVED, QUIET = "#1d2430", "#c8442f", "#2f6fc8", "#9aa3b2"
SHOWN_SIDE = 256
"""Pixels of an image in a page, at most, which shows it smaller: whole ones would make hundreds of megabytes of it."""

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)


def to_png(figure: Figure) -> bytes:
    """Render a figure and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over at most `window` values; same length."""
    totals = np.cumsum(np.insert(values, 0, 0.0))
    starts = np.maximum(0, np.arange(1, len(values) + 1) - window)
    ends = np.arange(1, len(values) + 1)
    return (totals[ends] - totals[starts]) / (ends - starts)


def loss_curves(trace: pd.DataFrame) -> Figure:
    """Erasing and preservation loss of the updates, over steps, raw and smoothed."""
    updates = trace[trace["phase"] == "update"]
    figure, axis = plt.subplots(figsize=(7, 3))
    for column, label, colour in (
        ("erasing_loss", "erasing loss L1", ERASED),
        ("preservation_loss", "preservation loss L2", PRESERVED),
    ):
        part = updates.dropna(subset=[column])
        if part.empty:
            continue
        axis.plot(part["step"], part[column], color=colour, alpha=0.2, linewidth=0.8)
        axis.plot(part["step"], smooth(part[column].to_numpy(), 20), color=colour, label=label)
    axis.set_yscale("log")
    axis.set_xlabel("update step")
    axis.set_ylabel("mean squared error")
    axis.legend()
    return figure


def search_trace(trace: pd.DataFrame, concept: str, words: int = 15) -> Figure:
    """Which words were preserved at which step, most visited on top, and the word that π favours as a line."""
    own = trace[(trace["concept"] == concept) & (trace["phase"] == "update")]
    drawn = own[["step", "drawn"]].explode("drawn").dropna()
    favourites = own.dropna(subset=["word"])
    order = drawn["drawn"].value_counts()
    shown = (
        list(dict.fromkeys([*favourites["word"].iloc[::-1].unique()[:5], *order.index]))[:words] if len(order) else []
    )
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.22 * max(len(shown), 4)))
    rank = {word: i for i, word in enumerate(shown)}
    visible = drawn[drawn["drawn"].isin(rank)]
    axis.scatter(
        visible["step"], visible["drawn"].map(rank), s=7, color=PRESERVED, alpha=0.5, label="preserved in this step"
    )
    line = favourites[favourites["word"].isin(rank)]
    axis.plot(
        line["step"], line["word"].map(rank), color=ERASED, linewidth=1, drawstyle="steps-post", label="favoured by π"
    )
    axis.set_yticks(range(len(shown)), shown)
    axis.invert_yaxis()
    axis.set_xlabel("update step")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.9 / max(len(shown), 4)), ncol=2)
    return figure


def most_hurt(hurt: pd.DataFrame, value: str, label: str, shown: int = 20) -> Figure:
    """The preserved concepts with the largest drop, as bars."""
    part = hurt.sort_values(value, ascending=False).head(shown)
    figure, axis = plt.subplots(figsize=(7, 0.7 + 0.2 * len(part)))
    axis.barh(part["concept"], part[value], color=[ERASED if v > 0 else QUIET for v in part[value]], height=0.7)
    axis.axvline(0, color=QUIET, linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    return figure
