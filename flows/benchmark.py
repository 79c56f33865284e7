"""The flow behind `erase benchmark`: every method on every task, and the table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from prefect import flow
from prefect.artifacts import create_markdown_artifact

from erase_core import benchmark as core
from erase_core import methods as known
from erase_core.files import new_file
from erase_core.preflight import check
from erase_core.spec import Spec
from tasks import tracking

from .erase import erase
from .missed import catch_up_once

SEEDS = [0, 1, 2]


@flow(name="benchmark", flow_run_name="{base.name}", log_prints=True, on_running=[catch_up_once])
def benchmark(
    base: Spec, methods: list[str] | None = None, tasks: list[str] | None = None, seeds: list[int] = SEEDS
) -> str:
    """Run methods × tasks × seeds and write the table; returns it as Markdown.

    Stages that are there already are served from the cache, so an interrupted benchmark goes on and a method can be added
    without running the others again. After each run the tables (runs.parquet, table.parquet, benchmark.md) hold all that is
    finished.

    Args:
        base: What every run starts from; its output is the benchmark's folder.
        methods: Names of methods. Default: all.
        tasks: Names of tasks. Default: all.
        seeds: Each method runs on each task with each of these seeds.
    """
    methods, tasks = methods or known.names(), tasks or list(core.TASKS)
    core.known(methods, tasks)
    cells = core.cells(methods, tasks, seeds)
    specs = [core.spec_of(cell, base) for cell in cells]
    for spec in specs:
        check(spec)
    folder = Path(base.output)
    folder.mkdir(parents=True, exist_ok=True)
    with tracking.run(base.name, tags={"benchmark": base.name}) as run_id:
        rows = []
        for cell, spec in zip(cells, specs):
            print(f"benchmark: {cell.label} ({len(rows) + 1} of {len(cells)})")
            rows.append(core.row_of(cell, erase(spec, parent=run_id)))
            runs = pd.DataFrame(rows)
            table = core.table(runs)
            text = core.markdown(table)
            for name, frame in (("runs", runs), ("table", table)):
                with new_file(folder / f"{name}.parquet") as partial:
                    frame.to_parquet(partial, index=False)
            with new_file(folder / "benchmark.md") as partial:
                partial.write_text(text, encoding="utf-8")
        for name in ("runs.parquet", "table.parquet", "benchmark.md"):
            tracking.client().log_artifact(run_id, str(folder / name))
        tracking.client().set_tag(run_id, "mlflow.note.content", text)
    create_markdown_artifact(text, key="benchmark", description=base.name)
    return text
