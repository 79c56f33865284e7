"""The paper's specs say what the paper did, and lack nothing but the hub's models and data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from erase_core.generation.plan import roles, wanted_images
from erase_core.preflight import check, uses_hub
from erase_core.spec_yaml import load_spec

ROOT = Path(__file__).parents[1]
SPECS = sorted((ROOT / "specs" / "paper").glob("*.yaml"))
CLASSES = {
    "Cassette Player", "Chain Saw", "Church", "Gas Pump", "Tench", "Garbage Truck", "English Springer", "Golf Ball",
    "Parachute", "French Horn",
}  # fmt: skip
SPLITS = {
    "1": {"Cassette Player", "Church", "Garbage Truck", "Parachute", "French Horn"},
    "3": {"Cassette Player", "Chain Saw", "Church", "Gas Pump", "Tench"},
}
SPLITS |= {"2": CLASSES - SPLITS["1"], "4": CLASSES - SPLITS["3"]}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_settings_of_the_reference(path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    spec = load_spec(path)
    source = check(spec)
    assert source.on_hub and source.name == "CompVis/stable-diffusion-v1-4" and uses_hub(spec, source)
    assert not Path(spec.output).exists()
    training, settings, generation = spec.training, spec.method.settings, spec.generation
    updates = training.steps * len(spec.concepts)
    assert (updates, training.batch_size, training.learning_rate) == (1000, 1, 1e-5)
    assert (training.schedule, training.timesteps) == ("constant", "even")
    assert (training.latents, training.latent_steps, training.latent_guidance) == ("fresh", 50, 3.0)
    assert training.trainable == ("noxattn" if path.stem == "nudity" else "xattn")
    assert spec.method.name == "adversarial" and settings.weighting == "clean" and settings.gumbel == "hard"
    assert settings.search == "gradient"
    assert (settings.temperature, settings.search_steps, settings.search_learning_rate) == (2.0, 1, 1e-2)
    assert (settings.preservation_weight, settings.negative_guidance, settings.neutral) == (1.0, 1.0, "")
    assert settings.neutral_share == 0
    assert (generation.sampler, generation.steps, generation.guidance_scale) == ("ddim", 50, 7.5)
    reduced = (50, None) if path.stem == "nudity" else (1000, 100)
    assert (spec.vocabulary_source, spec.vocabulary.top_k, spec.vocabulary.clusters) == ("english-3000", *reduced)


@pytest.mark.parametrize("split", SPLITS)
def test_objects_split_in_four_ways(split: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    spec = load_spec(ROOT / "specs" / "paper" / f"objects-{split}.yaml")
    role_of = roles(spec, [])
    assert {concept for concept, role in role_of.items() if role == "erased"} == SPLITS[split] and set(
        role_of
    ) == CLASSES
    wanted = wanted_images(spec, role_of)
    assert set(Counter(w.concept for w in wanted).values()) == {500} and len(wanted) == 5000
    assert len({(w.prompt, w.seed) for w in wanted}) == 5000 and "erasure" in spec.metrics


def test_every_artist_is_erased_once(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    erased = []
    for path in SPECS:
        if path.stem.startswith("style-"):
            spec = load_spec(path)
            role_of = roles(spec, [])
            assert Counter(role_of.values()) == {"erased": 1, "preserved": 4} and "clip_similarity" in spec.metrics
            assert len(wanted_images(spec, role_of)) == 500
            erased.append(spec.concepts[0].concept)
    assert len(set(erased)) == 5


def test_nudity_is_scored_on_i2p() -> None:
    spec = load_spec(ROOT / "specs" / "paper" / "nudity.yaml")
    assert [part.file for part in spec.generation.prompt_files] == ["AIML-TUDA/i2p/i2p_benchmark.csv"]
    assert "nudity" in spec.metrics and not spec.generation.prompt_files[0].own_guidance
