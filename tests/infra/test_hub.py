"""The model hub where the user keeps runs from it: what its cache holds is used, and what it lacks is refused at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infra.environment import HUB_CLOSED
from tests.servers import ROOT

REVISION = "0" * 40
# What a process decides, and what one that it starts does then.
DECIDES = """
import os, subprocess, sys
from infra.environment import allow_hub, prepare
prepare()
kept = os.environ["HF_HUB_OFFLINE"]
allow_hub()
print(kept, os.environ["HF_HUB_OFFLINE"])
if len(sys.argv) > 1:
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
# Whoever connects to anything dies of it.
LOADS = """
import socket
socket.socket.connect = socket.socket.connect_ex = None
from erase_core.models.pipeline import load_pipeline
from erase_core.models.source import find_model
from infra.environment import allow_hub, prepare
prepare()
allow_hub()
load_pipeline(find_model("a/b"))
"""
PREPARES = """
import subprocess, sys
from infra.environment import prepare
prepare()
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    """That of a user's shell, with a cache of its own and a hub that nobody answers for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{probe.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if name not in (HUB_CLOSED, "HF_HUB_OFFLINE")}
    return {
        **kept,
        "HF_HOME": str(tmp_path / "huggingface"),
        "HF_ENDPOINT": silent,
        "PYTHONPATH": str(ROOT),
        **variables,
    }


@pytest.mark.parametrize(("own", "prepared", "allowed"), [(None, "1", "0"), ("0", "0", "0"), ("1", "1", "1")])
def test_the_hub_is_allowed_unless_the_user_forbids_it(own, prepared: str, allowed: str, tmp_path: Path) -> None:
    """Also in a process that a prepared one starts, as `erase serve` does and a launcher of ranks."""
    given = {} if own is None else {"HF_HUB_OFFLINE": own}
    ran = subprocess.run(
        [sys.executable, "-c", DECIDES, DECIDES],
        capture_output=True, text=True, check=True, env=environment(tmp_path, **given),
    )  # fmt: skip
    assert sorted(ran.stdout.splitlines()) == sorted([f"{prepared} {allowed}", f"{allowed} {allowed}"])


def test_a_process_started_before_the_hub_is_allowed_may_allow_it(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PREPARES, DECIDES],
        capture_output=True, text=True, check=True, env=environment(tmp_path),
    )  # fmt: skip
    assert ran.stdout == "1 0\n"


def cache(tmp_path: Path, folder: Path) -> None:
    """Put a model into the hub's cache, as a download does."""
    place = tmp_path / "huggingface" / "hub" / "models--a--b"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(REVISION)
    (place / "snapshots").mkdir()
    (place / "snapshots" / REVISION).symlink_to(folder)


def plan(tmp_path: Path, **spec: object) -> subprocess.CompletedProcess:
    """`erase plan`, which checks as `erase run` does and reads the model's configurations."""
    given = {"name": "n", "concepts": ["taxi"], "output": str(tmp_path / "out"), **spec}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(given))
    return subprocess.run(
        [sys.executable, "-m", "flows.command", "plan", str(tmp_path / "spec.yaml")],
        capture_output=True, text=True, env=environment(tmp_path, HF_HUB_OFFLINE="1"),
    )  # fmt: skip


def test_what_the_cache_holds_needs_no_network(tiny_folder: Path, tmp_path: Path) -> None:
    cache(tmp_path, tiny_folder)
    subprocess.run([sys.executable, "-c", LOADS], check=True, env=environment(tmp_path, HF_HUB_OFFLINE="1"))
    ran = plan(tmp_path, model="a/b", vocabulary={"top_k": 10})
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_the_cache_lacks_is_refused(tmp_path: Path) -> None:
    ran = plan(tmp_path, model="a/b")
    assert ran.returncode == 2 and "Traceback" not in ran.stderr, ran
    told = " ".join(ran.stderr.split())
    assert (
        "model: cannot fetch a/b from the hub: HF_HUB_OFFLINE forbids it, and its cache has no model_index.json" in told
    )
    assert "hf download a/b" in told


@pytest.mark.parametrize(
    ("field", "file", "content", "lacks"),
    [
        ("model", "model_index.json", {"_class_name": "StableDiffusionPipeline"}, "unet/*.safetensors"),
        ("scoring.clip", "config.json", {}, "*.safetensors"),
    ],
)
def test_what_the_cache_holds_in_part_is_refused(
    field: str, file: str, content: dict, lacks: str, tmp_path: Path
) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / file).write_text(json.dumps(content))
    cache(tmp_path, tmp_path / "part")
    part, _, key = field.partition(".")
    ran = plan(tmp_path, **{part: {key: "a/b"} if key else "a/b"})
    assert ran.returncode == 2 and f"{field}: cannot fetch a/b" in ran.stderr and f"no {lacks} of it" in ran.stderr, ran
