"""What a Prefect server has of deployments from when they were served before."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from erase_core.files import alone, digest, home, read_json, write_json
from flows.missed import cancel_as_missed, overdue


def take_over(names: Iterable[str], file: Path, server: str, say: Callable[[str], None]) -> dict[str, bool]:
    """Make a server ready for the deployments of a file, each "flow/name", to be served again.

    Returns whether they are paused, of those that the server has. What was served of this file, and is in it no longer, is deleted:
    its schedule would go on. Of what was due while nothing served the oldest run of each deployment is left, for one does the work
    of all.
    """
    names, paused = set(names), {}
    record = home() / "served" / f"{digest(server, str(file.resolve()))}.json"
    with alone(record), get_client(sync_client=True) as client:
        before = set(read_json(record)) if record.exists() else set()
        for name in sorted(before - names):
            if (gone := known(client, name)) is not None:
                client.delete_deployment(gone.id)
                say(f"{name} is no longer in {file}: deleted from the server, with its schedule. Its runs stay.")
        for name in sorted(names):
            if (there := known(client, name)) is not None:
                paused[name] = there.paused
                leave_the_oldest(client, there)
        write_json(record, sorted(names))
    return paused


def known(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def leave_the_oldest(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    """Cancel all of a deployment's scheduled runs that are due but the oldest, since that one does their work."""
    # Prefect starts all that are due at once, and would cancel the others for its own reason, which is an alarm.
    # It tells of a part of them at once.
    while len(due := overdue(client, deployment.id)) > 1:
        for missed in due[1:]:
            cancel_as_missed(client, missed, due[0])
