"""What a scheduled run does about the runs before it that nothing was there to start."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from prefect import Flow, State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled


def overdue(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """The runs of a deployment that its schedule made, are due, and were not started; the oldest first."""
    due = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(before_=datetime.now(UTC)),
    )
    found = client.read_flow_runs(flow_run_filter=due, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
    return [run for run in found if run.auto_scheduled]


def cancel_as_missed(client: SyncPrefectClient, missed: FlowRun, by: FlowRun) -> None:
    client.set_flow_run_state(missed.id, Cancelled(message=f"Missed; caught up by {by.name}."), force=True)


def catch_up_once(flow: Flow, run: FlowRun, state: State) -> None:
    """A flow's on_running hook: cancel the deployment's other scheduled runs that are due, since this one does their work."""
    if run.deployment_id is None or not run.auto_scheduled:
        return
    with get_client(sync_client=True) as client:
        for missed in overdue(client, run.deployment_id):
            if missed.id != run.id:
                cancel_as_missed(client, missed, run)
