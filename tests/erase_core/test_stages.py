"""What the stages' keys depend on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from erase_core import attack_stages, methods, stages
from erase_core.artifacts import Artifact, folder_of, produce
from erase_core.attacks.attempts import REFERENCES, write_rows
from erase_core.concepts.embeddings import EmbeddingTable
from erase_core.concepts.neighbours import read_neighbours, write_neighbours
from erase_core.concepts.vocabulary import VocabularyError
from erase_core.models.delta import save_delta
from erase_core.models.source import WEIGHTS
from erase_core.spec import make_spec
from erase_core.stages import images_key, nearest_key, scores_key, training_key
from erase_core.training import worker

MADE = Artifact(stage="vocabulary", key="k", folder="/none", seconds=0)


def keys(method: str = "naive", **vocabulary) -> list[set[str]]:
    """The keys of the nearest words, and of the training, of two specs that differ in their seeds alone."""
    given = {"name": "x", "output": "o", "concepts": ["taxi"], "method": method, "vocabulary": vocabulary}
    specs = [make_spec({**given, "seed": seed}) for seed in (0, 1)]
    return [{key(spec, MADE, MADE) for spec in specs} for key in (nearest_key, training_key)]


def test_a_seed_that_nothing_is_drawn_with_is_in_no_key() -> None:
    near, trained = keys()
    assert len(near) == 1 and len(trained) == 2
    near, _ = keys(clusters=4)
    assert len(near) == 2
    for closed_form in ("uce", "time"):
        _, trained = keys(closed_form)
        assert len(trained) == 1


def test_a_method_s_version_is_in_its_key(monkeypatch) -> None:
    _, before = keys("naive")
    monkeypatch.setattr(methods.load("naive"), "VERSION", 2, raising=False)
    _, after = keys("naive")
    assert not before & after


def test_the_numbers_of_a_prompt_file_are_in_the_scores_key_alone(tmp_path: Path) -> None:
    """The verdicts have them, and the images do not."""
    nearest = Artifact(stage="nearest", key="k", folder=tmp_path, seconds=0)
    write_neighbours(nearest.file("preserved.parquet"), {})
    file, keys = tmp_path / "prompts.csv", []
    for number in (7, 7, 8):
        file.write_text(f"case_number,prompt,evaluation_seed,label_str\n{number},a taxi,1,taxi\n")
        given = {"name": "x", "concepts": ["taxi"], "output": "-", "generation": {"prompt_files": [str(file)]}}
        spec = make_spec(given)
        keys.append((images_key(spec, nearest, None), scores_key(spec, nearest, MADE, MADE)))
    assert keys[0] == keys[1] and keys[1][0] == keys[2][0] and keys[1][1] != keys[2][1]


def test_every_concept_s_pictures_are_in_the_references_key(tmp_path: Path) -> None:
    for word in ("taxi", "cat"):
        (tmp_path / word).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / word / "a.png")
    spec = make_spec({"name": "x", "concepts": ["taxi", "cat"], "output": "-", "attacks": {"images": str(tmp_path)}})
    before = attack_stages.references_key(spec)
    assert attack_stages.references_key(spec) == before
    Image.new("RGB", (8, 8), "white").save(tmp_path / "cat" / "a.png")
    assert attack_stages.references_key(spec) != before


ORDER = ("vocabulary", "embeddings", "nearest", "training", "original", "erased", "scores", "references", "attack")
BASE = {
    "name": "x",
    "output": "o",
    "concepts": ["taxi"],
    "scoring": {"preserved": ["bus"]},
    "attacks": {"run": ["seeds"]},
}
DRAWN = {"original", "erased", "scores", "references", "attack"}
CHANGED = {
    "a name": ({"name": "y", "output": "p", "report": {"unsafe": ["taxi"]}, "gate": {"min_esr_1": 0.5}}, set()),
    "a concept": ({"concepts": ["cat"]}, {*ORDER} - {"embeddings"}),
    "a synonym": (
        {"concepts": [{"concept": "taxi", "synonyms": ["cab"]}]},
        {"vocabulary", "nearest", "training", "erased", "scores", "references", "attack"},
    ),
    "what is never preserved": (
        {"vocabulary": {"exclude": ["car"]}},
        {"vocabulary", "nearest", "training", "erased", "scores", "attack"},
    ),
    "another source": ({"vocabulary": {"source": "english-3000"}}, {*ORDER} - {"original"}),
    "what nearest means": (
        {"vocabulary": {"similarity": "l2"}},
        {"nearest", "training", "erased", "scores", "attack"},
    ),
    "pooled embeddings": (
        {"vocabulary": {"similarity": "pooled"}},
        {"embeddings", "nearest", "training", "erased", "scores", "attack"},
    ),
    "how many words": ({"vocabulary": {"top_k": 7}}, {"nearest", "training", "erased", "scores", "attack"}),
    "the seed": ({"seed": 5}, {"training", "erased", "scores", "references", "attack"}),
    "the method": ({"method": "naive"}, {"training", "erased", "scores", "attack"}),
    "a method's parameter": (
        {"method": {"name": "adversarial", "rivals": 2}},
        {"training", "erased", "scores", "attack"},
    ),
    "the learning rate": ({"training": {"learning_rate": 0.5}}, {"training", "erased", "scores", "attack"}),
    "how it is shared": ({"training": {"processes": 2, "zero_stage": 1, "checkpoint_every": 7}}, set()),
    "the sampler": ({"generation": {"sampler": "unipc"}}, DRAWN),
    "the guidance": ({"generation": {"guidance_scale": 2.0}}, DRAWN),
    "the image seeds": ({"generation": {"seeds": [9]}}, {"original", "erased", "scores"}),
    "the prompts": ({"generation": {"prompts": ["my {concept}"]}}, DRAWN),
    "how many at once": (
        {"generation": {"batch_size": 3, "processes": 2}, "scoring": {"preserved": ["bus"], "processes": 2}},
        set(),
    ),
    "a preserved concept": (
        {"scoring": {"preserved": ["cat"]}},
        {"original", "erased", "scores", "references", "attack"},
    ),
    "the metrics": ({"scoring": {"preserved": ["bus"], "metrics": ["erasure"]}}, {"scores", "references", "attack"}),
    "an attack's budget": ({"attacks": {"run": [{"name": "seeds", "budgets": [3]}]}}, {"attack"}),
}
"""What is changed in a spec, and the stages whose results are others by it."""


def keys_of(folder: Path, **changes) -> dict[str, str]:
    """The keys of a spec's stages, each made from those before."""
    spec = make_spec({**BASE, **changes})

    def made(stage: str, key: str) -> Artifact:
        return Artifact(stage=stage, key=key, folder=folder, seconds=0)

    words = stages.vocabulary(spec)
    embedded = made("embeddings", stages.embeddings_key(spec, words))
    near = made("nearest", nearest_key(spec, words, embedded))
    trained = made("training", training_key(spec, near, embedded))
    original, erased = (made("images", images_key(spec, near, training)) for training in (None, trained))
    references = made("references", attack_stages.references_key(spec))
    scored = scores_key(spec, near, original, erased)
    (attack,) = spec.attacks.run
    attacked = attack_stages.attack_key(spec, attack, references, trained)
    of = (words.key, embedded.key, near.key, trained.key, original.key, erased.key, scored, references.key, attacked)
    return dict(zip(ORDER, of, strict=True))


@pytest.mark.parametrize(("changes", "expected"), CHANGED.values(), ids=CHANGED)
def test_what_changes_a_stage_s_result_changes_its_key(changes: dict, expected: set[str], tmp_path: Path) -> None:
    write_neighbours(tmp_path / "preserved.parquet", {})
    before, after = keys_of(tmp_path), keys_of(tmp_path, **changes)
    assert {stage for stage in ORDER if before[stage] != after[stage]} == expected


def test_another_judge_in_the_same_folder_judges_anew(tmp_path: Path) -> None:
    judge = shutil.copytree(WEIGHTS / "concept_judge", tmp_path / "judge")
    given = {"name": "x", "output": "o", "concepts": ["taxi"], "scoring": {"judge": str(judge)}}
    found = [stages.scorers_hash(make_spec(given))]
    for file in ("model.safetensors", "preprocessor_config.json"):
        content = (judge / file).read_bytes()
        (judge / file).write_bytes(content + b" ")
        found.append(stages.scorers_hash(make_spec(given)))
    assert len({str(each) for each in found}) == 3


def test_a_vocabulary_that_is_there_may_have_too_few_words_for_another_run(
    tiny_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("ERASE_HOME", str(tmp_path / "home"))
    given = {"name": "x", "output": "o", "model": str(tiny_folder), "concepts": ["taxi"]}
    few, many = (make_spec({**given, "vocabulary": {"source": "emoji-world", "top_k": k}}) for k in (3, 3000))
    assert stages.vocabulary_key(few) == stages.vocabulary_key(many)
    stages.vocabulary(few)
    with pytest.raises(VocabularyError, match="^vocabulary.top_k: "):
        stages.vocabulary(many)


def test_a_training_reads_the_words_found_by_pooled_embeddings(tiny_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """They alone are encoded whole, in a file of their own."""
    monkeypatch.setenv("ERASE_HOME", str(tmp_path / "home"))
    spec = make_spec(
        {
            "name": "x",
            "output": "o",
            "model": str(tiny_folder),
            "concepts": ["taxi"],
            "method": "nearest",
            "vocabulary": {"source": "emoji-world", "similarity": "pooled", "top_k": 3},
            "training": {"steps": 1, "batch_size": 1, "trajectories": 1, "latent_steps": 2},
            "scoring": {"metrics": ["clip_score"]},
        }
    )
    words = stages.vocabulary(spec)
    embedded = stages.embeddings(spec, words)
    near = stages.nearest(spec, words, embedded)
    found = read_neighbours(near.file("preserved.parquet"))["taxi"]
    assert EmbeddingTable(embedded.file("embeddings.arrow")).compared == "pooled"
    assert EmbeddingTable(near.file("embeddings.arrow")).words == [neighbour.word for neighbour in found]
    # A rank by itself does the same in a process of its own.
    monkeypatch.setattr("erase_core.training.launch.run_ranks", lambda module, job, *_: worker.main(job))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    trace = pq.read_table(stages.training(spec, near, embedded).file("trace.parquet")).to_pylist()
    assert {word for row in trace for word in row["drawn"]} == {found[0].word}


def test_nothing_of_a_training_is_served_for_another_of_the_same_key(world, tmp_path: Path, monkeypatch) -> None:
    """A training that was removed and is made again on another machine has a little other weights."""
    monkeypatch.setenv("ERASE_HOME", str(tmp_path / "home"))
    nearest = Artifact(stage="nearest", key="k", folder=tmp_path, seconds=0)
    write_neighbours(nearest.file("preserved.parquet"), {})
    generation = {"seeds": [0], "sampler": "dpm-solver++", "steps": 6}
    drawn = {"scoring": {"preserved": [], "metrics": ["erasure"]}, "generation": generation}
    attacks = {"references": 1, "run": [{"name": "seeds", "budgets": [1]}]}
    spec = make_spec({"name": "x", "output": "o", "concepts": ["taxi"], "attacks": attacks, **drawn})
    original, references = stages.images(spec, nearest), attack_stages.references(spec)
    name = next(name for name in world.unet.state_dict() if "attn2.to_k" in name)
    pieces: list[Path] = []

    def shards_folder(*parts: object, own=stages.shards_folder) -> Path:
        pieces.append(own(*parts))
        return pieces[-1]

    monkeypatch.setattr(stages, "shards_folder", shards_folder)

    def made_with(scale: float) -> list[Artifact]:
        """What a training that gives these weights leads to."""
        changed = {name: world.unet.state_dict()[name] * scale}
        shutil.rmtree(folder_of("training", "k"), ignore_errors=True)
        training = produce("training", "k", lambda at: save_delta(at / "delta.safetensors", world.unet, changed, {}))
        images = stages.images(spec, nearest, training)
        scores = stages.scores(spec, nearest, original, images)
        (attack,) = spec.attacks.run
        return [images, scores, attack_stages.attack(spec, attack, references, training)]

    first, again, other = (made_with(scale) for scale in (2.0, 2.0, 3.0))
    assert [each.cached for each in again] == [True] * 3 and [each.cached for each in other] == [False] * 3
    assert [each.key for each in other] == [each.key for each in first]
    (attack,) = spec.attacks.run

    def attacked_with(value: int) -> bool:
        """Whether an attack is served from the cache, with references of one grey value."""
        shutil.rmtree(references.folder)
        row = {"concept": "taxi", "prompt": "a rose", "image": np.full((64, 64, 3), value, np.uint8)}
        rows = [{**row, "kind": kind} for kind in ("image", "related", "unrelated")]
        at_hand = produce(
            "references", references.key, lambda at: write_rows(at / "references.parquet", rows, REFERENCES)
        )
        return attack_stages.attack(spec, attack, at_hand).cached

    assert [attacked_with(value) for value in (1, 1, 2)] == [False, True, False]
    # What ranks had drawn or judged before they were stopped lies by the same contents.
    assert pieces[:2] == pieces[2:4] and set(pieces[:2]).isdisjoint(pieces[4:])
