"""The flow behind `erase benchmark`: every method on every task, and the table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from prefect import flow
from prefect.artifacts import create_markdown_artifact

from erase_core import benchmark as core
from erase_core.files import new_file
from erase_core.preflight import check
from erase_core.spec import Spec
from tasks import tracking

from .erase import erase


@flow(name="benchmark", flow_run_name="{base.name}", log_prints=True)
def benchmark(base: Spec, methods: list[str], tasks: list[str], seeds: list[int]) -> str:
    """Run methods × tasks × seeds and write the table; returns it as Markdown.

    base: what every run starts from; its output is the benchmark's folder. Stages that are there already are served from the
    cache, so an interrupted benchmark goes on and a method can be added without running the others again. After each run the
    tables (runs.parquet, table.parquet, benchmark.md) hold all that is finished.
    """
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
