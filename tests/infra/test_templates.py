"""Every template is read by its own tool where that can be installed, and rendered and held to its schema where it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from erase_core.spec import make_spec
from infra import deepspeed_configs
from infra.deployments import load_flow

INFRA = Path(deepspeed_configs.__file__).parent
ROOT = INFRA.parent


def tool(name: str) -> str:
    """A program of the environment or of the machine."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.fail(f"no {name}: make bench installs it")
    return found


def kubernetes() -> dict[str, dict]:
    documents = yaml.safe_load_all((INFRA / "kubernetes" / "training.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_an_installation_has_every_file(monkeypatch) -> None:
    """Also one that is not editable, as in the image: what is no module is packaged too."""
    from setuptools import Distribution

    monkeypatch.chdir(ROOT)
    distribution = Distribution()
    distribution.parse_config_files()
    # What git has is not looked at: in a copy without it the same is to be packaged.
    distribution.include_package_data = False
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    packaged = {str(Path(place) / name) for _, place, _, names in build.data_files for name in names}
    packages = [str(ROOT / name) for name in ("erase_core", "tasks", "flows")]
    kept = subprocess.run(
        ["git", "ls-files", "-z", *packages], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    wanted = {name for name in kept if name and not name.endswith((".py", ".md"))}
    assert wanted and wanted <= {os.path.relpath(name, ROOT) for name in packaged}


def test_deepspeed_configs_are_what_the_training_makes(tmp_path: Path) -> None:
    deepspeed_configs.write(tmp_path)
    made = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    kept = {path.name: json.loads(path.read_text()) for path in (INFRA / "deepspeed").glob("*.json")}
    assert made == kept and len(kept) == 4, "run python -m infra.deepspeed_configs"


def test_every_program_and_file_of_the_compose_file_is_there() -> None:
    text = (INFRA / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    assert set(compose["services"]) == {"postgres", "prefect", "mlflow", "worker"}
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (INFRA / source).exists() if source.startswith(".") else source in compose["volumes"]
    assert set(re.findall(r"\$\{(\w+)", text)) == {"POSTGRES_PASSWORD", "ERASE_DEPLOYMENTS"}
    assert compose["services"]["worker"]["build"]["dockerfile"] == "infra/Dockerfile"
    assert (ROOT / "infra/Dockerfile").is_file()


def test_the_image_has_the_versions_that_the_project_asks_for() -> None:
    docker, project = (INFRA / "Dockerfile").read_text(), (ROOT / "pyproject.toml").read_text()
    for package in ("torch", "deepspeed"):
        (wanted,) = re.findall(rf'"{package}==([\d.]+)"', project)
        assert f"{package}=={wanted}" in docker
    for copied in re.findall(r"^COPY (.+) \S+$", docker, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())


def test_the_job_holds_together() -> None:
    """Its spec is one that runs, and the pods find each other."""
    found = kubernetes()
    job, pod = found["Job"]["spec"], found["Job"]["spec"]["template"]["spec"]
    spec = make_spec(yaml.safe_load(found["ConfigMap"]["data"]["spec.yaml"].replace("1e-5", "0.00001")))
    (container,) = pod["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert job["completions"] == job["parallelism"] == int(variables["PET_NNODES"])
    assert spec.training.processes == job["completions"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert pod["subdomain"] == found["Service"]["metadata"]["name"]
    assert variables["PET_MASTER_ADDR"] == f"{found['Job']['metadata']['name']}-0.{pod['subdomain']}"
    assert found["Service"]["spec"]["selector"] == {"job-name": found["Job"]["metadata"]["name"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_batch_script_parses_and_names_what_is_missing(tmp_path: Path) -> None:
    script = INFRA / "slurm" / "training.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    ran = subprocess.run(["bash", str(script)], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert ran.returncode != 0 and "usage: sbatch" in ran.stderr


def test_the_batch_script_runs_the_spec_and_passes_its_exit_code_on(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "erase"
    command.write_text('#!/bin/sh\necho "$@ $ERASE_HOME $OMP_NUM_THREADS"\nexit 3\n')
    command.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "8",
        "PREFECT_API_URL": "http://prefect/api", "MLFLOW_TRACKING_URI": "http://mlflow",
    }  # fmt: skip
    script = str(INFRA / "slurm" / "training.sbatch")
    ran = subprocess.run(["bash", script, "spec.yaml"], capture_output=True, text=True, env=environment)
    assert ran.returncode == 3, ran.stderr
    assert ran.stdout.split() == ["run", "spec.yaml", f"{tmp_path}/.erase", "8"]


def test_deployments_of_work_pools_name_flows_that_are_there() -> None:
    found = yaml.safe_load((INFRA / "prefect.yaml").read_text())
    for deployment in found["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = load_flow(name)
        assert flow.fn.__module__ == module
        if "parameters" in deployment:
            flow.validate_parameters(deployment["parameters"])
    assert {d["work_pool"]["name"] for d in found["deployments"]} == {
        "erase-process",
        "erase-docker",
        "erase-kubernetes",
    }
    assert all(
        d["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW" for d in found["deployments"] if "schedules" in d
    )


@pytest.mark.slow
def test_compose_takes_its_file() -> None:
    command = [tool("docker-compose"), "--file", str(INFRA / "compose.yaml"), "config"]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "POSTGRES_PASSWORD": "secret"})
    assert ran.returncode == 0, ran.stderr
    rendered = yaml.safe_load(ran.stdout)["services"]
    database = "postgresql+asyncpg://erase:secret@postgres:5432/prefect"
    assert rendered["prefect"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == database
    without = subprocess.run(command, capture_output=True, text=True)
    assert without.returncode != 0 and "set a password" in without.stderr


@pytest.mark.slow
def test_hadolint_takes_the_dockerfile() -> None:
    subprocess.run([tool("hadolint"), str(INFRA / "Dockerfile")], check=True)


@pytest.mark.slow
def test_shellcheck_takes_the_batch_script() -> None:
    subprocess.run([tool("shellcheck"), str(INFRA / "slurm" / "training.sbatch")], check=True)


@pytest.mark.slow
def test_kubernetes_takes_the_job() -> None:
    for version in ("1.33", "1.37"):
        command = [tool("kubernetes-validate"), "--strict", "-k", version, str(INFRA / "kubernetes" / "training.yaml")]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
