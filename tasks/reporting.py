"""The task that writes a run's results, and the table that Prefect shows."""

from __future__ import annotations

import re

from prefect import task
from prefect.artifacts import create_table_artifact

from erase_core import publishing
from erase_core.artifacts import Artifact
from erase_core.spec import Spec

from .progress import worth_retrying
from .slots import slot


@task(name="publish", retries=1, retry_delay_seconds=2, retry_condition_fn=worth_retrying)
def publish_results(spec: Spec, artifacts: dict[str, Artifact], slots: bool = False) -> dict[str, bytes]:
    """Write the model, the tables, the summary and the report to the output folder; returns the figures as PNG by name."""
    with slot("generation", slots):
        return publishing.publish(spec, artifacts)


@task(name="summary-table")
def show_summary(name: str, metrics: dict[str, float]) -> None:
    """Show a run's figures as a table in Prefect."""
    rows = [
        {
            "metric": metric,
            "value": round(value, 4),
            "low": round(metrics[f"{metric}_low"], 4),
            "high": round(metrics[f"{metric}_high"], 4),
        }
        for metric, value in metrics.items()
        if f"{metric}_low" in metrics
    ]
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    create_table_artifact(table=rows, key=f"summary-{key}", description=f"Scores of {name}")
