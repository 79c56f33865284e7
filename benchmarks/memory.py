"""What `erase plan` says against what is then held, and docs/memory.md with both.

    python -m benchmarks.memory [--only NAME …]

The models of real size have random weights, in the published configurations. Each training is a run's own, in ranks of its own,
and each sampling a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from erase_core.files import new_file, read_json, write_json

PAGE = Path(__file__).parent.parent / "docs" / "memory.md"
HEAD = Path(__file__).parent / "memory_head.md"
RESULTS = Path(__file__).parent / "results" / "memory.json"
WORDS = [
    *("truck", "bus", "car", "boat", "train", "plane", "house", "church", "tree", "dog"),
    *("cat", "horse", "bird", "fish", "apple", "bread", "chair", "table", "lamp", "clock"),
]
ONE_STEP = {"steps": 1, "trajectories": 1, "latent_steps": 2, "batch_size": 1}
CASES: dict[str, tuple[str, dict]] = {
    "included model, cross-attention": ("emoji-world", {"training": {"steps": 3}}),
    "included model, all weights, ZeRO 2 on 2 ranks, batch of 32": (
        "emoji-world",
        {"training": {"steps": 3, "trainable": "full", "zero_stage": 2, "processes": 2, "batch_size": 32}},
    ),
    "included model, all weights, ZeRO 3 on 2 ranks, batch of 64": (
        "emoji-world",
        {"training": {"steps": 3, "trainable": "full", "zero_stage": 3, "processes": 2, "batch_size": 64}},
    ),
    "Stable Diffusion 1.4, cross-attention": ("sd1", {"training": ONE_STEP}),
    "Stable Diffusion 1.4, self-attention, gradient checkpointing": (
        "sd1",
        {"training": {**ONE_STEP, "trainable": "selfattn", "gradient_checkpointing": True}},
    ),
    "Stable Diffusion 1.4, cross-attention, ZeRO 1 on 2 ranks": (
        "sd1",
        {"training": {**ONE_STEP, "batch_size": 2, "processes": 2, "zero_stage": 1}},
    ),
    "included model, all weights, ZeRO 3 on 2 ranks, batch of 8": (
        "emoji-world",
        {"training": {"steps": 3, "trainable": "full", "zero_stage": 3, "processes": 2, "batch_size": 8}},
    ),
    "Stable Diffusion 1.4, cross-attention, ZeRO 3 on 2 ranks": (
        "sd1",
        {"training": {**ONE_STEP, "batch_size": 2, "processes": 2, "zero_stage": 3}},
    ),
    "Stable Diffusion 1.4, cross-attention, bf16": (
        "sd1",
        {"training": {**ONE_STEP, "precision": "bf16", "frozen_precision": "bf16"}},
    ),
    "Stable Diffusion 1.4, images, two at once": (
        "sd1",
        {"generation": {"steps": 1, "batch_size": 2, "seeds": [0, 1]}},
    ),
    "included model, images, 64 at once": ("emoji-world", {"generation": {"steps": 2, "seeds": list(range(64))}}),
}


def spec_of(model: str, changes: dict, folder: Path) -> dict:
    """A spec of one concept with few words to choose from."""
    (folder / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    vocabulary = {"source": str(folder / "words.txt"), "top_k": 10}
    where = model if model == "emoji-world" else str(model_folder(model))
    own = {
        "name": "memory",
        "model": where,
        "concepts": ["taxi"],
        "vocabulary": vocabulary,
        "output": str(folder / "out"),
    }
    return {**own, "scoring": {"preserved": []} if model == "emoji-world" else {}, **changes}


def model_folder(kind: str) -> Path:
    """A model of the published configuration with random weights, written once."""
    import torch

    from erase_core.files import home, new_folder
    from erase_core.memory import parts_of
    from erase_core.models.published import configs, write_configs

    folder = home() / "random" / kind
    if not folder.exists():
        with new_folder(folder) as partial:
            write_configs(partial, configs(kind))
            torch.manual_seed(0)
            for name, part in parts_of(partial).items():
                part.save_pretrained(partial / name)
    return folder


def forecast(spec: dict, stage: str) -> float:
    """What `erase plan` says, in GiB for each rank."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "spec.yaml").write_text(json.dumps(spec), encoding="utf-8")
        command = [sys.executable, "-m", "flows.command", "plan", str(Path(name) / "spec.yaml"), "--json"]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(told)[stage]["peak_gib"]


def measured(spec: dict, stage: str) -> float:
    """What is held when the stage is run, in GiB: by rank 0 of the training, or by a process that draws the images."""
    command = [sys.executable, "-m", "benchmarks.memory", "--stage", stage, "--spec", json.dumps(spec)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def run_stage(spec: dict, stage: str) -> float:
    from erase_core import stages
    from erase_core.spec import make_spec
    from erase_core.training.worker import peak_memory

    made = make_spec(spec)
    vocabulary = stages.vocabulary(made)
    embeddings = stages.embeddings(made, vocabulary)
    nearest = stages.nearest(made, vocabulary, embeddings)
    if stage == "training":
        return read_json(stages.training(made, nearest, embeddings).file("resources.json"))["peak_memory_gib"]
    stages.images(made, nearest)
    return peak_memory()


def write_page(rows: dict[str, dict]) -> None:
    lines = [HEAD.read_text(encoding="utf-8").strip(), ""]
    lines += ["| what | planned, GiB | held, GiB | planned / held |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['planned']:.2f} | {row['held']:.2f} | {row['planned'] / row['held']:.2f} |"
        for name, row in rows.items()
    ]
    with new_file(PAGE) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare what erase plan says with what is then held.")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the cases' names")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--spec", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        print(run_stage(json.loads(given.spec), given.stage))
        return
    from infra.environment import prepare

    rows = read_json(RESULTS) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        os.environ["ERASE_HOME"] = name
        prepare()
        for case, (model, changes) in CASES.items():
            if given.only and not any(part in case for part in given.only):
                continue
            # What a training leaves does not depend on how it was shared, so that of another case would be taken.
            shutil.rmtree(Path(name) / "cache", ignore_errors=True)
            stage = next(iter(changes))
            spec = spec_of(model, changes, Path(name))
            stage = "images" if stage == "generation" else stage
            rows[case] = {"planned": forecast(spec, stage), "held": measured(spec, stage)}
            print(f"{case}: planned {rows[case]['planned']:.2f} GiB, held {rows[case]['held']:.2f} GiB", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    write_json(RESULTS, {case: rows[case] for case in CASES if case in rows})
    write_page(read_json(RESULTS))
    print(f"\nWhere to look: {PAGE}")


if __name__ == "__main__":
    main()
