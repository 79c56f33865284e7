"""The flow behind `erase benchmark`: every method on every task, and the table."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
from prefect import flow
from prefect.artifacts import create_markdown_artifact

from erase_core import benchmark as core
from erase_core.files import new_file
from erase_core.preflight import check
from erase_core.results import InUse, free, held
from erase_core.studies.variants import comparable
from tasks import tracking
from tasks.faults import IN_A_ROW, same_fault, surroundings

from .erase import erase
from .missed import catch_up_once
from .parameters import SpecOrFile

SEEDS = [0, 1, 2]
SECONDS_BETWEEN_LOOKS = 20.0
"""How long other processes' runs are left alone when nothing else is left to do."""


@flow(name="benchmark", flow_run_name="{base.name}", log_prints=True, on_running=[catch_up_once])
def benchmark(
    base: SpecOrFile,
    methods: list[str] | None = None,
    tasks: list[str] | None = None,
    seeds: list[int] = SEEDS,
    runs: Path | None = None,
    slots: bool = False,
) -> str:
    """Run methods × tasks × seeds and write the table; returns it as Markdown.

    A run that is in the table of runs already, with the same key, is not run again, wherever it was run; so an interrupted
    benchmark goes on, several processes can share it, and a method can be added without running the others again. Each run is
    added to the table of runs when it ends, whose other rows stay as they are; table.parquet and benchmark.md hold those that this
    base, model and code would give again. A run that fails, as one that diverges does, takes no other with it; when all have
    ended, RunsFailed says which did, and earlier where three in a row failed with the same fault of
    what is around them. Raises InUse while a run of another kind writes to the folder.

    Args:
        base: What every run starts from, or the path of its file; its output is the benchmark's folder.
        methods: Names of methods. Default: all that need no parameters.
        tasks: Names of tasks. Default: all.
        seeds: Each method runs on each task with each of these seeds.
        runs: The table of runs that is taken up and added to. Default: runs.parquet in the output.
        slots: Wait for a slot of this machine before each stage that works.
    """
    methods, tasks = methods or comparable(), tasks or list(core.TASKS)
    core.known(methods, tasks, seeds)
    cells = core.cells(*(list(dict.fromkeys(given)) for given in (methods, tasks, seeds)))
    for cell in cells:
        check(core.spec_of(cell, base))
    specs = {core.key_of(cell, base): core.spec_of(cell, base) for cell in cells}
    folder = Path(base.output)
    folder.mkdir(parents=True, exist_ok=True)
    runs = runs or folder / "runs.parquet"
    failed: dict[str, str] = {}
    faults: list[str | None] = []
    tags = {"kind": "benchmark", "benchmark": base.name}
    with (
        held(folder, shared=True, begin=lambda: tracking.end_abandoned(base.output)),
        tracking.run(base.name, tags=tags, output=base.output, alone=False) as run_id,
    ):
        waiting = list(zip(cells, specs.items()))
        while waiting:
            elsewhere = []
            for cell, (key, spec) in waiting:
                # Another process may have made it since.
                there = key in core.keys_in(runs)
                print(f"benchmark: {cell.label} ({cells.index(cell) + 1} of {len(cells)}){', known' if there else ''}")
                if there:
                    continue
                # A flow that is refused would stand in Prefect as failed.
                if not free(Path(spec.output)):
                    elsewhere.append((cell, (key, spec)))
                    continue
                try:
                    summary = erase(spec, parent=run_id, slots=slots)
                except InUse:
                    elsewhere.append((cell, (key, spec)))
                    continue
                except Exception as error:
                    failed[cell.label] = f"{type(error).__name__}: {error}"
                    faults.append(surroundings(error))
                    print(f"benchmark: {cell.label} failed: {error}")
                    if same := same_fault(faults):
                        print(f"benchmark: {IN_A_ROW} runs in a row failed with {same}: no more are started")
                        raise core.RunsFailed(failed, len(cells)) from None
                    continue
                faults.append(None)
                core.add_row(runs, core.row_of(cell, summary, key))
                write_tables(core.known_rows(runs, base), folder)
            if elsewhere == waiting:
                time.sleep(SECONDS_BETWEEN_LOOKS)
            waiting = elsewhere
        if len(failed) == len(cells):
            raise core.RunsFailed(failed, len(cells))
        text = write_tables(core.known_rows(runs, base), folder)
        for path in (runs, folder / "table.parquet", folder / "benchmark.md"):
            tracking.client().log_artifact(run_id, str(path))
        tracking.set_description(run_id, text, "benchmark.md")
        create_markdown_artifact(text, key="benchmark", description=base.name)
        if failed:
            raise core.RunsFailed(failed, len(cells))
    return text


def write_tables(rows: dict[str, dict], folder: Path) -> str:
    """Write the table of the runs' means to the folder, as Parquet and as Markdown, which is returned."""
    table = core.table(pd.DataFrame(rows.values()))
    text = core.markdown(table)
    with new_file(folder / "table.parquet") as partial:
        table.to_parquet(partial, index=False)
    with new_file(folder / "benchmark.md") as partial:
        partial.write_text(text, encoding="utf-8")
    return text
