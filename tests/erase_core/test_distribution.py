"""Two real ranks against one: the same draws, π, losses and weights with every ZeRO stage, and checkpoints that change hands."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from erase_core.distributed.ranks import run_ranks
from erase_core.distributed.shards import piece_file
from erase_core.files import read_json, write_json
from erase_core.generation import worker as drawing
from erase_core.generation.dataset import READ_TOGETHER, SCHEMA, join_datasets
from erase_core.generation.images import generate
from erase_core.generation.plan import Wanted, shown
from erase_core.metrics.per_image import joined, judge_images
from erase_core.metrics.scorers import scorers_of
from erase_core.models.pipeline import prepare_sampling
from erase_core.models.trainable import trainable_names
from erase_core.pictures import encode_png
from erase_core.spec import Method, make_spec
from erase_core.spec_errors import SpecError
from erase_core.training import checkpoint
from erase_core.training.loop import train
from tests.erase_core.tiny_training import inputs, settings
from tests.tiny import tiny_stable_diffusion

STAGES = (0, 1, 2, 3)
METHODS = {
    "gradient": ({"name": "adversarial", "search": "gradient", "attack_steps": 1}, 3),
    "pgd": ({"name": "adversarial-pgd"}, 2),
    "age": ({"name": "age"}, 2),
    "kpop": ({"name": "kpop"}, 3),
}
"""Searches of other kinds than the default's, and the ZeRO stage that each is tried with."""
SEED = 2


def shared(**changes):
    return settings(**{"batch_size": 4, "steps": 3, **changes})


def alone(
    pipeline, *, method: dict | None = None, checkpoints: Path | None = None, **changes
) -> tuple[dict, list[dict]]:
    records: list[dict] = []
    weights = train(*inputs(pipeline), Method(**(method or {})), shared(**changes), SEED, checkpoints, records.append)
    return weights, records


def drawing_job(model: Path) -> dict:
    """Five images in three batches, the second of which has a guidance scale of its own."""
    generation = {"batch_size": 2, "steps": 2, "precision": "bf16"}
    spec = make_spec({"name": "x", "output": "o", "model": str(model), "concepts": ["taxi"], "generation": generation})
    scales = [None, None, 2.0, None, None]
    wanted = [Wanted(f"a taxi {i}", "taxi", i, guidance_scale=scale) for i, scale in enumerate(scales)]
    return {
        "spec": spec.model_dump(mode="json"),
        "model": str(model),
        "delta": None,
        "model_hash": "m",
        "wanted": [vars(w) for w in wanted],
    }


def judging_job(folder: Path, model: Path) -> dict:
    """Two datasets of noise, a little longer than what is judged together."""
    paths = [folder / "before.parquet", folder / "after.parquet"]
    for seed, path in enumerate(paths):
        pixels = np.random.default_rng(seed).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
        images = [encode_png(image) for image in pixels]
        count = READ_TOGETHER + 5
        rows = {"prompt": ["p"] * count, "concept": ["taxi"] * count, "seed": range(count), "model": ["m"] * count}
        pq.write_table(pa.table({**rows, "png": [images[i % 3] for i in range(count)]}, schema=SCHEMA), path)
    spec = make_spec({"name": "x", "output": "o", "model": str(model), "concepts": ["taxi"]})
    job = {"spec": spec.model_dump(mode="json"), "original": str(paths[0]), "erased": str(paths[1])}
    return {**job, "roles": {"taxi": "erased"}, "pieces": 2}


@pytest.fixture(scope="module")
def launched(tiny_pipeline, tiny_folder, tmp_path_factory) -> Path:
    """One launch of two ranks that does all that is tested here, since a launch takes long to start."""
    folder = tmp_path_factory.mktemp("ranks")
    write_json(folder / "images" / "job.json", drawing_job(tiny_folder))
    write_json(folder / "verdicts" / "job.json", judging_job(folder, tiny_folder))
    alone(tiny_pipeline, checkpoints=folder / "checkpoints" / "from-one")
    trainings = {f"zero-{stage}": shared(processes=2, zero_stage=stage) for stage in STAGES}
    trainings |= {
        "from-one": shared(processes=2, zero_stage=3),
        "fresh": shared(processes=2, zero_stage=3, latents="fresh", steps=2),
    }
    asked = {name: ({}, t.model_dump()) for name, t in trainings.items()}
    asked |= {
        n: (method, shared(processes=2, zero_stage=z, steps=2).model_dump()) for n, (method, z) in METHODS.items()
    }
    job = {"trainings": asked, "seed": SEED}
    places = {name: str(folder / name / "job.json") for name in ("images", "verdicts")}
    write_json(folder / "job.json", {**job, **places, "checkpoints": str(folder / "checkpoints")})
    run_ranks("tests.erase_core.two_ranks", folder / "job.json", 2, lambda line: None)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tiny_pipeline) -> tuple[dict, list[dict]]:
    return alone(tiny_pipeline)


def losses(records: list[dict]) -> torch.Tensor:
    names = ("search_loss", "erasing_loss", "preservation_loss")
    return torch.tensor([[r[name] or 0.0 for name in names] for r in records], dtype=torch.float64)


def close(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_do_what_one_does(launched: Path, undisturbed, tiny_pipeline, stage: int) -> None:
    weights, records = undisturbed
    found = read_json(launched / f"zero-{stage}.json")
    assert len(losses(records)) == 6 and (losses(records) - losses(found["records"])).abs().max() < 1e-4
    # All words of the global batch, each rank's own in turn: no two samples draw alike, and none draws otherwise than alone.
    assert [r["drawn"] for r in found["records"]] == [r["drawn"] for r in records]
    assert any(r["drawn"][:2] != r["drawn"][2:] for r in records)
    exported = load_file(launched / f"zero-{stage}.safetensors")
    assert list(sorted(exported)) == sorted(trainable_names(tiny_pipeline.unet, "xattn")) and close(weights, exported)


@pytest.mark.parametrize("stage", STAGES)
def test_every_rank_holds_the_same_pi(launched: Path, stage: int) -> None:
    assert read_json(launched / f"zero-{stage}.json")["same_pi"] == [False, True, True]


@pytest.mark.parametrize("name", METHODS)
def test_other_searches_on_two_ranks(launched: Path, tiny_pipeline, name: str) -> None:
    weights, records = alone(tiny_pipeline, method=METHODS[name][0], steps=2)
    found = read_json(launched / f"{name}.json")
    assert (losses(records) - losses(found["records"])).abs().max() < 1e-4
    assert all(found["same_pi"][1:])
    # Adam makes a whole step of a gradient that is nothing but rounding, so single weights may differ.
    before, two = tiny_pipeline.unet.state_dict(), load_file(launched / f"{name}.safetensors")
    apart = sum((weights[n] - two[n]).abs().sum() for n in weights)
    assert apart < 0.01 * sum((weights[n] - before[n]).abs().sum() for n in weights)


def test_latents_of_the_edited_model_stop_together(launched: Path, tiny_pipeline) -> None:
    _, records = alone(tiny_pipeline, latents="fresh", steps=2)
    found = read_json(launched / "fresh.json")["records"]
    assert (losses(records) - losses(found)).abs().max() < 1e-4


def test_one_rank_s_checkpoint_goes_on_with_two(launched: Path, undisturbed) -> None:
    assert close(undisturbed[0], load_file(launched / "from-one.safetensors"))


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 1), (2, 3), (1, 2)])
def test_two_ranks_checkpoint_goes_on_with_one(
    launched: Path, undisturbed, tiny_pipeline, before: int, after: int
) -> None:
    folder = launched / "checkpoints" / f"zero-{before}"
    assert checkpoint.latest(folder).name == "step-000002"
    weights, records = alone(tiny_pipeline, checkpoints=folder, zero_stage=after)
    assert close(undisturbed[0], weights) and (losses(undisturbed[1]) - losses(records)).abs().max() < 1e-4


def test_pieces_that_are_there_are_kept(tiny_folder, tmp_path: Path) -> None:
    """What an earlier try finished is not drawn again."""
    write_json(tmp_path / "job.json", drawing_job(tiny_folder))
    piece_file(tmp_path, 1).write_bytes(b"made before")
    # accelerate leaves in the environment that this process is a rank.
    with mock.patch.dict(os.environ, OMP_NUM_THREADS=str(torch.get_num_threads())):
        drawing.main(tmp_path / "job.json")
    assert piece_file(tmp_path, 1).read_bytes() == b"made before"
    assert [pq.read_table(piece_file(tmp_path, number)).num_rows for number in (0, 2)] == [2, 2]


def test_images_are_the_same_bytes(launched: Path, tmp_path: Path) -> None:
    job = read_json(launched / "images" / "job.json")
    spec, wanted = make_spec(job["spec"]), [Wanted(**w) for w in job["wanted"]]
    pipeline = prepare_sampling(tiny_stable_diffusion(), spec.generation)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generate(pipeline, wanted, spec.generation, "m", tmp_path / "alone.parquet")
    torch.set_num_threads(threads)
    pieces = sorted((launched / "images").glob("*.parquet"))
    assert [piece.name for piece in pieces] == ["000000.parquet", "000001.parquet", "000002.parquet"]
    join_datasets(pieces, tmp_path / "shared.parquet")
    assert (tmp_path / "shared.parquet").read_bytes() == (tmp_path / "alone.parquet").read_bytes()


def test_verdicts_are_the_same(launched: Path) -> None:
    job = read_json(launched / "verdicts" / "job.json")
    files, scorers = (
        (Path(job["original"]), Path(job["erased"])),
        scorers_of(make_spec(job["spec"]), shown(job["roles"])),
    )
    pieces = sorted((launched / "verdicts").glob("*.parquet"))
    frames = [pq.read_table(piece).to_pandas() for piece in pieces]
    assert [len(frame) for frame in frames] == [READ_TOGETHER, 5]
    pd.testing.assert_frame_equal(joined(frames), judge_images(*files, job["roles"], scorers))


def test_batches_that_cannot_be_shared_are_refused() -> None:
    spec = {"name": "x", "output": "o", "concepts": ["taxi"], "training": {"batch_size": 4, "processes": 3}}
    with pytest.raises(SpecError, match="training.batch_size: 4 samples cannot be shared evenly by 3 ranks"):
        make_spec(spec)
