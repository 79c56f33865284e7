"""The task that reads a study's findings from its runs and keeps them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.artifacts import create_markdown_artifact

from erase_core import studies
from erase_core.files import new_file
from erase_core.studies.findings import Findings

from . import tracking


@task(name="findings", retries=1, retry_delay_seconds=2)
def find(name: str, outputs: dict[str, str], output: str, run_id: str) -> dict[str, float]:
    """Write a study's table, plot and interactive plot, log them, and return its figures."""
    findings: Findings = studies.load(name).find({label: Path(path) for label, path in outputs.items()})
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(folder / f"{name}.parquet") as partial:
        pq.write_table(pa.Table.from_pandas(findings.table, preserve_index=False), partial)
    with new_file(folder / f"{name}.png") as partial:
        partial.write_bytes(findings.chart.png)
    with new_file(folder / f"{name}.html") as partial:
        partial.write_text(findings.chart.html, encoding="utf-8")
    for suffix in ("parquet", "png", "html"):
        tracking.client().log_artifact(run_id, str(folder / f"{name}.{suffix}"))
    tracking.log_metrics(run_id, {tracking.metric_name(key): value for key, value in findings.figures.items()})
    tracking.client().set_tag(run_id, "mlflow.note.content", f"## {name}\n{findings.said}")
    create_markdown_artifact(f"{findings.said}\n", key=f"study-{name}", description=f"Study: {name}")
    print(findings.said)
    return findings.figures
