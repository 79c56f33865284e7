"""`erase serve` and the work pools of prefect.yaml, against a real Prefect server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.command import erase
from tests.servers import ROOT, free_port, prefect_server, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[dict[str, str]]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as environment:
        yield environment


def ask(server: dict[str, str], method: str, path: str, **body: object) -> dict | list:
    """A request that is made again while the server says that its database is busy, as Prefect's own client does."""

    def answer() -> httpx.Response | None:
        given = httpx.request(method, server["PREFECT_API_URL"] + path, timeout=60, **body)
        return None if given.status_code == 503 else given

    return until(answer).raise_for_status().json()


SPEC = {
    "name": "served",
    "concepts": ["taxi"],
    "method": "uce",
    "vocabulary": {"top_k": 20},
    "generation": {"seeds": [0], "steps": 2},
    "scoring": {"preserved": ["bus", "rose"], "resamples": 100},
    "gate": {"min_esr_1": 0},
}


def test_a_run_asked_for_with_json_is_served_and_its_gate_is_an_event(server, tmp_path: Path) -> None:
    """In this machine's slots, as are all; one whose spec's file became wrong fails and says so."""
    file = tmp_path / "spec.yaml"
    file.write_text(json.dumps({**SPEC, "output": str(tmp_path / "other")}))
    (tmp_path / "deployments.yaml").write_text(
        "deployments: {on demand: {flow: erase}, of a file: {flow: erase, parameters: {spec: spec.yaml}}}"
    )
    command = [sys.executable, "-m", "flows.command", "serve", str(tmp_path / "deployments.yaml")]
    command += ["--training-slots", "3"]
    with subprocess.Popen(command, env=server, cwd=ROOT, start_new_session=True) as process:
        try:

            def deployed(name: str) -> dict | None:
                found = ask(server, "POST", "/deployments/filter", json={})
                return next((d for d in found if d["name"] == name), None)

            deployment, of_file = until(lambda: deployed("on demand")), until(lambda: deployed("of a file"))
            assert deployment["parameters"] == {"slots": True}
            file.write_text(json.dumps(SPEC))
            failing = ask(server, "POST", f"/deployments/{of_file['id']}/create_flow_run", json={})
            training = deployment["parameter_openapi_schema"]["definitions"]["Training"]["properties"]
            assert training["steps"]["default"] == 100 and training["steps"]["description"]
            wrong = {"parameters": {"spec": {**SPEC, "training": {"steps": 0}, "output": "o"}}}
            with pytest.raises(httpx.HTTPStatusError, match="409|422"):
                ask(server, "POST", f"/deployments/{deployment['id']}/create_flow_run", json=wrong)
            right = {"parameters": {"spec": {**SPEC, "output": str(tmp_path / "out")}}}
            asked = ask(server, "POST", f"/deployments/{deployment['id']}/create_flow_run", json=right)

            def ended(run: dict) -> dict | None:
                run = ask(server, "GET", f"/flow_runs/{run['id']}")
                return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

            run, failed = until(lambda: ended(asked), patience=900), until(lambda: ended(failing))
            limits = ask(server, "POST", "/v2/concurrency_limits/filter", json={})
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
    assert run["state_type"] == "COMPLETED", run["state"]
    assert failed["state_type"] == "FAILED" and "output: is missing" in failed["state"]["message"], failed["state"]
    assert {each["name"].split("-")[0]: each["limit"] for each in limits} == {"training": 3, "generation": 1}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["gate"]["passed"]

    def said() -> set[str]:
        wanted = {"filter": {"event": {"prefix": ["erase.", "prefect.concurrency-limit."]}}, "limit": 50}
        names = {event["event"] for event in ask(server, "POST", "/events/filter", json=wanted)["events"]}
        told = {"erase.gate.passed", "erase.model.promoted", "prefect.concurrency-limit.acquired"}
        return names if told <= names else set()

    until(said)


# Registers what it is to serve, and ends.
SERVES = """
import os, sys
from pathlib import Path
import prefect
from infra.deployments import read_deployments, serve_deployments
prefect.serve = lambda *built, **_: [each.apply() for each in built]
file = Path(sys.argv[1])
serve_deployments(read_deployments(file), file, os.environ["PREFECT_API_URL"], print)
"""


def test_what_was_paused_stays_so_and_what_is_served_no_longer_goes(server, tmp_path: Path) -> None:
    """Whatever the file says of a deployment that the server has already; those of another file are left alone."""

    def serving(file: str, **paused: bool) -> str:
        given = {name: {"flow": "pretrain", "interval": 86400, "paused": each} for name, each in paused.items()}
        (tmp_path / file).write_text(json.dumps({"deployments": given}))
        command = [sys.executable, "-c", SERVES, str(tmp_path / file)]
        ran = subprocess.run(command, env=server, cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def there() -> dict[str, dict]:
        return {d["name"]: d for d in ask(server, "POST", "/deployments/filter", json={}) if d["name"] in known}

    known = {"nightly", "hourly", "renamed", "of another file"}
    assert serving("other.yaml", **{"of another file": False}) == ""
    assert serving("deployments.yaml", nightly=False, hourly=True, renamed=False) == ""
    assert {name: each["paused"] for name, each in there().items()} == dict.fromkeys(known, False) | {"hourly": True}
    for name, what in (("nightly", "pause"), ("hourly", "resume")):
        httpx.post(
            f"{server['PREFECT_API_URL']}/deployments/{there()[name]['id']}/{what}_deployment"
        ).raise_for_status()
    said = serving("deployments.yaml", nightly=False, hourly=True)
    assert said.startswith("pretrain/renamed is no longer in ") and said.count("\n") == 1
    assert {name: each["paused"] for name, each in there().items()} == {
        "nightly": True,
        "hourly": False,
        "of another file": False,
    }
    (schedule,) = there()["nightly"]["schedules"]
    assert schedule["schedule"]["interval"] == 86400 and schedule["schedule"]["anchor_date"].startswith("2024-01-01")


def test_work_pools_take_every_deployment(server) -> None:
    environment = {**server, "ERASE_WORK": str(ROOT), "MLFLOW_TRACKING_URI": "http://localhost:5000"}

    def prefect(*arguments: str) -> None:
        ran = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            env=environment, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr

    for kind in ("process", "docker"):
        prefect("work-pool", "create", f"erase-{kind}", "--type", kind)
    template = ("--base-job-template", "infra/kubernetes/work-pool.json")
    prefect("work-pool", "create", "erase-kubernetes", "--type", "kubernetes", *template)
    prefect("deploy", "--all", "--prefect-file", "infra/prefect.yaml")
    found = {d["name"]: d for d in ask(server, "POST", "/deployments/filter", json={}) if d["work_pool_name"]}
    assert set(found) == {"process", "nightly", "batch", "benchmark", "pretrain", "docker", "docker-gpu", "kubernetes"}
    assert found["nightly"]["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert found["nightly"]["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
    assert found["docker"]["job_variables"]["image"] == "erase:0.1.0"
    assert found["docker"]["job_variables"]["env"]["ERASE_HOME"] == "/data"
    for name, deployment in found.items():
        (step,) = deployment["pull_steps"]
        (where,) = step.values()
        assert where == {"directory": "/data" if name in ("docker", "docker-gpu", "kubernetes") else str(ROOT)}
        assert deployment["job_variables"]["env"]["MLFLOW_TRACKING_URI"] == "http://localhost:5000"
    assert "Spec" in found["kubernetes"]["parameter_openapi_schema"]["definitions"]


def test_serve_without_a_server_says_how_to_start_one(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}/api"
    ran = erase("serve", PREFECT_API_URL=address, ERASE_HOME=str(tmp_path))
    assert ran.returncode == 2 and "start one with erase up" in ran.stderr and "Traceback" not in ran.stderr


def test_check_ends_with_the_error_or_the_count() -> None:
    ran = erase("serve", "infra/deployments.example.yaml", "--check")
    assert ran.returncode == 0 and "6 deployments" in ran.stdout, ran.stderr
