"""What is known of a run's results by what made them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from erase_core.artifacts import RECORD, Artifact, folder_of, produce
from erase_core.files import file_digest, read_json, write_json
from erase_core.metrics.scores import SCHEMA, write_scores
from erase_core.models.origin import CARD
from erase_core.models.source import model_hash
from erase_core.publishing import is_model_of, other_versions, publish
from erase_core.spec import make_spec
from erase_core.versions import versions


def trained(weights: str) -> Artifact:
    """A training of one key that came to these weights."""
    shutil.rmtree(folder_of("trained", "published"), ignore_errors=True)
    return produce("trained", "published", lambda folder: (folder / "delta.safetensors").write_text(weights))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What a training that came to the weights "a" left in its output."""
    training = trained("a")
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "config.json").write_text("a")
    files = {"delta.safetensors": file_digest(training.file("delta.safetensors"))}
    known = {"training": training.key, "erased_model_hash": model_hash(tmp_path / "model"), "files": files}
    write_json(tmp_path / "summary.json", known)
    return tmp_path


def test_a_model_is_kept_for_the_very_training_that_made_it(output: Path) -> None:
    assert is_model_of(trained("a"), output)
    assert not is_model_of(trained("b"), output), "the key is the same, and the weights are not"
    assert not is_model_of(trained("a").model_copy(update={"key": "another"}), output)
    (output / "model" / "unet" / "config.json").write_text("altered")
    assert not is_model_of(trained("a"), output)


@pytest.mark.parametrize("lost", ["summary.json", "model"])
def test_a_model_is_written_where_none_is_known(output: Path, lost: str) -> None:
    (output / lost).rename(output / "elsewhere")
    assert not is_model_of(trained("a"), output)


def test_stages_that_other_versions_made_are_told() -> None:
    """Of a stage that was made before versions were written down, nothing is known."""
    here, there, before = (produce("told", name, lambda folder: None) for name in ("here", "there", "before"))
    other = {**versions(), "torch": "1.0", "gone": "2.0"}
    del other["nudenet"]
    write_json(there.file(RECORD), {**there.record, "versions": other})
    write_json(before.file(RECORD), {name: value for name, value in before.record.items() if name != "versions"})
    assert other_versions({"scores": here}) == {}
    told = other_versions({"training": there, "scores": here, "images": before})
    assert told == {"training": {"torch": "1.0", "gone": "2.0"}, "images": None}


@pytest.fixture
def stages(output: Path, images_file) -> dict[str, Artifact]:
    """The stages of a run whose model lies in the output already, with one image of each model and no judge's verdicts."""
    (output / "model" / CARD).write_text("---\nlicense: mit\n---\n")
    known = read_json(output / "summary.json")
    write_json(output / "summary.json", {**known, "erased_model_hash": model_hash(output / "model")})
    words = pd.DataFrame({"concept": ["taxi"], "word": ["bus"], "rank": [0], "similarity": [0.9], "row": [0]})
    trace = pd.DataFrame([{"phase": "update", "concept": "taxi", "word": None, "drawn": [], "step": 0}])
    trace = trace.assign(erasing_loss=0.1, preservation_loss=0.2)

    def scored(folder: Path) -> None:
        rows = [("clip_score", concept, "erased", 20.0, 10.0, 30.0, 1) for concept in ("all", "taxi")]
        write_scores(folder / "scores.parquet", pd.DataFrame(rows, columns=SCHEMA.names))
        pd.DataFrame({"concept": ["taxi"]}).to_parquet(folder / "verdicts.parquet")

    def worded(folder: Path) -> None:
        words.to_parquet(folder / "vocabulary.parquet")
        write_json(folder / "counts.json", {"kept": 1})

    def train(folder: Path) -> None:
        trace.to_parquet(folder / "trace.parquet")
        write_json(folder / "resources.json", {"step_seconds": 1.0})
        (folder / "delta.safetensors").write_text("a")

    made = {
        "vocabulary": worded,
        "embeddings": lambda folder: None,
        "nearest": lambda folder: words.to_parquet(folder / "preserved.parquet"),
        "training": train,
        "scores": scored,
    }
    for name, value in (("original", 0), ("erased", 200)):
        drawn = images_file(name, [("a taxi", "taxi", 0)], (value,))
        made[name] = lambda folder, drawn=drawn: shutil.copy(drawn, folder / "images.parquet")
    shutil.rmtree(folder_of("trained", "published"), ignore_errors=True)
    kinds = {name: "trained" if name == "training" else name for name in made}
    return {name: produce(kinds[name], "published", work) for name, work in made.items()}


def test_nothing_is_left_of_an_earlier_run(output: Path, stages: dict[str, Artifact]) -> None:
    """It had attacks, a judge, and a page of attacks."""
    gone = ("attacks.parquet", "attempts.parquet", "attacks.json", "attacks.html", "verdicts.csv")
    for name in gone:
        (output / name).write_text("of another model")
    scoring = {"metrics": ["clip_score"], "preserved": []}
    publish(make_spec({"name": "x", "concepts": ["taxi"], "scoring": scoring, "output": str(output)}), stages)
    written = read_json(output / "summary.json")["files"]
    assert {"scores.parquet", "report.html", "model/unet/config.json"} <= set(written)
    assert not set(gone) & {*written, *(file.name for file in output.iterdir())}
