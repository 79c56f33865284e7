"""Charts of a table, each as a PNG and as an interactive page of its own."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .plots import ERASED, INK, PRESERVED, QUIET, to_png

COLOURS = (PRESERVED, ERASED, "#3c9d6b", "#8a5bb8", "#d6922b", "#3aa6b9", "#7b6a58", "#c85a9b", "#5c6b80", "#a3b83c")
ROOM_OF_A_NAME = (0.09, 0.035)
"""Width and height of a point's name beside it, as shares of a chart."""


@dataclass(frozen=True)
class Chart:
    """One chart: png for documents, html for a browser, with everything in it."""

    png: bytes
    html: str


def chart(still: plt.Figure, live: go.Figure) -> Chart:
    live.update_layout(template="plotly_white", font_color=INK)
    return Chart(to_png(still), live.to_html(include_plotlyjs=True, full_html=True))


def bars(frame: pd.DataFrame, label: str, value: str, facet: str, axis: str, shown: int = 25) -> Chart:
    """Horizontal bars, largest on top, a panel for each value of `facet`; the still one shows the first `shown`.

    Columns low and high, where the frame has them, are drawn as intervals.
    """
    parts = list(frame.groupby(facet, sort=False))
    still, axes = plt.subplots(
        1, len(parts), figsize=(4.5 * len(parts), 1 + 0.2 * min(shown, len(frame))), squeeze=False
    )
    live = make_subplots(1, len(parts), subplot_titles=[str(name) for name, _ in parts])
    for i, (name, part) in enumerate(parts):
        part = part.sort_values(value, ascending=False)
        errors = [part[value] - part["low"], part["high"] - part[value]] if "low" in part else None
        live.add_bar(
            x=part[value], y=part[label], orientation="h", marker_color=PRESERVED, showlegend=False, row=1, col=i + 1,
            error_x=errors and {"type": "data", "array": errors[1], "arrayminus": errors[0], "symmetric": False},
        )  # fmt: skip
        live.update_yaxes(autorange="reversed", row=1, col=i + 1)
        live.update_xaxes(title_text=axis, row=1, col=i + 1)
        top = part.head(shown)
        span = [e.head(shown).clip(lower=0) for e in errors] if errors else None
        axes[0, i].barh(top[label].astype(str), top[value], xerr=span, color=PRESERVED, ecolor=QUIET, height=0.7)
        axes[0, i].invert_yaxis()
        axes[0, i].set_title(str(name))
        axes[0, i].set_xlabel(axis)
    live.update_layout(height=max(500, 14 * max(len(part) for _, part in parts)))
    return chart(still, live)


def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    label: str,
    group: str | None = None,
    joined: bool = False,
    named: int = 12,
    front: pd.Series | None = None,
) -> Chart:
    """Points with their labels, coloured by `group`, joined in the frame's order if `joined`; front: which rows are on the Pareto
    front, which is drawn as a line.

    The still one names the `named` points that lie furthest from the middle, or all of a small frame; not those beside a named one.
    """
    still, axis = plt.subplots(figsize=(7, 4.5))
    live = go.Figure()
    for i, (name, part) in enumerate(frame.groupby(group, sort=False) if group else [("", frame)]):
        colour, again = COLOURS[i % len(COLOURS)], i >= len(COLOURS)
        shape, line = ("s", "--") if again else ("o", "-")
        axis.plot(
            part[x], part[y], shape + line * joined, color=colour, markersize=4, linewidth=1, alpha=0.8, label=str(name)
        )
        live.add_scatter(
            x=part[x], y=part[y], text=part[label], name=str(name), marker_color=colour,
            marker_symbol="square" if again else "circle", line_dash="dash" if again else "solid",
            mode="lines+markers" if joined else "markers",
        )  # fmt: skip
    if front is not None:
        best = frame[front].sort_values([x, y])
        axis.plot(best[x], best[y], "D-", color=INK, markersize=8, markerfacecolor="none", label="Pareto front")
        live.add_scatter(
            x=best[x], y=best[y], name="Pareto front", line_color=INK, marker_symbol="diamond-open", marker_size=12
        )
    name_points(axis, frame, x, y, label, named)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    live.update_layout(xaxis_title=x, yaxis_title=y)
    if group:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return chart(still, live)


def scatters(frame: pd.DataFrame, xs: dict[str, str], y: str, label: str, named: int = 8) -> Chart:
    """Points with their labels against several columns, each with its axis' title: a panel each, with y in common."""
    still, axes = plt.subplots(1, len(xs), figsize=(4.5 * len(xs), 4), sharey=True, squeeze=False)
    live = make_subplots(1, len(xs), shared_yaxes=True)
    for i, (x, title) in enumerate(xs.items()):
        axes[0, i].plot(frame[x], frame[y], "o", color=PRESERVED, markersize=4, alpha=0.8)
        name_points(axes[0, i], frame, x, y, label, named)
        axes[0, i].set_xlabel(title)
        live.add_scatter(
            x=frame[x], y=frame[y], text=frame[label], mode="markers", marker_color=PRESERVED, showlegend=False,
            row=1, col=i + 1,
        )  # fmt: skip
        live.update_xaxes(title_text=title, row=1, col=i + 1)
    axes[0, 0].set_ylabel(y)
    live.update_yaxes(title_text=y, row=1, col=1)
    return chart(still, live)


def name_points(axis: plt.Axes, frame: pd.DataFrame, x: str, y: str, label: str, named: int) -> None:
    """Write their labels beside the points that lie furthest from the middle, but for those beside a named one."""
    spread = ((frame[[x, y]] - frame[[x, y]].mean()) / frame[[x, y]].std().replace(0, 1)).pow(2).sum(axis=1)
    places = (frame[[x, y]] - frame[[x, y]].min()) / (frame[[x, y]].max() - frame[[x, y]].min()).replace(0, 1)
    room = pd.Series(ROOM_OF_A_NAME, [x, y])
    told: list[int] = []
    for row in spread.sort_values(ascending=False).index:
        beside = (places.loc[told] - places.loc[row]).abs().lt(room).all(axis=1).any()
        if len(told) == named or beside:
            continue
        told.append(row)
        at = frame.loc[row]
        axis.annotate(str(at[label]), (at[x], at[y]), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axis.margins(x=ROOM_OF_A_NAME[0])


def histogram(frame: pd.DataFrame, value: str, label: str, marked: list[str], axis: str) -> Chart:
    """How `value` is distributed, with the rows whose label is in `marked` as lines."""
    still, panel = plt.subplots(figsize=(7, 3.5))
    panel.hist(frame[value], bins=40, color=PRESERVED, alpha=0.8)
    live = go.Figure(go.Histogram(x=frame[value], nbinsx=40, marker_color=PRESERVED))
    for i, row in enumerate(frame[frame[label].isin(marked)].itertuples()):
        values = row._asdict()
        panel.axvline(values[value], color=ERASED, linewidth=1)
        panel.annotate(
            values[label],
            (values[value], 0.95 - 0.08 * i),
            xycoords=("data", "axes fraction"),
            color=ERASED,
            fontsize=8,
        )
        live.add_vline(x=values[value], line_color=ERASED, annotation_text=values[label])
    panel.set_xlabel(axis)
    panel.set_ylabel("concepts")
    live.update_layout(xaxis_title=axis, yaxis_title="concepts")
    return chart(still, live)


def strips(
    images: dict[str, np.ndarray], captions: list[str], curve: pd.DataFrame, x: str, y: str, group: str
) -> Chart:
    """Rows of images uint8 [N, H, W, 3] by their row's name, with a caption under each column, and below them y over x, a
    curve for each value of `group`.
    """
    columns, rows = max(len(row) for row in images.values()), len(images)
    still = plt.figure(figsize=(0.9 * columns + 1, 1.05 * rows + 2.8))
    above, below = still.subfigures(2, 1, height_ratios=[1.05 * rows + 0.4, 2.4])
    axes, panel = above.subplots(rows, columns, squeeze=False), below.subplots()
    live = make_subplots(
        rows + 1, columns, row_titles=[name.replace("\n", "<br>") for name in images], column_titles=captions,
        specs=[[{}] * columns] * rows + [[{"colspan": columns}, *[None] * (columns - 1)]],
        row_heights=[1.0] * rows + [2.0],
    )  # fmt: skip
    for colour, (name, part) in zip(COLOURS, curve.groupby(group, sort=False)):
        panel.plot(part[x], part[y], color=colour, label=name)
        live.add_scatter(x=part[x], y=part[y], name=name, line_color=colour, mode="lines", row=rows + 1, col=1)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.legend(fontsize=7)
    for i, (name, row) in enumerate(images.items()):
        axes[i, 0].set_ylabel(name, fontsize=7)
        for j in range(columns):
            axes[i, j].set_xticks([])
            axes[i, j].set_yticks([])
            axes[i, j].spines[:].set_visible(False)
            if j < len(row):
                axes[i, j].imshow(row[j])
                live.add_image(z=row[j], row=i + 1, col=j + 1)
            if i + 1 == rows:
                axes[i, j].set_xlabel(captions[j], fontsize=6)
        live.update_xaxes(showticklabels=False, row=i + 1).update_yaxes(showticklabels=False, row=i + 1)
    live.update_xaxes(title_text=x, row=rows + 1).update_yaxes(title_text=y, row=rows + 1)
    return chart(still, live)
