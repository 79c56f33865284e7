"""Every template is read by its own tool where that can be installed, and rendered and held to its schema where it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
import yaml
from prefect.utilities.templating import apply_values

from erase_core.cautions import cautions
from erase_core.distributed.ranks import launch_environment
from erase_core.preflight import EXTRAS
from erase_core.spec import make_spec
from flows.command.app import refuse
from flows.command.runs import GATE_FAILED
from infra import deepspeed_configs
from infra.deployments import load_flow
from infra.environment import RUNS

INFRA = Path(deepspeed_configs.__file__).parent
ROOT = INFRA.parent


def tool(name: str) -> str:
    """A program of the environment or of the machine."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.fail(f"no {name}: make bench installs it")
    return found


def kubernetes() -> dict[str, dict]:
    """What is applied for a run, by its kind."""
    texts = [(INFRA / "kubernetes" / name).read_text() for name in ("data.yaml", "training.yaml")]
    return {document["kind"]: document for text in texts for document in yaml.safe_load_all(text)}


def deployments() -> dict[str, dict]:
    """What Prefect deploys from prefect.yaml, each with its own steps or else the file's."""
    found = yaml.safe_load((INFRA / "prefect.yaml").read_text())
    return {d["name"]: {"pull": found["pull"], **d} for d in found["deployments"]}


def manifest(variables: dict) -> dict:
    """The Job that a worker of the work pool makes for these variables."""
    template = json.loads((INFRA / "kubernetes" / "work-pool.json").read_text())
    declared = template["variables"]["properties"]
    assert set(variables) <= set(declared)
    values = {name: each["default"] for name, each in declared.items() if each.get("default") is not None}
    named = {"name": "taxi", "labels": {"app": "erase"}, "command": ["prefect", "flow-run", "execute"]}
    return apply_values(template["job_configuration"], {**values, **named, **variables})["job_manifest"]


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
        assert "PASSWORD" not in str(service.get("command")), "everybody on the host can read commands"
    assert set(re.findall(r"\$\{(\w+)", text)) == {"POSTGRES_PASSWORD", "ERASE_DEPLOYMENTS", "ERASE_UID"}
    prefect = compose["services"]["prefect"]
    assert prefect["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("filesystem")
    volume, place = prefect["volumes"][0].split(":")
    kept = Path(prefect["environment"]["PREFECT_HOME"])
    assert volume in compose["volumes"] and kept.is_relative_to(place), "leases outlive the container"
    assert compose["services"]["worker"]["build"]["dockerfile"] == "infra/Dockerfile"
    assert (ROOT / "infra/Dockerfile").is_file()


def test_the_image_has_the_versions_that_the_project_asks_for() -> None:
    docker, project = (INFRA / "Dockerfile").read_text(), (ROOT / "pyproject.toml").read_text()
    for package in ("torch", "deepspeed"):
        (wanted,) = re.findall(rf'"{package}==([\d.]+)"', project)
        assert f"{package}=={wanted}" in docker
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", docker)
    assert set(EXTRAS) | {"postgresql", "workers"} <= set(extras.split(","))
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
    gpus = job["completions"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert spec.training.processes == spec.generation.processes == spec.scoring.processes == gpus
    assert spec.metrics == ["erasure", "clip_score", "image_distance"] and cautions(spec) == []
    assert pod["subdomain"] == found["Service"]["metadata"]["name"]
    assert variables["PET_MASTER_ADDR"] == f"{found['Job']['metadata']['name']}-0.{pod['subdomain']}"
    assert found["Service"]["spec"]["selector"] == {"job-name": found["Job"]["metadata"]["name"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    claims = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": found["PersistentVolumeClaim"]["metadata"]["name"]}]
    assert {d["metadata"].get("namespace", d["metadata"]["name"]) for d in found.values()} == {"erase"}


def test_the_job_ends_with_what_another_try_would_end_with() -> None:
    """Kubernetes takes such a policy only for pods that are not restarted in place."""
    job = kubernetes()["Job"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["containers"]
    with pytest.raises(typer.Exit) as refused:
        refuse("wrong")
    exits = {"containerName": container["name"], "operator": "In", "values": [refused.value.exit_code, GATE_FAILED]}
    assert rule == {"action": "FailJob", "onExitCodes": exits}
    assert job["template"]["spec"]["restartPolicy"] == "Never" and job["backoffLimit"] > 0


def test_the_batch_script_parses_and_names_what_is_missing(tmp_path: Path) -> None:
    script = INFRA / "slurm" / "training.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    ran = subprocess.run(["bash", str(script)], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert ran.returncode != 0 and "usage: sbatch" in ran.stderr


def batch_script(folder: Path, command: str) -> subprocess.Popen:
    """The batch script, started as Slurm would, with a stand-in for the command."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    erase = folder / ".venv" / "bin" / "erase"
    erase.write_text(f"#!/bin/sh\n{command}\n")
    erase.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(folder), "SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "32",
        "PREFECT_API_URL": "http://prefect/api", "MLFLOW_TRACKING_URI": "http://mlflow",
    }  # fmt: skip
    script = str(INFRA / "slurm" / "training.sbatch")
    return subprocess.Popen(["bash", script, "spec.yaml"], stdout=subprocess.PIPE, text=True, env=environment)


def test_the_batch_script_runs_the_spec_and_passes_its_exit_code_on(tmp_path: Path) -> None:
    with batch_script(tmp_path, 'echo "$@ $ERASE_HOME"; exit 3') as script:
        said = script.communicate(timeout=30)[0]
    assert script.returncode == 3
    assert said.split() == ["run", "spec.yaml", f"{tmp_path}/.erase"]


def test_every_rank_of_the_batch_script_has_its_cores(tmp_path: Path, monkeypatch) -> None:
    """Two nodes of four ranks each, with eight cores a rank."""
    with batch_script(tmp_path, 'echo "$OMP_NUM_THREADS $SRUN_CPUS_PER_TASK"') as script:
        threads, cores = script.communicate(timeout=30)[0].split()
    srun = tmp_path / "srun"
    srun.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    environment = {"OMP_NUM_THREADS": threads, "SLURM_JOB_NUM_NODES": "2"}
    (tmp_path / "job.json").write_text("{}")
    launched = launch_environment(environment, tmp_path / "job.json", "attempt", 8, None)
    assert launched["OMP_NUM_THREADS"] == cores == "8"


def test_the_batch_script_waits_for_a_run_that_is_stopped(tmp_path: Path) -> None:
    """Also when it is asked twice."""
    cleaning = "trap 'trap : TERM; kill $!; sleep 0.5; exit 9' TERM; sleep 30 & echo started; wait"
    with batch_script(tmp_path, cleaning) as script:
        assert script.stdout.readline() == "started\n"
        script.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        script.send_signal(signal.SIGTERM)
        assert script.wait(timeout=30) == 9


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


def test_runs_of_work_pools_are_told_what_every_run_is() -> None:
    """No command of ours starts them, so nothing else keeps their libraries from telling where they run."""
    assert {"MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"} <= set(RUNS)
    for deployment in deployments().values():
        assert RUNS.items() <= deployment["work_pool"]["job_variables"]["env"].items(), "copy RUNS to prefect.yaml"


@pytest.mark.parametrize("name", ["docker", "docker-gpu", "kubernetes"])
def test_runs_in_containers_work_in_their_volume(name: str, monkeypatch) -> None:
    """Not in the folder that whoever deploys has on another machine."""
    monkeypatch.setenv("ERASE_WORK", "/home/somebody/erase")
    deployment = deployments()[name]
    # Prefect fills in the environment of `prefect deploy`.
    ((_, step),) = [item for each in apply_values(deployment["pull"], {}) for item in each.items()]
    variables = deployment["work_pool"]["job_variables"]
    assert step == {"directory": "/data"} and variables["env"]["ERASE_HOME"] == "/data"
    if name != "kubernetes":
        assert variables["volumes"] == ["erase:/data"]
        assert variables["container_create_kwargs"]["shm_size"] == "2g"
        assert ("device_requests" in variables["container_create_kwargs"]) == (name == "docker-gpu")
    assert "VOLUME /data" in (INFRA / "Dockerfile").read_text()


def test_what_the_hub_sends_lies_in_the_volume() -> None:
    training = kubernetes()["Job"]["spec"]["template"]["spec"]["containers"][0]
    places = {variable["name"]: variable.get("value") for variable in training["env"]}
    pools = [deployments()[name]["work_pool"]["job_variables"]["env"] for name in ("docker", "kubernetes")]
    assert {each["HF_HOME"] for each in [places, *pools]} == {"/data/huggingface"}
    assert "HF_HOME=/data/huggingface" in (INFRA / "Dockerfile").read_text()


def test_the_webhook_of_whoever_deploys_reaches_containers(monkeypatch) -> None:
    """On Kubernetes the secret has it, which an empty variable would hide."""
    for there in ("https://chat.example.org/hooks/erase", None):
        if there:
            monkeypatch.setenv("ERASE_GATE_WEBHOOK", there)
        else:
            monkeypatch.delenv("ERASE_GATE_WEBHOOK")
        told = {
            name: apply_values(deployments()[name]["work_pool"]["job_variables"], {})["env"].get("ERASE_GATE_WEBHOOK")
            for name in ("docker", "docker-gpu", "kubernetes")
        }
        assert told == {"docker": there or "", "docker-gpu": there or "", "kubernetes": None}
    worker = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]["worker"]
    assert worker["environment"]["ERASE_GATE_WEBHOOK"] is None, "the shell's, where it has one"


def test_pods_have_the_hubs_token_where_there_is_one() -> None:
    job, training = manifest(deployments()["kubernetes"]["work_pool"]["job_variables"]), kubernetes()["Job"]
    for made in (job, training):
        (container,) = made["spec"]["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "erase-hub", "optional": True}}]


def test_pods_of_the_work_pool_have_the_volume_that_training_has() -> None:
    variables = deployments()["kubernetes"]["work_pool"]["job_variables"]
    job, training = manifest(variables), kubernetes()
    pod, other = job["spec"]["template"]["spec"], training["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == variables["image"] and container["env"] == variables["env"]
    assert {"name": "data", "mountPath": variables["env"]["ERASE_HOME"]} in container["volumeMounts"]
    data, shared = pod["volumes"]
    assert data in other["volumes"] and shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert {"name": shared["name"], "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 0}
    with_gpu = manifest({**variables, "gpus": 1})["spec"]["template"]["spec"]["containers"][0]
    assert with_gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    # Prefect's worker takes no template without these two, though they are the Job's.
    assert pod["completions"] == pod["parallelism"] == 1
    assert pod["securityContext"] == other["securityContext"]
    assert job["metadata"]["namespace"] == training["PersistentVolumeClaim"]["metadata"]["namespace"]


@pytest.mark.slow
def test_compose_takes_its_file() -> None:
    command = [tool("docker-compose"), "--file", str(INFRA / "compose.yaml"), "config"]
    # The tests' own process keeps off the hub.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    ran = subprocess.run(command, capture_output=True, text=True, env={**kept, "POSTGRES_PASSWORD": "secret"})
    assert ran.returncode == 0, ran.stderr
    rendered = yaml.safe_load(ran.stdout)["services"]
    database = "postgresql+asyncpg://erase:secret@postgres:5432/prefect"
    assert rendered["prefect"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == database
    worker = rendered["worker"]["environment"]
    assert worker.get("HF_TOKEN") is None and worker.get("HF_HUB_OFFLINE") is None
    assert "deploy" not in rendered["worker"]
    given = {**kept, "POSTGRES_PASSWORD": "secret", "HF_TOKEN": "hf_own", "ERASE_UID": "1234"}
    command[3:3] = ["--file", str(INFRA / "compose.gpu.yaml")]
    ran = subprocess.run(command, capture_output=True, text=True, env=given)
    assert ran.returncode == 0, ran.stderr
    worker = yaml.safe_load(ran.stdout)["services"]["worker"]
    assert worker["environment"]["HF_TOKEN"] == "hf_own" and str(worker["build"]["args"]["ERASE_UID"]) == "1234"
    (devices,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices["capabilities"] == ["gpu"]
    without = subprocess.run(command, capture_output=True, text=True)
    assert without.returncode != 0 and "set a password" in without.stderr


@pytest.mark.slow
def test_hadolint_takes_the_dockerfile() -> None:
    subprocess.run([tool("hadolint"), str(INFRA / "Dockerfile")], check=True)


@pytest.mark.slow
def test_shellcheck_takes_the_batch_script() -> None:
    subprocess.run([tool("shellcheck"), str(INFRA / "slurm" / "training.sbatch")], check=True)


@pytest.mark.slow
def test_kubernetes_takes_every_file(tmp_path: Path) -> None:
    made = manifest(deployments()["kubernetes"]["work_pool"]["job_variables"])
    # Kubernetes gives the name and passes over what is not a pod's; the worker turns the variables into what a container has.
    made["metadata"]["name"] = "taxi"
    pod = made["spec"]["template"]["spec"]
    del pod["completions"], pod["parallelism"]
    (container,) = pod["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    (tmp_path / "job.json").write_text(json.dumps(made))
    files = [INFRA / "kubernetes" / "data.yaml", INFRA / "kubernetes" / "training.yaml", tmp_path / "job.json"]
    for version in ("1.33", "1.37"):
        command = [tool("kubernetes-validate"), "--strict", "-k", version, *map(str, files)]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
