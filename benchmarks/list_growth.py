"""How the time of a batch grows with the number of lists, each a whole run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from erase_core.emoji_world.catalogue import concepts
from erase_core.files import write_json

ROOT = Path(__file__).parent.parent
SPEC = {
    "name": "lists",
    "method": "uce",
    "vocabulary": {"top_k": 4},
    "generation": {"seeds": [0], "steps": 4},
    "scoring": {"preserved": ["bus", "apple"], "resamples": 100},
}


def growth(counts: list[int]) -> Iterator[dict]:
    """Seconds of a batch of small runs by the closed form, in a home that has its databases alone, for each number of lists."""
    words = [concept.word for concept in concepts() if concept.word not in SPEC["scoring"]["preserved"]]
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "lists").mkdir()
            for word in words[:count]:
                (folder / "lists" / f"{word}.txt".replace(" ", "-")).write_text(word, encoding="utf-8")
            write_json(folder / "spec.yaml", {**SPEC, "output": str(folder / "out")})
            command = [sys.executable, "-m", "flows.command", "batch", str(folder / "spec.yaml")]
            own = prepared_home(folder)
            began = time.perf_counter()
            subprocess.run([*command, "--lists", str(folder / "lists")], check=True, capture_output=True, env=own)
            yield {"lists": count, "seconds": time.perf_counter() - began}


def own_home(folder: Path) -> dict[str, str]:
    """The environment of commands in a home below the folder, where nothing is yet."""
    places = ("PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH", "MLFLOW_TRACKING_URI", "MPLCONFIGDIR")
    kept = {name: value for name, value in os.environ.items() if name not in places}
    return {**kept, "ERASE_HOME": str(folder / "home")}


def prepared_home(folder: Path) -> dict[str, str]:
    """The same with its databases, as installing makes them."""
    own = own_home(folder)
    subprocess.run([sys.executable, "-m", "infra.databases"], check=True, capture_output=True, cwd=ROOT, env=own)
    return own
