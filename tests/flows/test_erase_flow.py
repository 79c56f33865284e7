"""The whole DAG for real: Prefect runs it, MLflow keeps it, the embedded model is erased from."""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client

from erase_core import publishing
from erase_core.artifacts import folder_of
from erase_core.emoji_world.catalogue import words
from erase_core.metrics.verdicts import read_verdicts, score_verdicts
from erase_core.models.source import WEIGHTS
from erase_core.pictures import decode_png
from erase_core.spec import make_spec
from erase_core.spec_yaml import load_spec
from erase_core.studies.variants import merged
from tests.command import erase, erase_here

SPEC = """
name: flow test
seed: 1
concepts: [{{concept: taxi, synonyms: [cab]}}]
vocabulary: {{top_k: 20}}
training: {{steps: 3, batch_size: 2, trajectories: 1, latent_steps: 4, checkpoint_every: 2}}
generation: {{seeds: [0], steps: 4}}
scoring: {{preserved: [bus, police car, car, rose, apple, cat], resamples: 100}}
gate: {{min_esr_1: 0, min_esr_1_each: 0, max_psr_1_drop: 1}}
output: {output}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, server):
    """One run of the command, and the folder of its results."""
    folder = tmp_path_factory.mktemp("run")
    # A vocabulary of its own: nothing of it is there from other files' runs.
    (folder / "words.txt").write_text("\n".join(words()[:-1]))
    spec = SPEC.format(output=folder / "out").replace("{top_k", f"{{source: {folder / 'words.txt'}, top_k")
    (folder / "spec.yaml").write_text(spec)
    # A thread each: room for two stages at once.
    ran = erase("run", str(folder / "spec.yaml"), OMP_NUM_THREADS="1")
    assert ran.returncode == 0, ran.stderr
    return folder, ran


def test_every_result_is_there(finished) -> None:
    folder, ran = finished
    out = folder / "out"
    expected = {
        "model", "delta.safetensors", "summary.json", "report.html", "vocabulary.parquet", "preserved.parquet", "trace.parquet",
        "images.parquet", "scores.parquet", "verdicts.parquet", "verdicts.csv", "verdicts_original.csv",
    }  # fmt: skip
    assert {p.name for p in out.iterdir()} == expected
    summary = json.loads((out / "summary.json").read_text())
    for key in ("esr_1", "esr_5", "psr_1", "psr_5", "psr_1_original", "esr_1_original"):
        assert 0 <= summary[key] <= 1
    assert summary["seed"] == 1 and summary["versions"]["torch"] and summary["cached"] == []
    assert summary["versions_by_stage"] == {}
    assert summary["revisions"] == {}, "nothing is on the hub"
    assert set(summary["seconds"]) == {
        "vocabulary",
        "embeddings",
        "nearest",
        "training",
        "original",
        "erased",
        "scores",
        "publish",
    }
    assert "ESR-1" in ran.stdout and "report.html" in ran.stdout


OTHER = {
    "another learning rate": {"training": {"learning_rate": 0.5}},
    "another seed": {"seed": 2},
    "another synonym": {"concepts": [{"concept": "taxi", "synonyms": ["hackney"]}]},
    "another prompt": {"generation": {"prompts": ["my {concept}"]}},
    "another metric": {"scoring": {"metrics": ["erasure"]}},
    "another gate": {"gate": {"min_esr_1": 0.123}},
    "other hidden concepts": {"report": {"unsafe": ["taxi"]}},
    "another name": {"name": "another"},
    "attacks": {"attacks": {"run": ["seeds"]}},
}


@pytest.mark.parametrize("changes", OTHER.values(), ids=OTHER)
def test_results_are_whole_for_their_own_spec_alone(finished, changes: dict) -> None:
    """A batch takes a list for done when this says so."""
    own = load_spec(finished[0] / "spec.yaml")
    assert publishing.finished(own)["name"] == "flow test"
    given = own.model_dump(mode="json", exclude_unset=True)
    assert publishing.finished(make_spec(merged(given, changes))) is None


def test_results_with_attacks_are_not_whole_for_a_spec_without(finished) -> None:
    """Its summary would tell of attacks that nobody asked for."""
    own = load_spec(finished[0] / "spec.yaml")
    path = finished[0] / "out" / "summary.json"
    before = path.read_text()
    try:
        summary = json.loads(before)
        summary["spec"]["attacks"] = {"run": []}
        path.write_text(json.dumps(summary))
        assert publishing.finished(own) is None
    finally:
        path.write_text(before)
    assert publishing.finished(own) is not None


@pytest.mark.skipif(os.cpu_count() == 1, reason="there is no room for two stages at once")
def test_the_original_s_images_are_drawn_beside_the_training(finished) -> None:
    summary = json.loads((finished[0] / "out" / "summary.json").read_text())
    began, seconds = summary["began"], summary["seconds"]
    assert began["original"] < began["training"] + seconds["training"]
    assert began["erased"] >= max(began[stage] + seconds[stage] for stage in ("training", "original"))


def test_a_training_that_fails_stops_the_drawing_beside_it(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("flows.tracked.room_beside", lambda *ranks: contextlib.nullcontext())
    wild = (
        SPEC.format(output=tmp_path / "out")
        .replace("flow test", "wild")
        .replace("latent_steps: 4", "latent_steps: 4, learning_rate: 1e6")
    )
    long = wild.replace("seeds: [0], steps: 4", "seeds: [0, 1, 2, 3], steps: 50, batch_size: 1")
    (tmp_path / "spec.yaml").write_text(long)
    ran = erase_here("run", str(tmp_path / "spec.yaml"), OMP_NUM_THREADS="1")
    assert ran.returncode == 1 and "lower training.learning_rate" in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    with get_client(sync_client=True) as prefect:
        [run] = [run for run in prefect.read_flow_runs() if run.name == "wild"]
        [training] = [
            task for task in prefect.read_task_runs() if task.flow_run_id == run.id and "training" in task.name
        ]
    assert training.run_count == 1, "every try would diverge"
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    [main] = client.search_runs([experiment_of(client)], "tags.mlflow.runName = 'wild'")
    below = client.search_runs([experiment_of(client)], f"tags.mlflow.parentRunId = '{main.info.run_id}'")
    status = {run.info.run_name: run.info.status for run in below}
    assert status["training"] == status["images, original"] == "FAILED"


def test_the_exported_verdicts_score_as_the_run_did(finished) -> None:
    out = finished[0] / "out"
    summary = json.loads((out / "summary.json").read_text())
    erased = [concept for concept, role in summary["roles"].items() if role == "erased"]
    for name, suffix in (("verdicts.csv", ""), ("verdicts_original.csv", "_original")):
        found = score_verdicts(read_verdicts(out / name), erased)
        for rate in ("esr_1", "esr_5", "psr_1", "psr_5"):
            for end in ("", "_low", "_high"):
                assert found[rate + end] == pytest.approx(summary[f"{rate}{suffix}{end}"], abs=1e-12)


def test_tables_have_their_columns(finished) -> None:
    out = finished[0] / "out"
    columns = {
        "vocabulary": ["word", "token_ids", "source", "kept", "reason"],
        "preserved": ["concept", "rank", "word", "similarity", "row"],
        "images": ["prompt", "concept", "role", "seed", "model", "png"],
        "scores": ["metric", "concept", "role", "value", "low", "high", "n"],
        "trace": [
            "step",
            "phase",
            "concept",
            "word",
            "probability",
            "distance",
            "drawn",
            "search_loss",
            "erasing_loss",
            "preservation_loss",
            "seconds",
            "latent_seconds",
        ],
    }
    for name, wanted in columns.items():
        assert pq.read_schema(out / f"{name}.parquet").names == wanted
    images = pd.read_parquet(out / "images.parquet")
    assert images.groupby("model").size().tolist() == [7, 7]
    assert set(images["role"]) == {"erased", "preserved"}
    preserved = pd.read_parquet(out / "preserved.parquet")
    assert len(preserved) == 20 and not {"taxi", "cab"} & set(preserved["word"])


# The included model and its CLIP, and what a run made of it, in a process that never imports this project.
STOCK = """
import sys, torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel
weights, out = sys.argv[1:]
pipeline = StableDiffusionPipeline.from_pretrained(weights + "/pipeline")
image = pipeline("a taxi", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
assert image.size == (64, 64)
clip, info = CLIPModel.from_pretrained(weights + "/clip", output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"]
assert len(AutoTokenizer.from_pretrained(weights + "/clip")) == 49408

base = pipeline.unet.state_dict()
erased = StableDiffusionPipeline.from_pretrained(out + "/model").unet.state_dict()
delta = load_file(out + "/delta.safetensors")
changed = {n for n in base if not base[n].equal(erased[n])}
assert changed == set(delta) and changed and all(".attn2." in n for n in changed), changed
assert all(delta[n].equal(erased[n]) for n in delta)
assert not [m for m in sys.modules if m.startswith(("erase_core", "tasks", "flows"))]
"""


def test_models_are_stock_and_delta_is_all_that_changed(finished) -> None:
    subprocess.run([sys.executable, "-c", STOCK, str(WEIGHTS), str(finished[0] / "out")], check=True, cwd="/")


def test_mlflow_has_the_run_its_stages_and_the_model(finished) -> None:
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("erase")
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time"])
    parent = next(r for r in runs if r.info.run_name == "flow test")
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {r.info.run_name for r in children} == {
        "vocabulary", "embeddings", "nearest", "training", "images, original", "images, erased", "scores",
    }  # fmt: skip
    assert all(r.info.status == "FINISHED" for r in [parent, *children])
    assert 0 <= parent.data.metrics["psr_1"] <= 1
    summary = json.loads((finished[0] / "out" / "summary.json").read_text())
    for name in ("psr_1", "step_seconds", "latent_seconds", "peak_memory_gib"):
        assert parent.data.metrics[name] == summary[name] > 0
    assert f"erase {importlib.metadata.version('erase')}, torch" in parent.data.tags["versions"]
    assert parent.data.params["training.steps"] == "3"
    assert "taxi" in parent.data.tags["mlflow.note.content"]
    assert {i.dataset.name for i in parent.inputs.dataset_inputs} == {"vocabulary", "original-images"}
    training = next(r for r in children if r.info.run_name == "training")
    history = client.get_metric_history(training.info.run_id, "update/erasing_loss")
    assert [m.step for m in history] == [0, 1, 2]
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "summary.json", "scores.parquet", "figures"} <= artifacts
    versions = client.search_model_versions("name = 'flow-test'")
    assert len(versions) == 1 and versions[0].tags["concepts"] == "taxi"
    assert versions[0].tags["erased_model_hash"] == summary["erased_model_hash"]


def test_registered_model_draws(finished) -> None:
    model = mlflow.pyfunc.load_model("models:/flow-test/1")
    frame = model.predict(pd.DataFrame({"prompt": ["a bus"] * 2, "seed": [0, None]}))
    assert all(png.startswith(b"\x89PNG") for png in frame["png"])
    assert [column.name for column in model.metadata.signature.inputs] == ["prompt", "seed"]


def test_prefect_has_the_flow_run_and_its_tasks(finished) -> None:
    with get_client(sync_client=True) as client:
        (run,) = [r for r in client.read_flow_runs() if r.name == "flow test"][:1]
        names = {t.name.rsplit("-", 1)[0] for t in client.read_task_runs() if t.flow_run_id == run.id}
    assert run.state.is_completed()
    assert {"vocabulary", "embeddings", "nearest", "training", "images", "scores", "publish"} <= names


def test_second_run_is_served_from_the_caches_and_says_so(finished) -> None:
    folder, _ = finished
    before = (folder / "out" / "delta.safetensors").read_bytes()
    ran = erase_here("run", str(folder / "spec.yaml"))
    assert ran.returncode == 0, ran.stderr
    assert "Served from the cache: vocabulary, embeddings, nearest, training, original, erased, scores." in " ".join(
        ran.stdout.split()
    )
    assert (folder / "out" / "delta.safetensors").read_bytes() == before
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    assert len(client.search_model_versions("name = 'flow-test'")) == 1


def test_the_gate_names_the_champion_and_a_stricter_one_rejects_it(finished, caplog) -> None:
    folder, ran = finished
    assert "gate: bounds" not in ran.stderr
    assert "Gate passed: flow-test version 1" in " ".join(ran.stdout.split())
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    champion = client.get_model_version_by_alias("flow-test", "champion")
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["gate"]["passed"] and "Gate: passed" in (folder / "out" / "report.html").read_text()
    assert champion.tags["gate"] == "passed" and float(champion.tags["psr_1"]) == round(summary["psr_1"], 4)
    assert champion.tags["parent"] == f"emoji-world {summary['base_model_hash']}"
    assert json.loads(champion.tags["spec"])["concepts"][0]["concept"] == "taxi"
    assert champion.tags["license"] == "apache-2.0, cc-by-4.0, mit"

    strict = (folder / "spec.yaml").read_text().replace("max_psr_1_drop: 1", "min_clip_distance_erased: 9")
    (folder / "strict.yaml").write_text(strict)
    ran = erase_here("run", str(folder / "strict.yaml"))
    assert ran.returncode == 3, ran.stderr
    assert "gate: bounds nothing that is to be preserved" in caplog.text
    assert "Gate failed: flow-test version 1 is rejected: clip distance erased is" in " ".join(ran.stdout.split())
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert not summary["gate"]["passed"] and "Gate: rejected" in (folder / "out" / "report.html").read_text()
    assert {a: str(v) for a, v in client.get_registered_model("flow-test").aliases.items()} == {"rejected": "1"}
    assert summary["gate"]["reason"] == client.get_model_version("flow-test", "1").tags["reason"]
    assert len(client.search_runs([experiment_of(client)], "tags.gate = 'rejected' and run_name = 'flow test'")) == 1
    listed = " ".join(erase("models", "flow-test", COLUMNS="200").stdout.split())
    assert "flow-test │ 1 │ rejected │ rejected" in listed and "flow test" in listed


def test_images_of_an_unsafe_concept_are_blurred_where_others_look(finished) -> None:
    folder, _ = finished
    (folder / "unsafe.yaml").write_text((folder / "spec.yaml").read_text() + "report: {unsafe: [taxi]}\n")
    shown = {}
    for options in ((), ("--show-unsafe",)):
        ran = erase_here("run", str(folder / "unsafe.yaml"), *options)
        assert ran.returncode == 0, ran.stderr
        page = (folder / "out" / "report.html").read_text()
        shown[options] = {
            name: decode_png(base64.b64decode(png))
            for name, png in re.findall(r'alt="([\w ]+) before and after" src="data:image/png;base64,([^"]+)"', page)
        }
        assert ("are blurred" in page) == (not options)
    hidden, seen = shown.values()
    assert detail(hidden["taxi"]) < 0.2 * detail(seen["taxi"])
    assert hidden.keys() == seen.keys() and all((hidden[name] == seen[name]).all() for name in seen if name != "taxi")

    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    runs = client.search_runs(
        [experiment_of(client)], "attributes.run_name = 'images, original'", order_by=["start_time DESC"]
    )
    holders = [run.data.tags.get("images_in", run.info.run_id) for run in runs[:2]]
    logged = [
        pd.read_parquet(client.download_artifacts(run_id, "images.parquet")).set_index("concept")["png"]
        for run_id in holders
    ]
    own = pd.read_parquet(folder / "out" / "images.parquet").drop_duplicates("concept").set_index("concept")["png"]
    assert logged[0].equals(own) and detail(decode_png(logged[1]["taxi"])) < 0.2 * detail(decode_png(own["taxi"]))


def detail(image: np.ndarray) -> float:
    """How much each pixel differs from what those left and right of it would let one expect."""
    return float(np.abs(np.diff(image.astype(float), n=2, axis=1)).mean())


def experiment_of(client: mlflow.MlflowClient) -> str:
    return client.get_experiment_by_name("erase").experiment_id


def test_an_altered_cache_is_made_anew(finished) -> None:
    folder, _ = finished
    summary = json.loads((folder / "out" / "summary.json").read_text())
    scores = folder_of("scores", summary["keys"]["scores"]) / "scores.parquet"
    good = scores.read_bytes()
    scores.write_bytes(good[:-8] + b"corrupt!")
    ran = erase_here("run", str(folder / "spec.yaml"))
    assert ran.returncode == 0, ran.stderr
    assert json.loads((folder / "out" / "summary.json").read_text())["cached"] == [
        "vocabulary", "embeddings", "nearest", "training", "original", "erased",
    ]  # fmt: skip
    assert scores.read_bytes() == good


def test_report_opens_in_a_browser(finished, tmp_path: Path) -> None:
    import shutil

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.fail("no browser: apt-get install chromium")
    page = finished[0] / "out" / "report.html"
    ran = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<h1>flow test</h1>" in ran.stdout
    assert ran.stdout.count("<figure") == 7 and "ESR-1" in ran.stdout
    assert "http://" not in page.read_text() and "https://" not in page.read_text()
