"""What a scheduled run does about the runs before it that nothing was there to start."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import Flow, State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled


def catch_up_once(flow: Flow, run: FlowRun, state: State) -> None:
    """A flow's on_running hook: cancel the deployment's other scheduled runs that are due, since this one does their work."""
    if run.deployment_id is None or not run.auto_scheduled:
        return
    overdue = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(before_=datetime.now(UTC)),
    )
    with get_client(sync_client=True) as client:
        for missed in client.read_flow_runs(flow_run_filter=overdue):
            if missed.auto_scheduled and missed.id != run.id:
                client.set_flow_run_state(missed.id, Cancelled(message=f"Missed; caught up by {run.name}."), force=True)
