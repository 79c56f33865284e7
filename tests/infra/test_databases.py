"""Making the databases in an empty home: what the first commands on a machine do, two of them at once too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest


@pytest.mark.slow
def test_two_first_commands_at_once_make_the_databases_together(tmp_path: Path):
    environment = {**os.environ, "ERASE_HOME": str(tmp_path)}
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "infra.databases"]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(one.communicate()[1], one.returncode) for one in both] == [("", 0), ("", 0)]
    assert (tmp_path / "prefect" / "prefect.db").is_file()
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    assert store.get_experiment_by_name("erase") is not None
