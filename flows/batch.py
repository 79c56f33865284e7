"""The flow behind `erase batch`: a run for every list, side by side in slots, and a table of what became of each."""

from __future__ import annotations

import threading
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from erase_core import batch as core
from erase_core.files import digest
from erase_core.preflight import check_hub
from erase_core.publishing import finished
from erase_core.results import held
from erase_core.spec import Spec
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import parse_mapping, read_text
from tasks import tracking
from tasks.progress import go_on, reporting, stopping
from tasks.slots import open_slots

from .erase import erase
from .missed import catch_up_once

LISTS_A_SLOT = 2
"""How many lists are under way for each slot, so that one is ready whenever a slot is free."""


@task(name="list", task_run_name="{name}")
def run_list(name: str, spec: Spec, parent: str) -> dict:
    """One list's run, below the batch's run in MLflow; returns its summary."""
    go_on()
    return erase(spec, parent=parent, slots=True)


def run_name() -> str:
    """The name in the batch's spec; the file's where it has none, so that the run's own error can say so."""
    path = Path(flow_run.parameters["spec"])
    try:
        return str(parse_mapping(read_text(path), str(path))["name"])
    except (SpecError, KeyError):
        return path.stem


@flow(name="batch", flow_run_name=run_name, log_prints=True, on_running=[catch_up_once])
def batch(spec: Path, lists: Path, training_slots: int = 1, generation_slots: int = 1) -> list[dict]:
    """Run a spec for many lists of concepts and return the table of what became of each: done, cached, or failed and why.

    A list whose results are whole is not run again. A list that fails takes no other with it; when all have ended, ListsFailed says
    which did. An interrupt stops the lists under way. Raises SpecError before anything is run when a list cannot be, and InUse
    while another batch has the output.

    Args:
        spec: The YAML file of a spec without concepts; its output is the batch's folder.
        lists: A folder of NAME.txt, a concept a line, with a list's own settings in NAME.yaml; or a CSV or Parquet table.
        training_slots: How many trainings this machine does at once.
        generation_slots: How much other work on a model it does at once: images, scores, embeddings.
    """
    base, specs = core.read_specs(spec, lists)
    check_hub(*specs.values())
    name = base["name"]
    folder = Path(base["output"])
    folder.mkdir(parents=True, exist_ok=True)
    slots = {"training": training_slots, "generation": generation_slots}
    # One run in MLflow for all nights of a batch, with every list's newest run below it.
    tags = {"kind": "batch", "batch": digest(name, str(folder.resolve()))}
    interrupted = threading.Event()
    stopping.set(interrupted)
    with (
        held(folder),
        open_slots(**slots),
        tracking.run(name, tags=tags, output=base["output"], same="batch") as run_id,
    ):
        rows, done = {}, []

        def keep(one: str, status: str, **found: object) -> None:
            rows[one] = core.row_of(one, specs[one], status, **found)
            core.write_table(folder / "batch.parquet", [rows[other] for other in specs if other in rows])

        for one, spec in specs.items():
            summary = finished(spec)
            tracked = summary and tracking.whole_run(spec.name, summary["keys"])
            if tracked:
                keep(one, "cached", summary={**summary, "mlflow_run": tracked})
        with ThreadPoolTaskRunner(max_workers=LISTS_A_SLOT * sum(slots.values())) as runner:
            under_way: dict[PrefectFuture, str] = {
                runner.submit(run_list, {"name": one, "spec": specs[one], "parent": run_id}): one
                for one in specs
                if one not in rows
            }
            try:
                with reporting("lists", "batch-progress") as report:
                    report(len(rows), len(specs))
                    for future in as_completed(list(under_way)):
                        one, found = under_way[future], future.result(raise_on_failure=False)
                        if isinstance(found, BaseException):
                            keep(one, "failed", reason=f"{type(found).__name__}: {found}")
                        else:
                            done.append(found)
                            keep(one, "done", summary=found)
                        report(len(rows), len(specs), f"{one}: {rows[one]['status']}")
            except BaseException:
                # The runner waits for its threads, and they for their stages.
                interrupted.set()
                raise
        table = [rows[one] for one in specs]
        # What somebody must look at comes first, as a description holds some fifty lists.
        ordered = sorted(table, key=lambda row: row["status"] != "failed" and row["gate"] != core.REJECTED)
        tracking.log_table(run_id, table, folder / "batch.parquet", core.markdown(ordered))
        counts = {f"lists/{status}": sum(row["status"] == status for row in table) for status in core.STATUSES}
        counts["lists/rejected"] = sum(row["gate"] == core.REJECTED for row in table)
        shares = {f"slots_busy/{kind}": share for kind, share in core.busy(done, slots).items()}
        tracking.log_metrics(run_id, {**counts, **shares})
        create_table_artifact(table=table, key="batch", description=f"Lists of {name}")
        if counts["lists/failed"]:
            raise core.ListsFailed(table)
    return table
