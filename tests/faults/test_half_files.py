"""A process is killed while it writes: under a final name there is the old, the new or nothing, never a half."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from erase_core.files import new_folder, remove_partials
from tests.faults.runs import kill_when, start

PARQUET = """
import sys, itertools, pathlib, pyarrow as pa, pyarrow.parquet as pq
from erase_core.files import new_file
path = pathlib.Path(sys.argv[1])
with new_file(path) as partial:
    pq.write_table(pa.table({"n": [1]}), partial)
table = pa.table({"n": list(range(100_000))})
with new_file(path) as partial, pq.ParquetWriter(partial, table.schema) as writer:
    for _ in itertools.count():
        writer.write_table(table)
"""
FOLDER = """
import sys, itertools, pathlib
from erase_core.files import new_folder
path = pathlib.Path(sys.argv[1])
for n in itertools.count():
    with new_folder(path) as partial:
        for i in range(200):
            (partial / str(i)).write_text(str(n))
"""


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    process = start([sys.executable, "-c", PARQUET, str(path)], tmp_path / "log")
    kill_when(process, lambda: any(p.stat().st_size > 1_000_000 for p in tmp_path.glob(".table.parquet.*.partial")))
    assert pq.read_table(path).to_pylist() == [{"n": 1}]
    remove_partials(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["log", "table.parquet"]


@pytest.mark.parametrize("moment", range(3))
def test_folder_that_is_replaced_again_and_again(tmp_path: Path, moment: int) -> None:
    path = tmp_path / "model"
    process = start([sys.executable, "-c", FOLDER, str(path)], tmp_path / "log")
    until = []

    def some_later() -> bool:
        if path.exists() and not until:
            until.append(time.monotonic() + 0.2 + 0.0137 * moment)
        return bool(until) and time.monotonic() > until[0]

    kill_when(process, some_later)
    if path.exists():
        assert len(os.listdir(path)) == 200 and len({p.read_text() for p in path.iterdir()}) == 1
    remove_partials(tmp_path)
    with new_folder(path) as partial:
        (partial / "0").write_text("new")
    assert os.listdir(path) == ["0"] and sorted(os.listdir(tmp_path)) == ["log", "model"]
