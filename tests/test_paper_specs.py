"""The paper's specs say what the paper did, and lack nothing but the hub's models and data; nor do those of real models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from erase_core.cautions import cautions
from erase_core.generation.plan import GENERAL, roles, wanted_images
from erase_core.memory import images_forecast, training_forecast
from erase_core.models.published import configs, write_configs
from erase_core.preflight import check, uses_hub
from erase_core.spec import make_spec
from erase_core.spec_yaml import load_spec
from tests.tiny import tiny_folder_of

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


SDXL = {"sdxl": 24, "sdxl-8x80": 80}
"""Spec of specs/ → GiB of each card that it is for."""


def test_general_prompts_show_no_concept(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    spec = load_spec(ROOT / "specs" / "paper" / "nudity.yaml")
    files = [{"file": "specs/general.csv", "general": True}, {"file": "specs/paper/artists.csv", "concept": "nudity"}]
    spec = make_spec({**spec.model_dump(mode="json", exclude_unset=True), "generation": {"prompt_files": files}})
    wanted = [w for w in wanted_images(spec, roles(spec, [])) if roles(spec, [])[w.concept] == GENERAL]
    assert len(wanted) == len({w.prompt for w in wanted}) == len({w.seed for w in wanted}) == 122


@pytest.mark.parametrize("name", SDXL)
def test_an_object_from_sdxl(name: str, tmp_path: Path, monkeypatch) -> None:
    """As it stands with the hub's model; with a tiny one in its format it gets as far as the forecast of its memory."""
    monkeypatch.chdir(ROOT)
    spec = load_spec(ROOT / "specs" / f"{name}.yaml")
    assert check(spec).on_hub and cautions(spec) == []
    tiny = spec.model_copy(update={"model": str(tiny_folder_of("sdxl", tmp_path / "model"))})
    source = check(tiny)
    training, images = training_forecast(tiny, source.folder, 0), images_forecast(tiny, source.folder, 0)
    assert training.ranks == images.ranks == spec.training.processes
    assert {"loading", "a step", "the measuring of rivals"} <= {moment.name for moment in training.moments}


@pytest.mark.slow
@pytest.mark.parametrize("name", SDXL)
def test_sdxl_fits_its_cards(name: str, tmp_path: Path, monkeypatch) -> None:
    """As an accelerator counts: what is freed is given back, and no checkpoint is gathered."""
    write_configs(tmp_path, configs("sdxl"))
    monkeypatch.setattr("erase_core.memory.SMALL", 0)
    spec = load_spec(ROOT / "specs" / f"{name}.yaml")
    assert max(f(spec, tmp_path, 0).peak.total for f in (training_forecast, images_forecast)) < SDXL[name] * 2**30
