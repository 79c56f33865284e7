"""Make alarms on a Prefect server: what becomes of a deployment's run without anybody looking is sent to a webhook.

    python -m infra.alarms https://chat.example.org/hooks/erase

Made again, they replace those that are there. They are Prefect's own automations, on its page of this name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from .environment import prepare
from .servers import find_prefect

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore

FLOWS = ("erase", "batch", "benchmark", "pretrain")
BLOCK = "erase-alarm"
BAD = ("Failed", "Crashed", "TimedOut")
PATIENCE = timedelta(minutes=10)
"""How long a run may be late, or silent: three of its heartbeats."""
LIMIT = "Deployment concurrency limit reached*"
"""What Prefect says of a run that it cancels since one of the same deployment still works."""
# A run's name and an error's words may hold quotes.
PAYLOAD = """{
  "event": "erase.alarm",
  "text": {{ (flow.name ~ "/" ~ deployment.name ~ ": the run " ~ flow_run.name ~ " WHAT") | tojson }},
  "state": {{ flow_run.state.name | tojson }},
  "reason": {{ (flow_run.state.message or "") | tojson }},
  "flow_run": "{{ flow_run.id }}",
  "url": {{ (flow_run | ui_url or "") | tojson }}
}"""


def alarms(block: UUID, patience: timedelta = PATIENCE) -> Iterator[AutomationCore]:
    """The automations that send to a webhook's block. A run that another run starts is left to that one."""
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    def alarm(
        name: str,
        what: str,
        after: tuple[str, ...],
        expect: tuple[str, ...],
        posture: Posture,
        labels: dict[str, str] | None = None,
    ) -> AutomationCore:
        trigger = EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*", **(labels or {})},
            match_related=[
                {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)},
                {"prefect.resource.role": "deployment", "prefect.resource.id": "prefect.deployment.*"},
            ],
            after={f"prefect.flow-run.{each}" for each in after},
            expect={f"prefect.flow-run.{each}" for each in expect},
            for_each={"prefect.resource.id"},
            posture=posture,
            threshold=1,
            within=patience if posture == Posture.Proactive else timedelta(0),
        )
        call = CallWebhook(block_document_id=block, payload=PAYLOAD.replace("WHAT", what))
        return AutomationCore(name=f"erase: {name}", trigger=trigger, actions=[call])

    ends = ("Completed", "Cancelled", *BAD)
    yield alarm("a run failed", "failed", (), BAD, Posture.Reactive)
    told = "was left out, as the one before it still works; does that one hang?"
    yield alarm("a run was left out", told, (), ("Cancelled",), Posture.Reactive, {"prefect.state-message": LIMIT})
    started = ("Pending", "Running", *ends)
    yield alarm("a run did not start", "did not start; is erase serve running?", ("Late",), started, Posture.Proactive)
    heard = ("heartbeat", *ends)
    yield alarm("a run is silent", "is silent; is its machine on?", ("heartbeat",), heard, Posture.Proactive)


def make(address: str, patience: timedelta = PATIENCE) -> list[str]:
    """Make the webhook's block and the alarms, in place of those that are there; returns their names."""
    from prefect.blocks.webhook import Webhook
    from prefect.client.orchestration import get_client

    # Prefect sends the payload as text.
    block = Webhook(url=address, headers={"Content-Type": "application/json"}).save(BLOCK, overwrite=True)
    made = list(alarms(block, patience))
    with get_client(sync_client=True) as client:
        for each in made:
            for former in client.read_automations_by_name(each.name):
                client.delete_automation(former.id)
            client.create_automation(each)
    return [each.name for each in made]


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].startswith(("http://", "https://")):
        sys.exit("give the address of the webhook: python -m infra.alarms https://chat.example.org/hooks/erase")
    prepare()
    try:
        find_prefect()
    except RuntimeError as error:
        sys.exit(str(error))
    print("\n".join(make(sys.argv[1])))
