"""A schedule with a period of seconds, served for real and observed through the Prefect API."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from tests.servers import PATIENCE, ROOT, prefect_server, until

PERIOD = 1


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[dict[str, str]]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as environment:
        yield environment


def runs(server: dict[str, str]) -> list[dict]:
    """Every flow run that the server knows and that is due, by when it was due."""
    found, offset = [], 0
    due = {"flow_runs": {"expected_start_time": {"before_": datetime.now(UTC).isoformat()}}}
    while True:
        page = {**due, "sort": "EXPECTED_START_TIME_ASC", "offset": offset, "limit": 200}
        answer = (
            httpx.post(f"{server['PREFECT_API_URL']}/flow_runs/filter", json=page, timeout=60).raise_for_status().json()
        )
        found += answer
        if len(answer) < 200:
            return found
        offset += 200


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class Serving:
    """The process that serves the flow."""

    def __init__(self, environment: dict[str, str]):
        command = [sys.executable, "-m", "tests.napping", str(PERIOD)]
        self.process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=PATIENCE)


@pytest.mark.slow
def test_one_run_at_a_time_and_the_missed_ones_are_caught_up_once(server) -> None:
    first = Serving(server)
    try:

        def enough() -> bool:
            states = [run["state_type"] for run in runs(server)]
            return states.count("COMPLETED") >= 2 and states.count("CANCELLED") >= 2

        until(enough)
    finally:
        first.stop()
    stopped = datetime.now(UTC)
    known = runs(server)
    worked = sorted((run for run in known if run["run_count"]), key=lambda run: run["start_time"])
    for one, other in zip(worked, worked[1:]):
        assert moment(other["start_time"]) >= moment(one["end_time"])
    cancelled = [run for run in known if run["state_type"] == "CANCELLED"]
    # The run that is under way when serving ends is cancelled too.
    assert sum(run["run_count"] for run in cancelled) <= 1
    assert "Deployment concurrency limit reached." in {run["state"]["message"] for run in cancelled}

    def missed() -> list[dict]:
        late = [
            r for r in runs(server) if r["state_type"] == "SCHEDULED" and moment(r["expected_start_time"]) > stopped
        ]
        return late if len(late) >= 8 else []

    waiting = {run["id"] for run in until(missed)}
    second = Serving(server)
    try:

        def caught_up() -> list[dict]:
            now = [run for run in runs(server) if run["id"] in waiting]
            return now if all(run["state_type"] in ("COMPLETED", "CANCELLED") for run in now) else []

        after = until(caught_up)
    finally:
        second.stop()
    (worked,) = (run for run in after if run["run_count"])
    assert worked["id"] == min(after, key=lambda run: moment(run["expected_start_time"]))["id"]
    others = {run["state"]["message"] for run in after if run is not worked}
    assert others == {f"Missed; caught up by {worked['name']}."}
