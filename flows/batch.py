"""The flow behind `erase batch`: a run for every list, side by side in slots, and a table of what became of each."""

from __future__ import annotations

import contextvars
import threading
from pathlib import Path
from typing import Annotated

from prefect import State, flow, task
from prefect.artifacts import create_table_artifact
from prefect.futures import as_completed
from prefect.runtime import flow_run
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from erase_core import batch as core
from erase_core.preflight import check_hub
from erase_core.publishing import finished
from erase_core.results import held
from erase_core.spec import Spec
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import parse_mapping, read_text
from tasks import tracking
from tasks.faults import IN_A_ROW, may_pass, same_fault, surroundings
from tasks.progress import go_on, reporting, stopping
from tasks.slots import open_slots, shared_cores

from .erase import erase
from .missed import catch_up_once

Slots = Annotated[int, Field(ge=1)]
LISTS_A_SLOT = 2
"""How many lists are under way for each slot, so that one is ready whenever a slot is free."""
closed: contextvars.ContextVar[threading.Event] = contextvars.ContextVar("closed")
"""Set when no more lists of the batch are to be started."""


@task(name="list", task_run_name="{name}")
def run_list(name: str, spec: Spec, parent: str) -> dict | State:
    """One list's run, below the batch's run in MLflow; returns its summary. Cancelled where no more lists are to be started."""
    go_on()
    if closed.get().is_set():
        return Cancelled(message="Not started.")
    return erase(spec, parent=parent, slots=True)


def run_name() -> str:
    """The name in the batch's spec; the file's where it has none, so that the run's own error can say so."""
    path = Path(flow_run.parameters["spec"])
    try:
        return str(parse_mapping(read_text(path), str(path))["name"])
    except (SpecError, KeyError):
        return path.stem


@flow(name="batch", flow_run_name=run_name, log_prints=True, on_running=[catch_up_once])
def batch(
    spec: Path,
    lists: Path,
    training_slots: Slots | None = None,
    generation_slots: Slots | None = None,
    skip_wrong: bool = False,
) -> list[dict]:
    """Run a spec for many lists of concepts and return the table of what became of each: done, cached, or failed and why.

    A list whose results are whole is not run again. A list that fails takes no other with it, and is tried once more at the end
    where that may help; when all have ended, ListsFailed says which failed. Three that fail in a row with the same fault of what
    is around them, such as a full disk, end the batch: no more lists are started. An interrupt stops the lists under way. Raises
    SpecError before anything is run when a list cannot be, and InUse while another batch has the output.

    Args:
        spec: The YAML file of a spec without concepts; its output is the batch's folder.
        lists: A folder of NAME.txt, a concept a line, with a list's own settings in NAME.yaml; or a CSV or Parquet table.
        training_slots: How many trainings this machine does at once. Default: the slots that are open here, or 1.
        generation_slots: How much other work on a model it does at once: images, scores, embeddings. Default: the same.
        skip_wrong: A list that cannot be used is failed in the table, and the others run.
    """
    base, specs, wrong = core.read_specs(spec, lists, skip_wrong)
    # Each list's run asks the hub too, and then fails alone.
    if not skip_wrong:
        check_hub(*specs.values())
    name = base["name"]
    folder = Path(base["output"])
    folder.mkdir(parents=True, exist_ok=True)
    # One run in MLflow for all nights of a batch, with every list's newest run below it.
    tags = {"kind": "batch", "batch": core.tag_of(base)}
    interrupted, enough = threading.Event(), threading.Event()
    stopping.set((*stopping.get(), interrupted))
    closed.set(enough)
    with (
        held(folder),
        open_slots(training_slots, generation_slots) as slots,
        shared_cores(sum(slots.values())),
        tracking.run(name, tags=tags, output=base["output"], same="batch") as run_id,
    ):
        rows, done, faults, cause = {}, [], [], ""

        def keep(one: str, status: str, **found: object) -> None:
            rows[one] = core.row_of(one, specs.get(one), status, **found)
            core.write_table(folder / "batch.parquet", [rows[other] for other in (*specs, *wrong) if other in rows])

        def run_all(names: list[str]) -> list[str]:
            """Run lists and keep what became of each; returns those that failed with what may pass."""
            nonlocal cause
            given = {one: {"name": one, "spec": specs[one], "parent": run_id} for one in names}
            under_way, again = {runner.submit(run_list, given[one]): one for one in names}, []
            for future in as_completed(list(under_way)):
                one, found = under_way[future], future.result(raise_on_failure=False)
                if future.state.is_cancelled():
                    # One that was tried before keeps its error.
                    if one not in rows:
                        keep(one, core.NOT_STARTED, reason=f"{cause}; run the batch again to go on")
                elif isinstance(found, BaseException):
                    keep(one, "failed", reason=f"{type(found).__name__}: {found}")
                    again += [one] if may_pass(found) else []
                    faults.append(surroundings(found))
                else:
                    done.append(found)
                    keep(one, "done", summary=found)
                    faults.append(None)
                if not enough.is_set() and (same := same_fault(faults)):
                    cause = f"{IN_A_ROW} lists in a row failed with {same}"
                    print(f"{cause}: no more are started.")
                    enough.set()
                report(len(rows), len(specs) + len(wrong), f"{one}: {rows[one]['status']}")
            return again

        for one, problems in wrong.items():
            keep(one, "failed", reason=problems)
        for one, spec in specs.items():
            summary = finished(spec)
            tracked = summary and tracking.whole_run(spec.name, summary["keys"])
            if tracked:
                keep(one, "cached", summary={**summary, "mlflow_run": tracked})
        with ThreadPoolTaskRunner(max_workers=LISTS_A_SLOT * sum(slots.values())) as runner:
            try:
                with reporting("lists", "batch-progress") as report:
                    report(len(rows), len(specs) + len(wrong))
                    again = run_all([one for one in specs if one not in rows])
                    if again and not enough.is_set():
                        print(f"Tried once more: {', '.join(again)}")
                        faults.clear()
                        run_all(again)
            except BaseException:
                # The runner waits for its threads, and they for their stages.
                interrupted.set()
                raise
        table = [rows[one] for one in (*specs, *wrong)]
        # What somebody must look at comes first, as a description holds some fifty lists.
        ordered = sorted(table, key=lambda row: row["status"] != "failed" and row["gate"] != core.REJECTED)
        tracking.log_table(run_id, table, folder / "batch.parquet", core.markdown(ordered))
        counts = {f"lists/{status}": sum(row["status"] == status for row in table) for status in core.STATUSES}
        counts["lists/rejected"] = sum(row["gate"] == core.REJECTED for row in table)
        shares = {f"slots_busy/{kind}": share for kind, share in core.busy(done, slots).items()}
        tracking.log_metrics(run_id, {**counts, **shares}, tracking.log_night(run_id, folder / "batch.parquet"))
        create_table_artifact(table=table, key="batch", description=f"Lists of {name}")
        if counts["lists/failed"]:
            raise core.ListsFailed(table)
    return table
