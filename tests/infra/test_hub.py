"""The model hub: it is read at one commit, and where the user keeps runs from it what its cache holds is used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open

from erase_core import stages
from erase_core.hub import fetched
from erase_core.models.origin import named
from erase_core.models.source import ModelError, local_model, local_source, source_in
from erase_core.preflight import check, check_hub
from erase_core.revisions import located, revisions
from erase_core.spec import Spec, make_spec
from erase_core.spec_errors import SpecError
from infra.environment import HUB_CLOSED
from tests.hub import Hub
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
# Plans a run as `erase plan` does, then loads the model; whoever connects to anything dies of it.
LOADS = """
import socket, sys
socket.socket.connect = socket.socket.connect_ex = None
from flows.command import app
try:
    app(["plan", sys.argv[1]])
except SystemExit as ended:
    assert not ended.code, ended.code
from erase_core.models.pipeline import load_pipeline
from erase_core.models.source import find_model
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


def plan(
    tmp_path: Path, code: tuple[str, ...] = ("-m", "flows.command", "plan"), **spec
) -> subprocess.CompletedProcess:
    """`erase plan`, which checks as `erase run` does and reads the model's configurations; or other code that is given a spec."""
    given = {"name": "n", "concepts": ["taxi"], "output": str(tmp_path / "out"), **spec}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(given))
    return subprocess.run(
        [sys.executable, *code, str(tmp_path / "spec.yaml")],
        capture_output=True, text=True, env=environment(tmp_path, HF_HUB_OFFLINE="1"),
    )  # fmt: skip


def test_what_the_cache_holds_needs_no_network(tiny_folder: Path, tmp_path: Path) -> None:
    cache(tmp_path, tiny_folder)
    ran = plan(tmp_path, ("-c", LOADS), model="a/b", vocabulary={"top_k": 10})
    assert ran.returncode == 0 and "training" in ran.stdout, ran.stdout + ran.stderr


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


@pytest.fixture
def hub(monkeypatch, tmp_path: Path):
    """A hub of this test's own, with a cache to fetch into."""
    served, constants = Hub(), huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", served.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    another_process(monkeypatch)
    yield served
    served.close()
    local_source.cache_clear()
    local_model.cache_clear()


def another_process(monkeypatch) -> None:
    """Forget what this process has asked the hub for."""
    monkeypatch.setattr("erase_core.hub.resolved", {})
    local_source.cache_clear()
    local_model.cache_clear()


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


JUDGE = {
    "config.json": json.dumps({"model_type": "resnet", "id2label": {"0": "taxi", "1": "bus"}}).encode(),
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "onnx/model.safetensors": b"another",
}
PROMPTS = {"p.csv": b"prompt,label_str\na taxi,taxi\na bus,bus\n"}


def pinned(tmp_path: Path, at: str = "") -> Spec:
    """A spec whose model, judge, CLIP and prompts are all on the hub, at a revision."""
    scoring = {"judge": f"a/judge{at}", "clip": f"a/judge{at}", "metrics": ["erasure"]}
    generation = {"prompt_files": [f"a/prompts{at}/p.csv"], "steps": 2}
    given = {"model": f"a/model{at}", "scoring": scoring, "generation": generation}
    return make_spec({"name": "n", "concepts": ["taxi"], "output": str(tmp_path / "out"), **given})


def test_a_push_changes_nothing_that_is_under_way_nor_what_is_pinned(
    hub: Hub, tiny_folder: Path, monkeypatch, tmp_path: Path
) -> None:
    model = files_in(tiny_folder)
    repositories = {"a/model": model, "a/judge": JUDGE, "datasets/a/prompts": PROMPTS}
    pushed = {name: hub.push(name, files, tag="v1") for name, files in repositories.items()}
    first = {
        "model": pushed["a/model"], "scoring.judge": pushed["a/judge"], "scoring.clip": pushed["a/judge"],
        "generation.prompt_files.0.file": pushed["datasets/a/prompts"],
    }  # fmt: skip
    floating, fixed = pinned(tmp_path), pinned(tmp_path, "@v1")
    check(floating)
    check_hub(floating)
    for name, files in repositories.items():
        hub.push(name, {**files, "config.json": files.get("config.json", b"{}") + b" "})
    assert revisions(floating) == first
    judge = Path(located(floating).scoring.judge)
    assert judge.name == first["scoring.judge"] and {"config.json", "model.safetensors"} == set(files_in(judge))
    assert local_source(floating.model).folder.name == first["model"]
    prompts = fetched("generation.prompt_files.0.file", "a/prompts", "p.csv", "dataset")
    assert prompts.parent.name == first["generation.prompt_files.0.file"]
    scored = stages.scorers_hash(floating)

    another_process(monkeypatch)
    check_hub(floating)
    assert not set(revisions(floating).values()) & set(first.values()) and stages.scorers_hash(floating) != scored
    check(fixed)
    check_hub(fixed)
    assert revisions(fixed) == first and stages.scorers_hash(fixed) == scored
    assert local_source(fixed.model).folder.name == first["model"]

    # A commit and a tag that were fetched once need the hub no more.
    another_process(monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    by_commit = fixed.model_copy(update={"model": f"a/model@{first['model']}"})
    check_hub(fixed, by_commit)
    assert revisions(fixed) == revisions(by_commit) == first and located(fixed).scoring.judge == str(judge)
    assert not hub.asked


@pytest.mark.parametrize("field", ["model", "scoring.judge", "scoring.clip", "generation.prompt_files.0.file"])
def test_a_revision_that_is_not_there(field: str, hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    for name, files in {"a/model": files_in(tiny_folder), "a/judge": JUDGE, "datasets/a/prompts": PROMPTS}.items():
        hub.push(name, files)
    spec = pinned(tmp_path).model_dump(mode="json")
    if field == "model":
        spec["model"] += "@v2"
    elif field.startswith("scoring"):
        spec["scoring"][field.partition(".")[2]] += "@v2"
    else:
        spec["generation"]["prompt_files"][0]["file"] = "a/prompts@v2/p.csv"
    spec = make_spec(spec)
    check(spec)
    with pytest.raises(SpecError) as told:
        check_hub(spec)
    (line,) = str(told.value).splitlines()
    assert line.startswith(f"{field}: a/") and "has no revision v2 on the hub; give a branch, a tag or a commit" in line


def test_a_revision_that_leads_out_of_the_cache_is_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="model: 'a/model@../x' is not .* hub id"):
        check(pinned(tmp_path, "@../x"))


def test_ranks_have_folders_and_ask_no_hub(hub: Hub, tiny_folder: Path, monkeypatch, tmp_path: Path) -> None:
    """Real ranks train and draw from a model that the hub has, where they can neither reach the hub nor see its cache."""
    hub.push("a/model", files_in(tiny_folder))
    spec = make_spec({
        "name": "n", "model": "a/model", "concepts": ["taxi"], "output": "o", "method": "uce", "vocabulary": {"top_k": 2},
        "generation": {"seeds": [0], "steps": 2}, "scoring": {"preserved": [], "metrics": ["image_distance"]},
    })  # fmt: skip
    source, base = local_model(spec.model)
    words = stages.vocabulary(spec)
    near = stages.nearest(spec, words, embedded := stages.embeddings(spec, words))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    trained = stages.training(spec, near, embedded)
    header = safe_open(trained.file("delta.safetensors"), framework="pt").metadata()
    assert (header["base_model"], header["base_model_revision"]) == ("a/model", source.folder.name)
    (tmp_path / "out").mkdir()
    stages.share_images(spec, near, None, base, tmp_path / "work", tmp_path / "out", stages.quiet)
    assert pq.read_metadata(tmp_path / "out" / "images.parquet").num_rows == 1


def test_a_folder_that_another_machine_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model: 'a/b' was found in .*, which is not on this machine; keep ERASE_HOME"):
        source_in("a/b", tmp_path / "snapshots" / REVISION)


def test_a_model_says_which_commit_it_was_made_from(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots" / REVISION
    assert named(folder, "a/b@v1") == {"base_model": "a/b", "base_model_revision": REVISION}
    assert named(tmp_path, "a/b") == {"base_model": "a/b", "base_model_revision": ""}
