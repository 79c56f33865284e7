"""Commands on registered models: who becomes champion by hand, what is said and told, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from erase_core.models.delta import weights_hash
from erase_core.models.pipeline import load_pipeline
from erase_core.models.source import find_model
from flows.tables import console
from tasks import registry
from tests.command import erase_here
from tests.registered import FAILED, PASSED, aliases, registered, registered_with_files


@pytest.fixture
def name() -> str:
    """A registered model of which versions 1 and 2 passed, and 3 was rejected."""
    return registered(PASSED, PASSED, FAILED)


@pytest.fixture
def told(monkeypatch) -> list[tuple[str, str]]:
    """What was emitted to Prefect, and of which version."""
    events: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "tasks.release.emit_event",
        lambda event, resource, payload: events.append((event, resource["erase.version"])),
    )
    return events


def test_rollback_and_promote(name: str, told) -> None:
    ran = erase_here("rollback", name)
    assert ran.returncode == 0 and aliases(name)["champion"] == "1"
    assert ran.stdout.strip() == f"{name}: version 1 is the champion again; version 2 is not"
    ran = erase_here("promote", name)
    assert ran.returncode == 0 and aliases(name)["champion"] == "2"
    assert ran.stdout.strip() == f"{name}: version 2 is the champion; before: 1"
    assert told == [("erase.model.rolled-back", "1"), ("erase.model.promoted", "2")]


def test_a_rejected_version_is_promoted_by_force_alone(name: str, told) -> None:
    ran = erase_here("promote", name, "3")
    assert ran.returncode == 2 and "--force promotes it all the same" in ran.stderr
    assert aliases(name)["champion"] == "2" and not told
    assert erase_here("promote", name, "3", "--force").returncode == 0
    assert aliases(name)["champion"] == "3" and told == [("erase.model.promoted", "3")]


def test_models_are_listed(name: str, monkeypatch) -> None:
    monkeypatch.setattr(console, "width", 200)
    ran = erase_here("models", name)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.stdout.splitlines() if name in line]
    assert [row[:4] for row in rows] == [
        [name, "3", "rejected", "rejected"],
        [name, "2", "champion", "passed"],
        [name, "1", "", "passed"],
    ]


def test_superseded_versions_are_pruned(tmp_path: Path) -> None:
    name = registered_with_files(tmp_path, PASSED, FAILED, PASSED, FAILED, FAILED)

    def pruned(*options: str) -> tuple[list[list[str]], str]:
        """The rows of the table, and what is said below it."""
        ran = erase_here("prune", name, "--keep", "0", *options)
        assert ran.returncode == 0, ran.stderr
        *table, last = ran.stdout.splitlines()
        return [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if "│" in line], last

    table = [[name, "1", "passed", "0.00"], [name, "2", "rejected", "0.00"], ["in all", "2", "", "0.00"]]
    assert pruned("--dry-run") == (table, "Nothing was removed.")
    rejected = [*table[:2], [name, "4", "rejected", "0.00"], ["in all", "3", "", "0.00"]]
    assert pruned("--rejected", "--dry-run") == (rejected, "Nothing was removed.")
    assert len(registry.versions(name)) == 5
    ran = erase_here("prune", name, "--keep", "0")
    assert ran.returncode == 1 and "Remove them for good? [y/N]" in ran.stdout and len(registry.versions(name)) == 5
    assert pruned("--yes") == (table, "Removed: 0.00 GiB freed.")
    assert [str(version.version) for version in registry.versions(name)] == ["5", "4", "3"]
    assert pruned() == ([["in all", "0", "", "0.00"]], "Removed: 0.00 GiB freed.")
    assert pruned("--rejected", "--yes")[0][0][1] == "4"
    assert [str(version.version) for version in registry.versions(name)] == ["5", "3"]


def test_a_champion_is_exported_by_its_name(tiny_folder: Path, tmp_path: Path) -> None:
    """And what is no version of the registry is refused by name, before anything is written."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    name, out = registered_with_files(tmp_path, PASSED, FAILED), tmp_path / "out"
    assert registry.folder_of(f"models:/{name}@champion") == registry.folder_of(f"models:/{name}/1")
    (tmp_path / "model" / "weights.safetensors").unlink()
    ran = erase_here("export", f"models:/{name}@champion", str(out))
    assert ran.returncode == 0, ran.stderr
    assert weights_hash(load_pipeline(find_model(str(out))).unet) == weights_hash(
        load_pipeline(find_model(str(tiny_folder))).unet
    )
    for place, told in {
        f"models:/{name}@chief": f"no version of {name} has the alias chief",
        f"models:/{name}/7": f"VERSION: {name} has no version 7",
        "models:/nobody@champion": "nobody is not a registered model",
        f"models:/{name}": "write models:/NAME@champion or models:/NAME/VERSION",
    }.items():
        for command in (("export", place, str(tmp_path / "no")), ("attack", place, "--concept", "taxi")):
            ran = erase_here(*command)
            assert ran.returncode == 2 and told in ran.stderr, (place, ran.stderr)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("command", ["promote", "rollback", "prune"])
def test_a_model_that_is_not_there(command: str) -> None:
    ran = erase_here(command, "nobody")
    assert ran.returncode == 2 and "nobody is not a registered model" in ran.stderr
