"""Studies: the runs they ask for, and what they find in results whose answer is known."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from erase_core import methods, studies
from erase_core.artifacts import folder_of
from erase_core.concepts.embeddings import write_embeddings
from erase_core.emoji_world.catalogue import concepts
from erase_core.files import read_json, write_json
from erase_core.metrics.scores import write_scores
from erase_core.models.conditions import latent_shape
from erase_core.models.delta import save_delta
from erase_core.models.pipeline import twin
from erase_core.models.prompts import encode
from erase_core.models.trainable import trainable_names
from erase_core.preflight import check
from erase_core.randomness import generator
from erase_core.spec import Spec
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import parse_spec
from erase_core.studies import (
    preserve_what,
    search_collapse,
    sensitivity,
    spectrum,
    target_collapse,
    text_similarity,
    trade_off,
    variants,
    vocabulary,
)
from erase_core.studies.variants import comparable, everyday, variant
from erase_core.training.latents import Sampler
from erase_core.training.predictions import noise_predictor

README = Path(__file__).parents[2] / "README.md"


def base(folder: Path, extra: str = "") -> Spec:
    return parse_spec(f"name: study\nconcepts: [taxi]\noutput: {folder}\n{extra}")


def result(folder: Path, drops: dict[str, float], figures: dict[str, float] | None = None) -> Path:
    """A run's folder in which each preserved concept lost so much CLIP score."""
    rows = []
    for concept, drop in drops.items():
        for metric, value in (
            ("clip_score_original", 50.0),
            ("clip_score", 50.0 - drop),
            ("clip_distance", drop / 100),
        ):
            rows.append((metric, concept, "preserved", value, value, value, 2))
    folder.mkdir(parents=True)
    columns = ["metric", "concept", "role", "value", "low", "high", "n"]
    write_scores(folder / "scores.parquet", pd.DataFrame(rows, columns=columns))
    write_json(folder / "summary.json", {"metrics": figures or {}})
    return folder


@pytest.mark.parametrize("name", studies.NAMES)
def test_every_run_of_a_study_can_be_run(name: str, tmp_path: Path) -> None:
    wanted = studies.load(name).runs(base(tmp_path, "training: {steps: 7}"))
    assert len({spec.output for spec in wanted.values()}) == len(wanted) >= 1
    for spec in wanted.values():
        check(spec)
        assert spec.training.steps == 7 and Path(spec.output).is_relative_to(tmp_path / "runs")


def test_a_variant_of_another_method_leaves_the_base_s_own_defaults(tmp_path: Path) -> None:
    """What the spec says itself it keeps."""
    for method in ("adversarial", "age"):
        found = variant(base(tmp_path, f"method: {method}\ntraining: {{batch_size: 8}}"), "plain", method="naive")
        assert found.training == variant(base(tmp_path, "training: {batch_size: 8}"), "plain", method="naive").training
        assert (found.training.steps, found.training.learning_rate, found.training.batch_size) == (100, 1e-3, 8)
    found = variant(base(tmp_path, "method: age\ntraining: {learning_rate: 2e-3}"), "plain", method="naive")
    assert found.training.learning_rate == 2e-3


def test_a_variant_keeps_the_base_and_takes_the_method_s_own_defaults(tmp_path: Path) -> None:
    spec = base(tmp_path, "seed: 9\nmethod: {name: adversarial, temperature: 1.0}\ntraining: {steps: 11}")
    changed = variant(spec, "closed form", method="uce", generation={"seeds": [5]})
    assert (changed.seed, changed.training.steps, changed.generation.seeds) == (9, 11, [5])
    assert changed.training.trainable == "xattn-strict" and changed.method.settings.regularisation == 0.1


def test_a_variant_s_name_may_be_a_word_in_other_letters(tmp_path: Path) -> None:
    found = [variant(base(tmp_path), label, method="naive") for label in ("Dalí", "Dalı", "猫", "犬", "K = 20, all")]
    assert len({spec.output for spec in found}) == 5
    assert found[0].name.startswith("study - Dal ") and found[-1].name == "study - K 20 all"


@pytest.mark.parametrize("name", ["sensitivity", "text-similarity"])
def test_a_study_of_what_is_preserved_needs_some(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="^scoring.preserved: has 0, and this study is of [13] or more; name others"):
        studies.runs(name, base(tmp_path, "scoring: {preserved: []}"))


@pytest.mark.parametrize("name", studies.NAMES)
def test_a_base_may_say_more(name: str, tmp_path: Path) -> None:
    """Hidden concepts, prompts from a file, and a preserved word that a study would have erased."""
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(
        "case_number,prompt,evaluation_seed,class\n0,a taxi,1,taxi\n1,a sword,2,sword\n2,an apple,3,apple\n"
    )
    for extra in (
        "report: {unsafe: [taxi]}",
        f"generation: {{prompt_files: [{prompts}]}}",
        "scoring: {preserved: [sword, apple, car, house]}",
    ):
        for spec in studies.load(name).runs(base(tmp_path, extra)).values():
            check(spec)
            hidden = ["taxi"] if extra.startswith("report") and "taxi" in spec.erased_names else None
            assert spec.report.unsafe == hidden


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("trade-off", "vocabulary") else []) for name in studies.NAMES
])  # fmt: skip
def test_a_base_may_be_a_whole_spec(name: str, tmp_path: Path) -> None:
    """One with attacks and with weights to train by several ranks, and the README's long one."""
    training = "{trainable: xattn, processes: 2, steps: 7}"
    (long,) = [
        text for text in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.S) if "trainable: xattn" in text
    ]
    for given in (
        base(tmp_path, f"attacks: {{}}\ntraining: {training}"),
        parse_spec(f"{long}\nattacks: {{run: [seeds]}}"),
    ):
        wanted = studies.runs(name, given)
        for spec in wanted.values():
            check(spec)
            assert spec.attacks is None and spec.training.steps == given.training.steps
            solved = methods.solves(methods.load(spec.method.name))
            assert spec.training.trainable == ("xattn-strict" if solved else "xattn")
            assert spec.training.processes == (1 if solved else given.training.processes)


def test_a_benchmark_s_runs_are_attacked(tmp_path: Path) -> None:
    """It is made of variants too, and reads what the attacks find."""
    found = variant(base(tmp_path, "attacks: {run: [seeds]}\ntraining: {processes: 2}"), "plain", method="uce")
    assert [attack.name for attack in found.attacks.run] == ["seeds"] and found.training.processes == 1


def test_an_everyday_word_is_always_found() -> None:
    assert everyday(["car"]) == "apple"
    assert everyday(["car", "apple", "house"]) not in ("car", "apple", "house", "the", "of")


def test_the_related_word_is_the_first_target_s(tmp_path: Path) -> None:
    spec = parse_spec(f"name: study\nconcepts: [apple, taxi]\noutput: {tmp_path}")
    (word,) = preserve_what.runs(spec)["related word"].method.settings.words
    group = {c.word: c.group for c in concepts()}
    assert group[word] == group["apple"]


def test_images_of_one_concept_are_no_pair(images_file, tmp_path: Path) -> None:
    """Of two prompts for the taxi and one for the bus: only taxi and bus are different concepts."""
    wanted = [("a taxi", "taxi", 0), ("a photo of a taxi", "taxi", 0), ("a bus", "bus", 0), ("a bus", "bus", 1)]
    path = images_file("drawn", wanted, [0, 255, 51, 0])
    assert target_collapse.between(path, {"taxi", "bus"}) == pytest.approx([0.2, 0.8])


def test_only_what_is_gone_has_collapsed(images_file, tmp_path: Path) -> None:
    """Of the erased images one still shows its taxi, and is in no pair."""
    drawn = [("a taxi", "taxi", 0), ("a bus", "bus", 0), ("a taxi", "taxi", 1), ("a bus", "bus", 1)]
    pictures = {"original": [0, 255, 0, 51], "erased": [100, 151, 0, 255]}
    keys = {"original": "collapse-original", "erased": "collapse-erased", "scores": "collapse-scores"}
    for which, values in pictures.items():
        place = folder_of("images", keys[which])
        place.mkdir(parents=True, exist_ok=True)
        images_file(which, drawn, values).rename(place / "images.parquet")
    verdicts = pd.DataFrame(
        {
            "prompt": ["a taxi", "a bus", "a taxi", "a bus"],
            "seed": [0, 0, 1, 1],
            "role": "erased",
            "sees_1_erased": [0.0, 0.0, 1.0, 0.0],
        }
    )
    place = folder_of("scores", keys["scores"])
    place.mkdir(parents=True, exist_ok=True)
    verdicts.to_parquet(place / "verdicts.parquet")
    figures = {"esr_1": 0.75, "esr_1_original": 0.0}
    written = {"metrics": figures, "keys": keys, "roles": {"taxi": "erased", "bus": "erased", "rose": "preserved"}}
    write_json(tmp_path / "summary.json", written)
    found = target_collapse.find({"neutral target": tmp_path})
    assert list(found.table["distance"]) == pytest.approx([(1 + 0.2) / 2, 0.2]) and list(found.table["pairs"]) == [2, 1]
    assert list(found.table["esr_1"]) == [0.0, 0.75] and drawn_both_ways(found)


def drawn_both_ways(found) -> bool:
    return found.chart.png.startswith(b"\x89PNG") and "Plotly.newPlot" in found.chart.html


def test_vocabulary_says_what_each_costs(tmp_path: Path) -> None:
    outputs = {}
    for label, psr in (("emoji-world 20", 0.9), ("emoji-world 50", 0.95), ("clip-tokens 20", 0.8)):
        outputs[label] = result(tmp_path / label, {"bus": 0}, {"esr_1": 1.0, "psr_1": psr, "psr_5": 1.0})
        spent = {"vocabulary": 1.0, "embeddings": 2.0, "nearest": 3.0, "training": 100.0}
        known = read_json(outputs[label] / "summary.json")
        write_json(outputs[label] / "summary.json", {**known, "seconds": spent, "step_seconds": 10.0})
    found = vocabulary.find(outputs)
    assert found.table[["source", "words", "seconds"]].values.tolist() == [
        ["emoji-world", 20, 16.0], ["emoji-world", 50, 16.0], ["clip-tokens", 20, 16.0],
    ]  # fmt: skip
    assert found.said == "Best PSR-1 0.950 with 50 words of emoji-world." and drawn_both_ways(found)


def test_text_similarity_compares_its_orders(tiny_pipeline, tiny_folder, tmp_path: Path) -> None:
    """The drop falls with the place in the table; how each order goes with it is read off the real similarities and losses."""
    words = ["bus", "car", "rose", "apple", "dog", "ship"]
    spec = parse_spec(
        f"name: s\nmodel: {tiny_folder}\nconcepts: [taxi]\noutput: o\nmethod: naive\n"
        "training: {latent_steps: 2, trajectories: 1}"
    )
    keys = {"embeddings": "similarity-embeddings", "training": "similarity-training"}
    for stage, key in keys.items():
        folder_of(stage, key).mkdir(parents=True, exist_ok=True)
    write_embeddings(folder_of("embeddings", keys["embeddings"]) / "embeddings.arrow", tiny_pipeline, words, {})
    names = trainable_names(tiny_pipeline.unet, "xattn")
    moved = {n: 1.5 * value for n, value in tiny_pipeline.unet.state_dict().items() if n in names}
    save_delta(folder_of("training", keys["training"]) / "delta.safetensors", tiny_pipeline.unet, moved, {})
    out = result(tmp_path / "naive", {word: 10.0 - i for i, word in enumerate(words)})
    write_json(out / "summary.json", {"metrics": {}, "keys": keys, "spec": spec.model_dump(mode="json")})
    found = text_similarity.find({"naive": out})
    table = found.table
    assert sorted(table["concept"]) == sorted(words) and drawn_both_ways(found)
    assert np.allclose(table["share"], table["preservation_loss"] / table["signal"])
    for column in text_similarity.ORDERS:
        wanted = np.corrcoef(table[column].rank(), table["drop"].rank())[0, 1]
        assert found.figures[f"{column}/rank_correlation"] == pytest.approx(wanted)
    apart = found.figures["preservation_loss/rank_correlation"] - found.figures["similarity/rank_correlation"]
    assert found.figures["l2_over_similarity"] == pytest.approx(apart)


def test_methods_that_need_more_are_not_compared(monkeypatch) -> None:
    needed = {"fixed": {"words"}, "esd": {"something"}}
    monkeypatch.setattr(variants, "needs", lambda name: needed.get(name, set()))
    assert "fixed" in comparable() and "esd" not in comparable()


def test_sensitivity_ranks_what_is_hurt(tmp_path: Path) -> None:
    outputs = {
        "taxi": result(tmp_path / "taxi", {"bus": 20, "car": 30, "rose": 1, "apple": 2}),
        "sword": result(tmp_path / "sword", {"bus": 1, "car": 0, "rose": 9, "apple": 5}),
    }
    found = sensitivity.find(outputs)
    taxi = found.table[found.table["target"] == "taxi"]
    assert list(taxi["concept"]) == ["car", "bus", "apple", "rose"] and list(taxi["drop"]) == [30, 20, 2, 1]
    assert found.figures["rank_agreement"] == pytest.approx(-1.0)
    assert found.chart.png.startswith(b"\x89PNG") and "Plotly.newPlot" in found.chart.html


def test_spectrum_places_the_neutral_concepts(tmp_path: Path) -> None:
    drops = {"bus": 90, "car": 80, "a photo": 50, "rose": 2, "apple": 1}
    found = spectrum.find({"naive": result(tmp_path / "naive", drops)})
    assert list(found.table["concept"]) == ["bus", "car", "a photo", "rose", "apple"]
    assert found.figures == {"percentile/a photo": pytest.approx(60.0)}


def test_preserve_what_compares_the_choices(tmp_path: Path) -> None:
    """Which differ in nothing else."""
    settings = [spec.method.settings for spec in preserve_what.runs(base(tmp_path)).values()]
    assert {s.preservation_weight for s in settings if hasattr(s, "preservation_weight")} == {preserve_what.WEIGHT}
    assert {s.neutral_share for s in settings if hasattr(s, "neutral_share")} == {0.0}
    assert len({s.negative_guidance for s in settings}) == 1
    outputs = {}
    for i, label in enumerate(preserve_what.runs(base(tmp_path))):
        figures = {n: i / 10 for n in ("psr_1", "psr_1_low", "psr_1_high", "psr_5", "esr_1", "esr_5", "psr_1_original")}
        outputs[label] = result(tmp_path / label, {"bus": 0}, figures)
    found = preserve_what.find(outputs)
    assert list(found.table["preserved"]) == list(outputs) and list(found.table["psr_1"]) == [i / 10 for i in range(7)]
    assert "Preserving adversarial keeps most" in found.said


def test_preservation_losses_are_those_of_the_edited_model(tiny_pipeline, tmp_path: Path) -> None:
    """None where no weight has changed; else what plain calls of both models give at a training's own latents."""
    spec = base(tmp_path, "method: naive\ntraining: {latent_steps: 3, trajectories: 2}")
    names = trainable_names(tiny_pipeline.unet, "xattn")
    weights = {name: value for name, value in tiny_pipeline.unet.state_dict().items() if name in names}
    save_delta(tmp_path / "same.safetensors", tiny_pipeline.unet, weights, {})
    words = ["bus", "rose"]
    same = text_similarity.preservation_losses(spec, tiny_pipeline, tmp_path / "same.safetensors", words)
    assert same["preservation_loss"].max() < 1e-10 and same["signal"].min() > 0

    moved = {name: 1.5 * value for name, value in weights.items()}
    save_delta(tmp_path / "moved.safetensors", tiny_pipeline.unet, moved, {})
    found = text_similarity.preservation_losses(spec, tiny_pipeline, tmp_path / "moved.safetensors", words)
    edited = twin(tiny_pipeline.unet, names)
    edited.load_state_dict(moved, strict=False)
    scheduler, unconditional = tiny_pipeline.scheduler, encode(tiny_pipeline, [""])[0]
    frozen, now = noise_predictor(tiny_pipeline.unet, scheduler), noise_predictor(edited, scheduler)
    sampler = Sampler(scheduler, latent_shape(tiny_pipeline.unet), unconditional, unconditional, 3, 3.0)
    for word, (loss, signal) in zip(words, found.itertuples(index=False)):
        under, squared, added = encode(tiny_pipeline, [word]).expand(2, -1, -1), [], []
        noise = torch.randn(2, *sampler.shape, generator=generator(0, "trajectory", word, 0))
        with torch.no_grad():
            for z, t, known, _ in sampler.run(frozen, under, noise):
                if known is not None:
                    squared.append(float((now(z, t.expand(2), under) - known).square().mean()))
                    neutral = frozen(z, t.expand(2), unconditional.expand_as(under))
                    added.append(float((known - neutral).square().mean()))
        assert len(squared) == 3 and loss == pytest.approx(np.mean(squared), rel=1e-4) and loss > 1e-6
        assert signal == pytest.approx(np.mean(added), rel=1e-4)


def test_rank_correlation_and_its_interval() -> None:
    x = np.arange(40.0)
    assert text_similarity.rank_correlation(x, x**3, 0) == pytest.approx((1.0, 1.0, 1.0))
    value, low, high = text_similarity.rank_correlation(x, np.random.default_rng(0).permutation(x), 0)
    assert low < value < high and low < 0 < high


def test_pareto_front() -> None:
    table = pd.DataFrame({"esr_1": [1.0, 0.9, 0.8, 0.7], "psr_1": [0.5, 0.8, 0.7, 0.9]})
    assert list(trade_off.pareto(table)) == [True, True, False, True]


def test_trade_off_marks_its_front(tmp_path: Path) -> None:
    outputs = {}
    for label, esr, psr in (("naive 1", 1.0, 0.5), ("naive 2", 0.9, 0.4), ("uce 1", 0.5, 0.9)):
        figures = {"esr_1": esr, "psr_1": psr, "esr_5": esr, "psr_5": psr}
        outputs[label] = result(tmp_path / label, {"bus": 0}, figures)
    found = trade_off.find(outputs)
    assert list(found.table["front"]) == [True, False, True] and found.table["strength"].tolist() == [1, 2, 1]
    assert '"name":"Pareto front"' in found.chart.html
    assert found.said == "On the Pareto front: naive, uce." and drawn_both_ways(found)


@pytest.mark.parametrize("study", [preserve_what, trade_off, vocabulary])
def test_what_a_study_reads_is_scored(study, tmp_path: Path) -> None:
    """Also of a base with other metrics; and a judge with too few classes for the second rate, as of styles, says no more."""
    wanted = study.runs(base(tmp_path, "scoring: {metrics: [clip_score]}"))
    assert all(spec.metrics == ["clip_score", "erasure"] for spec in wanted.values())
    assert all(spec.metrics == base(tmp_path).metrics for spec in study.runs(base(tmp_path)).values())
    figures = {f"psr_1{end}": 0.5 for end in ("", "_low", "_high", "_original")} | {"psr_5": 0.5, "esr_1": 0.9}
    outputs = {label: result(tmp_path / label.replace(" ", "-"), {"bus": 0}, figures) for label in list(wanted)[:3]}
    for path in outputs.values():
        spent = dict.fromkeys(("vocabulary", "embeddings", "nearest"), 1.0)
        write_json(path / "summary.json", {"metrics": figures, "seconds": spent, "step_seconds": 1.0})
    table = study.find(outputs).table
    assert list(table["psr_1"]) == [0.5] * 3
    assert "esr_5" not in table or table["esr_5"].isna().all()


def test_trade_off_sweeps_every_method(tmp_path: Path) -> None:
    wanted = trade_off.runs(base(tmp_path))
    assert {spec.method.name for spec in wanted.values()} == set(methods.MODULES)
    assert len(wanted) == len(methods.MODULES) * len(trade_off.STRENGTHS)


@pytest.mark.parametrize("name", studies.NAMES)
def test_studies_take_other_targets(name: str, tmp_path: Path) -> None:
    """A target with a synonym beside one that is no concept of the catalogue's spelling, a gate, and metrics of one's own."""
    extra = "gate: {min_esr_1: 0.9}\nscoring: {metrics: [erasure], preserved: [dog, rose, cat]}\nvocabulary: {top_k: 5}"
    given = f"name: study\nconcepts: [{{concept: car, synonyms: [automobile]}}, apple]\noutput: {tmp_path}\n{extra}"
    for spec in studies.load(name).runs(parse_spec(given)).values():
        check(spec)
        assert "automobile" in spec.erased_names or "apple" in spec.erased_names
        assert not set(getattr(spec.method.settings, "words", None) or []) & {"car", "automobile", "apple"}
    targets = [spec.erased_names for spec in studies.load(name).runs(parse_spec(given)).values()]
    assert any("automobile" in names for names in targets)


def test_a_study_that_reads_all_words_encodes_them_whole(tmp_path: Path) -> None:
    for similarity, wanted in (("pooled", "cosine"), ("l2", "l2")):
        given = base(tmp_path, f"vocabulary: {{similarity: {similarity}}}")
        assert {spec.vocabulary.similarity for spec in search_collapse.runs(given).values()} == {wanted}


def test_names_of_runs_are_names(tmp_path: Path) -> None:
    changed = variant(base(tmp_path), "Ajin: Demi Human's style", seed=1)
    assert changed.name == "study - Ajin Demi Human s style" and changed.output.endswith("Ajin-Demi-Human-s-style")
