"""The registry in a real MLflow store: who is champion, who was, and who is not fit to be."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient, MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from erase_core.spec import Spec
from tasks import registry
from tasks.tracking import client
from tests.registered import FAILED, LIMITS, PASSED, SIZE, aliases, register_again, registered, registered_with_files


@pytest.fixture
def name() -> str:
    return registered()


def test_a_passing_version_is_champion_and_a_failing_one_rejected(name: str) -> None:
    first = registry.release(name, "1", LIMITS, PASSED)
    assert first.passed and first.champion and first.former is None
    second = registry.release(name, "2", LIMITS, FAILED)
    assert not second.passed and not second.champion and second.reason == FAILED["reason"]
    third = registry.release(name, "3", LIMITS, PASSED)
    assert third.champion and third.former == "1"
    assert aliases(name) == {"champion": "3", "rejected": "2"}
    tags = {str(v.version): v.tags for v in registry.versions(name)}
    assert [tags[v]["gate"] for v in ("1", "2", "3")] == ["passed", "rejected", "passed"]
    assert tags["3"]["former_champion"] == "1" and json.loads(tags["3"]["gate.thresholds"]) == LIMITS
    assert tags["2"]["reason"] == FAILED["reason"]


def test_rollback_goes_back_step_by_step_and_a_repeated_run_does_not_undo_it(name: str) -> None:
    for version in ("1", "2", "3"):
        registry.release(name, version, LIMITS, PASSED)
    assert registry.rollback(name).version == "2" and aliases(name) == {"champion": "2"}
    assert "rolled_back" in registry.version_of(name, "3").tags
    assert not registry.release(name, "3", LIMITS, PASSED).champion
    assert not registry.release(name, "3", {"min_esr_1": 0.8}, PASSED).champion
    assert registry.rollback(name).version == "1"
    with pytest.raises(registry.RegistryError, match="first champion"):
        registry.rollback(name)
    assert registry.promote(name, "3").former == "1"
    assert registry.rollback(name).version == "1"


def test_a_repeated_run_of_an_older_version_does_not_make_it_champion(name: str) -> None:
    for version in ("1", "2", "1"):
        registry.release(name, version, LIMITS, PASSED)
    assert aliases(name) == {"champion": "2"}


def test_a_champion_that_fails_a_stricter_gate_gives_way(name: str) -> None:
    registry.release(name, "1", LIMITS, PASSED)
    registry.release(name, "2", LIMITS, PASSED)
    registry.release(name, "2", {"min_esr_1": 1.0}, FAILED)
    assert aliases(name) == {"champion": "1", "rejected": "2"}
    registry.release(name, "2", LIMITS, PASSED)
    assert aliases(name) == {"champion": "2"}
    registry.release(name, "1", {"min_esr_1": 1.0}, FAILED)
    registry.release(name, "2", {"min_esr_1": 1.0}, FAILED)
    assert aliases(name) == {"rejected": "2"}


WRITES = (
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "set_registered_model_tag",
)


@pytest.mark.parametrize("last", [PASSED, FAILED], ids=["crowned", "gives way"])
def test_a_release_that_is_broken_off_anywhere_ends_the_same_when_it_is_repeated(
    last: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 becomes champion, or, being champion, fails a stricter gate; MLflow fails at one of the writes."""
    writes, failing = [], None

    def counted(own):
        def write(*arguments, **named):
            writes.append(own.__name__)
            if len(writes) == failing:
                raise ConnectionError("MLflow is away")
            return own(*arguments, **named)

        return write

    for each in WRITES:
        monkeypatch.setattr(MlflowClient, each, counted(getattr(MlflowClient, each)))

    def ends(at: int | None) -> tuple[list[dict[str, str]], int]:
        """Who has which alias after the release, and after version 3 came and went, and how many writes the release made; of which
        number `at` fails once.
        """
        nonlocal failing
        name = registered(*[PASSED] * (1 if last is PASSED else 2))
        limits = LIMITS if last is PASSED else {"min_esr_1": 1.0}
        writes.clear()
        failing = at
        if at is not None:
            with pytest.raises(ConnectionError):
                registry.release(name, "2", limits, last)
        failing = None
        registry.release(name, "2", limits, last)
        found, made = [aliases(name)], len(writes)
        registry.release(name, "3", LIMITS, PASSED)
        registry.rollback(name)
        return [*found, aliases(name)], made

    expected, made = ends(None)
    assert [found["champion"] for found in expected] == (["2", "2"] if last is PASSED else ["1", "1"])
    for at in range(1, made + 1):
        assert ends(at)[0] == expected, at


def test_promote_takes_the_newest_that_passed_and_no_rejected_one_unless_told(name: str) -> None:
    with pytest.raises(registry.RegistryError, match="no version of .* passed a gate"):
        registry.promote(name)
    registry.release(name, "3", LIMITS, FAILED)
    with pytest.raises(registry.RegistryError, match="was rejected .esr 1 is 0.5.*--force"):
        registry.promote(name, "3")
    registry.release(name, "1", LIMITS, PASSED)
    registry.release(name, "2", LIMITS, PASSED)
    registry.rollback(name)
    assert registry.promote(name).version == "2"
    with pytest.raises(registry.RegistryError, match="champion of .* already"):
        registry.promote(name, "2")
    assert registry.promote(name, "3", force=True).champion


def test_a_deleted_former_champion_is_passed_over(name: str) -> None:
    for version in ("1", "2", "3"):
        registry.release(name, version, LIMITS, PASSED)
    client().delete_model_version(name, "2")
    assert registry.rollback(name).version == "1"


def test_what_is_not_there_is_named(name: str) -> None:
    with pytest.raises(registry.RegistryError, match="nobody is not a registered model; there are"):
        registry.rollback("nobody")
    with pytest.raises(registry.RegistryError, match="has no version 9"):
        registry.promote(name, "9")
    with pytest.raises(registry.RegistryError, match="has no champion"):
        registry.rollback(name)


def kept(name: str) -> dict[str, Path]:
    """Where the files of each version lie, by version; all are there."""
    folders = {}
    for version in registry.versions(name):
        place = client().get_model_version_download_uri(name, str(version.version))
        folders[str(version.version)] = Path(place.removeprefix("file://"))
    assert all(any(folder.rglob("weights.safetensors")) for folder in folders.values())
    return folders


def removable(name: str, keep: int) -> list[str]:
    return [one.version for one in registry.removable(name, keep)]


def prune(name: str, keep: int) -> list[bool]:
    return [registry.remove(one, keep) for one in registry.removable(name, keep)]


def test_superseded_versions_go_with_their_files(tmp_path: Path) -> None:
    """1, 3 and 4 were champion, 2 and 5 rejected, 6 never judged; 4 is champion."""
    name = registered_with_files(tmp_path, PASSED, FAILED, PASSED, PASSED, FAILED, None)
    assert [removable(name, keep) for keep in (0, 1, 2)] == [["1", "2", "3"], ["1", "2"], ["2"]]
    before, (first, second) = kept(name), registry.removable(name, 1)
    assert registry.size_of(first.model) > SIZE
    assert prune(name, 1) == [True, True] and prune(name, 1) == []
    assert kept(name) == {version: before[version] for version in ("3", "4", "5", "6")}
    assert not any(list(before[version].glob("*")) for version in ("1", "2"))
    assert aliases(name) == {"champion": "4", "rejected": "5"}
    assert not registry.remove(second, 1)
    assert registry.rollback(name).version == "3"
    with pytest.raises(registry.RegistryError, match="first champion"):
        registry.rollback(name)


def test_nothing_goes_that_is_used_or_says_what_is_to_stay(tmp_path: Path) -> None:
    """1 has an alias, 2 was rolled back, 3 and 4 are used by other models; 6 is champion."""
    name = registered_with_files(tmp_path, *[PASSED] * 6)
    client().set_registered_model_alias(name, "in-the-shop", "1")
    client().set_model_version_tag(name, "2", "rolled_back", "then")
    mlflow.register_model(registry.version_of(name, "3").source, f"{name}-too")
    client().copy_model_version(f"models:/{name}/4", f"{name}-copy")
    assert removable(name, 0) == ["5"]
    client().delete_registered_model_alias(name, "champion")
    assert removable(name, 0) == []


def test_versions_that_others_made_stay() -> None:
    assert removable(registered(PASSED, PASSED, PASSED), 0) == []


def test_a_version_that_became_champion_meanwhile_stays(tmp_path: Path) -> None:
    name = registered_with_files(tmp_path, PASSED, PASSED, PASSED)
    listed = registry.removable(name, 0)
    registry.promote(name, "1")
    assert [registry.remove(one, 0) for one in listed] == [False, False]
    assert set(kept(name)) == {"1", "2", "3"}


STEPS = [
    (MlflowClient, "set_logged_model_tags"),
    (MlflowClient, "delete_model_version"),
    (LocalArtifactRepository, "delete_artifacts"),
    (MlflowClient, "delete_logged_model"),
]


@pytest.mark.parametrize("step", STEPS, ids=[name for _, name in STEPS])
def test_a_removal_that_is_broken_off_anywhere_is_finished_by_the_next(step, tmp_path: Path, monkeypatch) -> None:
    def away(*arguments: object) -> None:
        raise ConnectionError("MLflow is away")

    name = registered_with_files(tmp_path, PASSED, PASSED, PASSED)
    before = kept(name)
    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(*step, away)
        prune(name, 0)
    assert {"2", "3"} <= set(kept(name)) and removable(name, 0) == ["1", "2"]
    assert prune(name, 0) == [True, True] and prune(name, 0) == []
    assert set(kept(name)) == {"3"} and not any(list(before[version].glob("*")) for version in ("1", "2"))


def test_a_removed_model_that_is_made_again_is_registered_and_judged_anew(tmp_path: Path) -> None:
    name = registered_with_files(tmp_path, FAILED, PASSED)
    spec = Spec(name=name, concepts=["taxi"], output=str(tmp_path))
    assert prune(name, 0) == [] and register_again(spec, 1) == "1"
    client().delete_registered_model_alias(name, "rejected")
    assert prune(name, 0) == [True]
    assert register_again(spec, 1) == "3" and "gate" not in registry.version_of(name, "3").tags
    assert set(kept(name)) == {"2", "3"}


def test_scores_belong_to_the_weights_that_they_were_measured_on(tmp_path: Path) -> None:
    """A training that is made again under its key may have other weights; other trainings may come to the same."""
    name = registered_with_files(tmp_path, None)
    spec = Spec(name=name, concepts=["taxi"], output=str(tmp_path))
    assert register_again(spec, 2) == "2" and register_again(spec, 1, "another") == "1"
    tags = {str(v.version): v.tags for v in registry.versions(name)}
    assert {version: (t["training"], t["erased_model_hash"]) for version, t in tags.items()} == {
        "1": ("another", "model-1"),
        "2": ("training", "model-2"),
    }


def test_what_serves_it_is_pinned_to_what_is_installed(tmp_path: Path) -> None:
    name = registered_with_files(tmp_path, None)
    (file,) = kept(name)["1"].rglob("requirements.txt")
    pinned = dict(line.split("==") for line in file.read_text().split())
    assert set(pinned) == {"mlflow", *registry.SERVED_BY}
    # Of torch, any build of the version: the index has not those of other places.
    assert pinned["torch"] == importlib.metadata.version("torch").partition("+")[0]
    assert pinned["diffusers"] == importlib.metadata.version("diffusers")


def rejects(name: str, keep: int = 0) -> list[str]:
    return [one.version for one in registry.removable(name, keep, rejected=True)]


def test_rejected_versions_go_when_they_are_asked_for_but_for_the_newest(tmp_path: Path) -> None:
    """Newer than the champion, and of a model without one."""
    name = registered_with_files(tmp_path, FAILED, PASSED, FAILED, None, FAILED)
    client().delete_registered_model_alias(name, "rejected")
    assert removable(name, 0) == ["1"] and rejects(name) == ["1", "3"]
    client().set_registered_model_alias(name, "in-the-shop", "3")
    assert rejects(name) == ["1"]
    client().delete_registered_model_alias(name, "in-the-shop")
    listed = registry.removable(name, 0, rejected=True)
    assert not registry.remove(listed[1], 0), "what was not asked for"
    assert [registry.remove(one, 0, rejected=True) for one in listed] == [True, True]
    assert set(kept(name)) == {"2", "4", "5"}
    client().delete_registered_model_alias(name, "champion")
    registry.release(name, "2", LIMITS, FAILED)
    client().delete_registered_model_alias(name, "rejected")
    assert removable(name, 0) == [] and rejects(name) == ["2"]


def test_an_upload_that_never_became_a_version_goes_when_it_is_a_day_old(tmp_path: Path, monkeypatch) -> None:
    name = registered_with_files(tmp_path, PASSED, PASSED)
    spec = Spec(name=name, concepts=["taxi"], output=str(tmp_path))

    def away(*arguments: object, **named: object) -> None:
        raise ConnectionError("MLflow is away")

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(mlflow, "register_model", away)
        register_again(spec, 3)
    assert removable(name, 1) == []
    # A copy's files are those of the version that it was made from, which may be gone.
    copied = client().copy_model_version(f"models:/{name}/1", f"{name}-copy")
    client().delete_model_version(name, "1")
    monkeypatch.setattr(registry, "DAY", 0)
    (one,) = registry.removable(name, 1)
    assert (one.version, one.state, one.gone) == ("-", "no version has it", True) and registry.size_of(one.model) > SIZE
    assert registry.remove(one, 1) and registry.removable(name, 1) == [] and not registry.remove(one, 1)
    with pytest.raises(MlflowException):
        client().get_logged_model(one.model)
    assert set(kept(name)) == {"2"} and set(kept(copied.name)) == {"1"}


@pytest.mark.slow
def test_mlflow_removes_what_is_left_of_it(tmp_path: Path) -> None:
    name = registered_with_files(tmp_path, PASSED, PASSED)
    (one,) = registry.removable(name, 0)
    run_id = registry.version_of(name, "1").run_id
    assert registry.remove(one, 0)
    command = ["gc", "--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"], "--logged-model-ids", one.model]
    ran = subprocess.run([sys.executable, "-m", "mlflow", *command], capture_output=True, text=True)
    assert ran.returncode == 0 and f"{one.model} has been permanently deleted" in ran.stdout, ran.stderr
    with pytest.raises(MlflowException):
        client().get_logged_model(one.model)
    assert client().get_run(run_id).info.status == "FINISHED" and set(kept(name)) == {"2"}
