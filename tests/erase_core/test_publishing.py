"""What is known of a run's results by what made them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from erase_core.artifacts import RECORD, Artifact, folder_of, produce
from erase_core.files import file_digest, write_json
from erase_core.models.source import model_hash
from erase_core.publishing import is_model_of, other_versions
from erase_core.versions import versions


def trained(weights: str) -> Artifact:
    """A training of one key that came to these weights."""
    shutil.rmtree(folder_of("trained", "published"), ignore_errors=True)
    return produce("trained", "published", lambda folder: (folder / "delta.safetensors").write_text(weights))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What a training that came to the weights "a" left in its output."""
    training = trained("a")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("a")
    files = {"delta.safetensors": file_digest(training.file("delta.safetensors"))}
    known = {"training": training.key, "erased_model_hash": model_hash(tmp_path / "model"), "files": files}
    write_json(tmp_path / "summary.json", known)
    return tmp_path


def test_a_model_is_kept_for_the_very_training_that_made_it(output: Path) -> None:
    assert is_model_of(trained("a"), output)
    assert not is_model_of(trained("b"), output), "the key is the same, and the weights are not"
    assert not is_model_of(trained("a").model_copy(update={"key": "another"}), output)
    (output / "model" / "config.json").write_text("altered")
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
