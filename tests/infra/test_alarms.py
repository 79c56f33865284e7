"""The alarms, on a real Prefect server, as a webhook hears them."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import uuid4

import httpx
import pytest

from tests.servers import ROOT, prefect_server, until

pytestmark = pytest.mark.slow
# Proactive triggers take ten seconds at least.
MAKES = """
import sys
from datetime import timedelta
from infra.alarms import make
print(make(sys.argv[1], timedelta(seconds=10)))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[dict[str, str]]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as environment:
        yield environment


@pytest.fixture(scope="module")
def webhook() -> Iterator[tuple[str, queue.Queue]]:
    """A webhook's address, and what it was sent."""
    heard: queue.Queue = queue.Queue()

    class Hears(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            heard.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    hook = HTTPServer(("127.0.0.1", 0), Hears)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{hook.server_port}/", heard
    hook.shutdown()


def ask(server: dict[str, str], path: str, **body: object) -> dict:
    def answer() -> httpx.Response | None:
        given = httpx.post(server["PREFECT_API_URL"] + path, timeout=60, json=body)
        return None if given.status_code == 503 else given

    given = until(answer).raise_for_status()
    return given.json() if given.content else {}


def test_alarms(server, webhook) -> None:
    address, heard = webhook
    command = [sys.executable, "-m", "infra.alarms", address]
    subprocess.run(command, env=server, cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-c", MAKES, address], env=server, cwd=ROOT, check=True)
    found = ask(server, "/automations/filter")
    assert sorted(each["name"] for each in found) == [
        "erase: a run did not start",
        "erase: a run failed",
        "erase: a run is silent",
        "erase: a run was left out",
    ]

    flows = {name: ask(server, "/flows/", name=name)["id"] for name in ("erase", "another")}
    nightly, other = (
        ask(server, "/deployments/", name="nightly", flow_id=flow, entrypoint="flows.erase.erase")["id"]
        for flow in flows.values()
    )

    def run(deployment: str | None, state: str, name: str, message: str | None = None) -> str:
        if deployment:
            made = ask(server, f"/deployments/{deployment}/create_flow_run", name=name)["id"]
        else:
            made = ask(server, "/flow_runs/", name=name, flow_id=flows["erase"])["id"]
        given = {"type": "SCHEDULED" if state == "Late" else state.upper(), "name": state, "message": message}
        ask(server, f"/flow_runs/{made}/set_state", state=given, force=True)
        return made

    def told() -> dict:
        return heard.get(timeout=240)

    # Those of other projects, of other runs, and what was cancelled are nobody's alarm.
    run(other, "Failed", "other")
    run(None, "Failed", "a part")
    run(nightly, "Cancelled", "cancelled")
    failed = run(nightly, "Failed", 'the "taxi"', 'line one\nsaid "no"')
    assert (said := told())["flow_run"] == failed, said
    assert said["text"] == 'erase/nightly: the run the "taxi" failed' and said["state"] == "Failed"
    assert said["reason"] == 'line one\nsaid "no"' and said["url"].endswith(failed)
    crashed = run(nightly, "Crashed", "crashed")
    assert told()["flow_run"] == crashed

    # One of these, which Prefect cancels itself.
    alone = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
    weekly = ask(
        server, "/deployments/", name="weekly", flow_id=flows["erase"], entrypoint="flows.erase.erase", **alone
    )
    runs = [ask(server, f"/deployments/{weekly['id']}/create_flow_run", name=name)["id"] for name in ("works", "due")]
    for each in runs:
        ask(server, f"/flow_runs/{each}/set_state", state={"type": "PENDING"})
    assert (said := told())["flow_run"] == runs[1] and "was left out" in said["text"], said
    assert said["reason"] == "Deployment concurrency limit reached."

    late = run(nightly, "Late", "late")
    assert (said := told())["flow_run"] == late and "did not start" in said["text"], said
    silent = run(nightly, "Running", "silent")
    beat = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{silent}", "prefect.resource.name": "silent"},
        "related": [
            {
                "prefect.resource.id": f"prefect.flow.{flows['erase']}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": "erase",
            },
            {"prefect.resource.id": f"prefect.deployment.{nightly}", "prefect.resource.role": "deployment"},
        ],
    }
    httpx.post(server["PREFECT_API_URL"] + "/events", json=[beat], timeout=60).raise_for_status()
    assert (said := told())["flow_run"] == silent and "is silent" in said["text"], said
    assert heard.empty()
