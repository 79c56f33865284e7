"""Keep what MLflow knows of the benchmark's runs beside their table: a store stays on its machine, and that may go.

python -m benchmarks.tracked_runs
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from erase_core.files import new_file
from infra.environment import prepare

from .benchmark_page import RUNS, TRACKED

if TYPE_CHECKING:
    from mlflow.entities import Run

TEXTS = pa.map_(pa.string(), pa.string())
SCHEMA = pa.schema(
    {
        "mlflow_run": pa.string(),
        "name": pa.string(),
        "status": pa.string(),
        "began": pa.timestamp("ms", "UTC"),
        "ended": pa.timestamp("ms", "UTC"),
        "parameters": TEXTS,
        "metrics": pa.map_(pa.string(), pa.float64()),
        "tags": TEXTS,
    }
)
OF_THE_MACHINE = ("output", "place", "mlflow.user")
"""Parameters and tags that say where a run's files lie and whose they are."""


def told(run: Run) -> dict:
    """A run as a row of the table that is kept."""
    parameters, tags = (
        {name: text for name, text in known.items() if name not in OF_THE_MACHINE}
        for known in (run.data.params, run.data.tags)
    )
    return {
        "mlflow_run": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "began": run.info.start_time,
        "ended": run.info.end_time,
        "parameters": parameters,
        "metrics": run.data.metrics,
        "tags": tags,
    }


def kept(path: Path) -> dict[str, dict]:
    """The rows of the table, by their runs' ids. Empty without a table."""
    rows = pq.read_table(path).to_pylist(maps_as_pydicts="strict") if path.exists() else []
    return {row["mlflow_run"]: row for row in rows}


def keep(runs: list[str], path: Path) -> int:
    """Write what is known of these runs, from this home's store or the table as it was; returns of how many nothing is."""
    # Where MLflow's store is has to be said before MLflow is imported.
    from mlflow import MlflowException

    from tasks.tracking import client

    known = kept(path)
    for run in runs:
        try:
            known[run] = told(client().get_run(run))
        except MlflowException:
            continue
    rows = [known[run] for run in runs if run in known]
    with new_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial, compression="zstd")
    return len(runs) - len(rows)


def main() -> None:
    prepare()
    runs = list(pd.read_parquet(RUNS)["mlflow_run"])
    missing = keep(runs, TRACKED)
    print(f"Where to look: {TRACKED}; of {missing} of {len(runs)} runs nothing is known")


if __name__ == "__main__":
    main()
