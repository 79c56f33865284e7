"""A full disk: the error says so, nothing half is left, and the work goes on once there is room."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from erase_core.artifacts import find, folder_of, produce
from erase_core.files import new_file
from tests.faults.runs import start_erase

SPEC = """
name: disk
concepts: [taxi]
vocabulary: {{top_k: 4}}
training: {{steps: 4, batch_size: 1, trajectories: 1, latent_steps: 2, checkpoint_every: 1}}
generation: {{seeds: [0], steps: 1}}
scoring: {{preserved: [bus], resamples: 100}}
output: {output}
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=500m", str(disk)], check=True)


def test_artifact(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERASE_HOME", str(disk / "home"))

    def build(folder: Path) -> None:
        (folder / "a").write_bytes(b"a" * 2_000_000)

    with pytest.raises(OSError) as caught:
        produce("stage", "key", build)
    assert caught.value.errno == errno.ENOSPC
    assert find("stage", "key") is None and not folder_of("stage", "key").exists()
    assert not list(disk.rglob("*.partial"))
    enlarge(disk)
    assert produce("stage", "key", build).file("a").stat().st_size == 2_000_000


def test_file_that_is_replaced(disk: Path) -> None:
    with new_file(disk / "a") as partial:
        partial.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"), new_file(disk / "a") as partial:
        partial.write_bytes(b"a" * 2_000_000)
    assert (disk / "a").read_bytes() == b"old" and os.listdir(disk) == ["a"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("full", ["training", "output"])
def test_run(disk: Path, tmp_path: Path, full: str) -> None:
    """The checkpoints' disk, or the results', is full."""
    home, output = tmp_path / "home", (disk if full == "output" else tmp_path) / "out"
    if full == "training":
        home.mkdir()
        (home / "training").symlink_to(disk)
    (tmp_path / "spec.yaml").write_text(SPEC.format(output=output))
    process = start_erase("run", str(tmp_path / "spec.yaml"), home=home)
    assert process.wait() == 1
    said = home.with_suffix(".log").read_text()
    assert "No space left on device" in said and "finished stages are kept" in said and "Traceback" not in said
    assert not (output / "summary.json").exists()
    enlarge(disk)
    process = start_erase("run", str(tmp_path / "spec.yaml"), home=home)
    assert process.wait() == 0, home.with_suffix(".log").read_text()
    assert "Served from the cache: vocabulary, embeddings, nearest" in " ".join(
        home.with_suffix(".log").read_text().split()
    )
    assert (output / "report.html").exists() and not list(output.rglob("*.partial"))
