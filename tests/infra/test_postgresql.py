"""PostgreSQL in place of SQLite, for Prefect and for MLflow, by one environment variable each: a real server on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.environment import DatabaseError, database
from tests.servers import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A PostgreSQL cluster with the databases prefect and mlflow; yields its address without a database's name."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.fail("no PostgreSQL: apt-get install postgresql")
    # PostgreSQL does not run as root.
    owner = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    folder, port = Path(tempfile.mkdtemp(prefix="erase-postgresql-")), free_port()
    if owner:
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, pwd.getpwnam("postgres").pw_gid)

    def call(program: str, *arguments: str) -> None:
        command = [str(programs[-1] / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **owner)

    call("initdb", "--pgdata", str(folder / "data"), "--username", "erase", "--auth", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    call(
        "pg_ctl",
        "--pgdata",
        str(folder / "data"),
        "--log",
        str(folder / "log"),
        "--options",
        options,
        "--wait",
        "start",
    )
    try:
        for name in ("prefect", "mlflow"):
            call("createdb", "--host", "127.0.0.1", "--port", str(port), "--username", "erase", name)
        yield f"postgresql://erase@127.0.0.1:{port}"
    finally:
        call("pg_ctl", "--pgdata", str(folder / "data"), "--mode", "immediate", "stop")
        shutil.rmtree(folder)


RUN = """
from infra.environment import prepare
prepare()
from tests.napping import nap
from tasks import tracking
nap(0.01)
with tracking.run("on postgresql") as run_id:
    tracking.log_metrics(run_id, {"esr_1": 1.0})
tracking.client().create_registered_model("on-postgresql")
print(tracking.client().get_run(run_id).info.artifact_uri)
"""


def test_runs_are_kept_in_postgresql(cluster: str, tmp_path: Path) -> None:
    import psycopg2

    environment = {name: v for name, v in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {
        "ERASE_HOME": str(tmp_path),
        "ERASE_PREFECT_DATABASE": f"{cluster}/prefect",
        "ERASE_MLFLOW_DATABASE": f"{cluster}/mlflow",
    }
    ran = subprocess.run([sys.executable, "-c", RUN], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr

    def count(name: str, query: str) -> int:
        with psycopg2.connect(f"{cluster}/{name}") as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    assert count("prefect", "select count(*) from flow_run where state_type = 'COMPLETED'") == 1
    assert count("mlflow", "select count(*) from runs where name = 'on postgresql' and status = 'FINISHED'") == 1
    assert count("mlflow", "select count(*) from metrics where key = 'esr_1' and value = 1") == 1
    assert count("mlflow", "select count(*) from registered_models") == 1
    assert ran.stdout.strip().startswith(f"file://{tmp_path}/mlflow/artifacts")
    assert not list(tmp_path.rglob("*.db"))


def test_an_address_gets_the_driver_of_its_server(monkeypatch) -> None:
    monkeypatch.setenv("ERASE_PREFECT_DATABASE", "postgres://u:p@host:5432/prefect")
    assert database("PREFECT", "asyncpg") == "postgresql+asyncpg://u:p@host:5432/prefect"
    monkeypatch.delenv("ERASE_PREFECT_DATABASE")
    assert database("PREFECT", "asyncpg") is None


@pytest.mark.parametrize("address", ["mysql://host/db", "host:5432/db", "/tmp/prefect.db"])
def test_another_database_is_refused_by_name(address: str, monkeypatch) -> None:
    monkeypatch.setenv("ERASE_MLFLOW_DATABASE", address)
    with pytest.raises(DatabaseError, match="ERASE_MLFLOW_DATABASE: .*write postgresql://"):
        database("MLFLOW", "psycopg2")


def test_a_missing_driver_is_named(monkeypatch) -> None:
    monkeypatch.setenv("ERASE_MLFLOW_DATABASE", "postgresql://host/db")
    with pytest.raises(DatabaseError, match=r"needs the package no_such_driver; pip install 'erase\[postgresql\]'"):
        database("MLFLOW", "no_such_driver")
