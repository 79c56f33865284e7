"""`erase up` serves both pages, says where, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from erase_core.files import home
from infra.servers import answers, log_of
from tasks.tracking import experiment_id
from tests.command import erase, erase_here
from tests.servers import free_port


def test_up() -> None:
    page = f"/#/experiments/{experiment_id()}/runs"
    ports = free_port(), free_port()
    command = [
        sys.executable,
        "-m",
        "flows.command",
        "up",
        "--prefect-port",
        str(ports[0]),
        "--mlflow-port",
        str(ports[1]),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            said = [process.stdout.readline() for _ in range(3)]
            assert f"http://127.0.0.1:{ports[0]}" in said[0] and f"http://127.0.0.1:{ports[1]}{page}\n" in said[1], said
            for url in (f"http://127.0.0.1:{ports[0]}/api/health", f"http://127.0.0.1:{ports[1]}/health"):
                assert urllib.request.urlopen(url, timeout=30).status == 200
            assert f"dashboard at http://127.0.0.1:{ports[0]}" in log_of("Prefect").read_text()
            assert "MLflow" in log_of("MLflow").read_text()
            # Everybody on a machine can read commands, and a store's address may hold a password.
            servers = psutil.Process(process.pid).children(recursive=True)
            assert len(servers) >= 2 and os.environ["MLFLOW_TRACKING_URI"] not in str([s.cmdline() for s in servers])
            # What a run gives the server to keep lies in the home, wherever the server was started.
            client = MlflowClient(f"http://127.0.0.1:{ports[1]}")
            run = client.create_run(client.create_experiment("served"))
            client.log_text(run.info.run_id, "kept", "served.txt")
            (found,) = (home() / "mlflow").rglob("served.txt")
            assert found.read_text() == "kept"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    assert not any(answers(port) for port in ports)


LOGS = """
from infra.environment import prepare
prepare()
from tasks import tracking
with tracking.run("elsewhere") as run_id:
    tracking.client().log_text(run_id, "kept", "elsewhere.txt")
"""


@pytest.mark.slow
def test_the_files_of_another_machine_s_runs_go_to_a_server_that_is_for_others(tmp_path: Path) -> None:
    ports, first = (free_port(), free_port()), {"ERASE_HOME": str(tmp_path / "first")}
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-m", "flows.command", "up", "--for-others"]
    command += ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]

    def logs(**own: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", LOGS], env=inherited | own, capture_output=True, text=True)

    with subprocess.Popen(command, env=inherited | first, stdout=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(3):
                process.stdout.readline()
            ran = logs(ERASE_HOME=str(tmp_path / "second"), MLFLOW_TRACKING_URI=f"http://127.0.0.1:{ports[1]}")
            assert ran.returncode == 0, ran.stderr
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    (kept,) = tmp_path.rglob("elsewhere.txt")
    assert kept.is_relative_to(tmp_path / "first" / "mlflow" / "artifacts")
    assert "StoreError: MLFLOW_TRACKING_URI: " in logs(**first).stderr


# A server that listens; MLflow's then ends.
STAND_IN = f"""#!{sys.executable} -IS
import signal, socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))) as server:
    server.accept()
    print("said", sys.argv[2], flush=True)
    ENDS if "mlflow" in sys.argv else time.sleep(60)
"""


@pytest.mark.parametrize(
    ("ends", "told"),
    [("sys.exit(7)", "ended with exit code 7"), ("signal.raise_signal(signal.SIGKILL)", "was killed by SIGKILL")],
)
def test_a_server_that_ends_is_named_and_stops_the_other(ends: str, told: str, tmp_path: Path, monkeypatch) -> None:
    python = tmp_path / "python"
    python.write_text(STAND_IN.replace("ENDS", ends))
    python.chmod(0o755)
    monkeypatch.setattr("infra.servers.sys.executable", str(python))
    ports = free_port(), free_port()
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        ran = erase_here("up", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1]))
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert ran.returncode == 2 and f"the MLflow server {told}; both are stopped; {log_of('MLflow')}" in ran.stderr, ran
    # Of this start alone.
    assert log_of("MLflow").read_text() == "said mlflow\n"
    assert not any(answers(port) for port in ports)


SERVE = """
import sys
from infra.environment import prepare
prepare()
from infra.servers import serve
sys.executable = sys.argv[1]
serve(int(sys.argv[2]), int(sys.argv[3]), lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed_stops_both_unless_it_is_to_be_ignored(ignored: bool, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(STAND_IN.replace("ENDS", "time.sleep(60)"))
    python.chmod(0o755)
    ports = free_port(), free_port()
    nohup = ["nohup"] if ignored else []
    command = [*nohup, sys.executable, "-c", SERVE, str(python), *map(str, ports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        try:
            assert "Ctrl-C stops both" in [process.stdout.readline() for _ in range(3)][-1]
            process.send_signal(signal.SIGHUP)
            if ignored:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(timeout=2)
                assert all(answers(port) for port in ports)
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            for child in psutil.Process(process.pid).children() if process.poll() is None else []:
                child.kill()
            process.kill()
    assert not any(answers(port) for port in ports)


def test_a_server_that_does_not_start_is_named_with_its_log(tmp_path: Path, monkeypatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no room\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("infra.servers.sys.executable", str(python))
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    port, other = free_port(), free_port()
    try:
        ran = erase_here("up", "--prefect-port", str(port), "--mlflow-port", str(other))
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert ran.returncode == 2 and f"Prefect did not start on port {port}; {log_of('Prefect')} says why" in ran.stderr
    assert log_of("Prefect").read_text() == "no room\n"


@pytest.mark.parametrize(
    ("ports", "told"),
    [(("70000", "5000"), "--prefect-port"), (("5000", "5000"), "mlflow_port: 5000 is the Prefect server's too")],
)
def test_ports_that_cannot_be_are_refused(ports: tuple[str, str], told: str) -> None:
    ran = erase_here("up", "--prefect-port", ports[0], "--mlflow-port", ports[1])
    assert ran.returncode == 2 and told in ran.stderr and "Traceback" not in ran.stderr


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ran = erase("up", "--prefect-port", port)
    assert ran.returncode == 2 and f"port {port} is taken" in ran.stderr and "Traceback" not in ran.stderr


def test_a_store_that_is_a_server_is_named() -> None:
    ran = erase("up", MLFLOW_TRACKING_URI="http://127.0.0.1:5000")
    assert ran.returncode == 2 and "MLFLOW_TRACKING_URI: http://127.0.0.1:5000 is a server already" in ran.stderr
