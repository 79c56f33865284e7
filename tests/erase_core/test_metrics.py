"""Metrics on images and numbers whose right answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import CLIPModel

from erase_core.emoji_world.labels import labels_of
from erase_core.generation.images import generate
from erase_core.generation.plan import Wanted, roles
from erase_core.metrics.clip_features import ClipFeatures, clip_distance, clip_score
from erase_core.metrics.erasure import sees
from erase_core.metrics.intervals import clustered_share, mean_interval, share_interval
from erase_core.metrics.judge import Judge
from erase_core.metrics.labels import matching_labels
from erase_core.metrics.per_image import judge_images
from erase_core.metrics.scorers import Scorers, scorers_of
from erase_core.metrics.scores import headline, score
from erase_core.models.source import WEIGHTS
from erase_core.preflight import check
from erase_core.spec import Generation, make_spec
from erase_core.spec_texts import ALL


def test_distances_and_scores_by_hand() -> None:
    right, up = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    between = np.array([0.6, 0.8])
    first, second = np.stack([right] * 4), np.stack([right, up, between, -right])
    assert clip_distance(first, second) == pytest.approx([0, 1, 0.4, 2])
    assert clip_score(first, second) == pytest.approx([100, 0, 60, 0])


def test_pixel_distance_by_hand(images_file) -> None:
    """Black against a fifth of white is 0.2 apart; both images of a concept stand for themselves."""
    wanted = [("a bus", "bus", 0), ("a car", "car", 0)]
    files = [images_file(name, wanted, values) for name, values in (("before", [0, 255]), ("after", [51, 255]))]
    frame = judge_images(*files, {"bus": "erased", "car": "preserved"}, Scorers())
    assert list(frame["pixel_distance"]) == pytest.approx([0.2, 0])


def test_what_a_judge_sees_by_hand() -> None:
    top = [["taxi", "bus", "car", "van", "cab"], ["bus", "taxi", "a", "b", "c"], ["a", "b", "c", "d", "e"]]
    wanted = [{"taxi"}] * 3
    assert sees(top, wanted, 1).tolist() == [True, False, False]
    assert sees(top, wanted, 5).tolist() == [True, True, False]


def test_intervals_of_shares_have_a_width() -> None:
    """Of what is erased Wilson's over the images; of what is preserved, in all, with what they are worth as clusters."""
    both = pd.DataFrame({"concept": ["taxi"] * 4 + ["cab"] * 4, "pixel_distance": 0.5})
    frames = [both.assign(role="erased", sees_1_erased=0.0), both.assign(role="preserved", sees_1_erased=1.0)]
    table = score(pd.concat(frames), ["erasure", "image_distance"], 100, 0).set_index(["metric", "concept", "role"])
    found = table[["value", "low", "high"]]
    assert found.loc[("esr_1", "taxi", "erased")].tolist() == pytest.approx(share_interval(4, 4))
    assert found.loc[("esr_1", ALL, "erased")].tolist() == pytest.approx(share_interval(8, 8))
    assert found.loc[("psr_1", "taxi", "preserved")].tolist() == pytest.approx(share_interval(4, 4))
    assert found.loc[("psr_1", ALL, "preserved")].tolist() == pytest.approx(share_interval(2, 2))
    assert found.loc[("pixel_distance", ALL, "erased")].tolist() == [0.5, 0.5, 0.5]


def test_a_better_model_has_no_lower_interval() -> None:
    """One image more that is right never lowers an end."""
    for of in (
        lambda v, clusters: share_interval(int(v.sum()), len(v)),
        clustered_share,
    ):
        clusters, right = np.repeat(np.arange(5), 4), np.ones(20)
        ends = []
        for missed in range(4):
            right[:missed] = 0
            ends.append(of(right, clusters)[1:])
        assert ends == sorted(ends, reverse=True)


@pytest.mark.parametrize("count", [2, 5, 10, 60])
def test_interval_of_clusters_covers_the_truth(count: int) -> None:
    """Of clusters of four whose shares differ, with a mean of 0.7 and a correlation of 0.3 within."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        share = rng.beta(0.7 * 7 / 3, 0.3 * 7 / 3, count)
        values = (rng.random((count, 4)) < share[:, None]).astype(float).ravel()
        _, low, high = clustered_share(values, np.repeat(np.arange(count), 4))
        held += low <= 0.7 <= high
    assert held / 400 >= 0.92


def test_what_clusters_are_worth_by_hand() -> None:
    """Two that are as unlike as can be are two trials; of values that lie apart by chance, nearly all of many clusters."""
    assert clustered_share(np.array([1.0, 1, 0, 0]), np.array([0, 0, 1, 1])) == pytest.approx(share_interval(1, 2))
    values = np.tile([1.0, 0.0], 200)
    _, low, high = clustered_share(values, np.repeat(np.arange(200), 2))
    assert (low, high) == pytest.approx(share_interval(200, 400)[1:], abs=2e-3)


def test_one_value_has_no_interval() -> None:
    value, low, high = mean_interval(np.array([0.3]))
    assert value == 0.3 and np.isnan([low, high]).all()
    frame = pd.DataFrame({"role": "general", "concept": ["x"], "pixel_distance": [0.3]})
    assert headline(score(frame, ["image_distance"], 100, 0)) == {"pixel_distance_general": 0.3}


def test_interval_covers_the_truth() -> None:
    """95 % intervals of a mean of 60 values hold the true mean about 95 % of the time."""
    rng = np.random.default_rng(0)
    held = 0
    for i in range(300):
        mean, low, high = mean_interval(rng.exponential(size=60), resamples=400, seed=i)
        assert low <= mean <= high
        held += low <= 1.0 <= high
    assert 0.89 < held / 300 < 0.98


def test_an_interval_does_not_depend_on_how_many_resamples_are_held(monkeypatch) -> None:
    values, clusters = np.random.default_rng(3).exponential(size=90), np.repeat(np.arange(30), 3)
    whole = mean_interval(values), mean_interval(values, clusters)
    monkeypatch.setattr("erase_core.metrics.intervals.DRAWN_TOGETHER", 7 * 90 + 1)
    assert (mean_interval(values), mean_interval(values, clusters)) == whole


def test_interval_by_cluster_is_wider_when_clusters_agree() -> None:
    values, clusters = np.repeat([0.0, 1.0, 1.0, 0.0, 1.0], 20), np.repeat(np.arange(5), 20)
    _, low, high = mean_interval(values, clusters)
    _, narrow_low, narrow_high = mean_interval(values)
    assert high - low > 2 * (narrow_high - narrow_low)


def test_matching_labels() -> None:
    assert matching_labels(["cab, hack, taxi, taxicab", "bus"], ["Taxi"]) == {"cab, hack, taxi, taxicab"}
    assert matching_labels(["taxi rank"], ["taxi"]) == set()


def test_words_and_their_classes() -> None:
    assert labels_of("Taxi") == {"taxi"}
    assert {"bomb", "sword", "knife", "gun"} <= labels_of("weapon")
    assert {"fox", "wolf"} == labels_of("canine")
    assert labels_of("happiness") == set()


@pytest.mark.parametrize(("concepts", "word", "expected"), [
    (["weapon"], "sword", labels_of("weapon")),
    (["weapon"], "bus", {"bus"}),
    ([{"concept": "taxi", "synonyms": ["cab"]}, "cat"], "taxi", {"taxi"}),
    (["Taxi"], "taxi", {"taxi"}),
])  # fmt: skip
def test_what_counts_as_an_erased_concept(concepts: list, word: str, expected: set[str]) -> None:
    """A member of a group is gone when nothing of the group is seen."""
    spec = make_spec({"name": "x", "output": "o", "concepts": concepts, "scoring": {"metrics": ["erasure"]}})
    assert scorers_of(spec).labels_of(word) == expected


def test_a_judge_of_one_s_own_knows_a_member_by_its_group() -> None:
    given = {"name": "x", "output": "o", "concepts": [{"concept": "weapon", "synonyms": ["rifle"]}]}
    spec = make_spec({**given, "scoring": {"metrics": ["erasure"], "judge": "efficientnet-lite0", "preserved": []}})
    check(spec)
    scorers = scorers_of(spec)
    assert all(scorers.labels_of(word) for word, role in roles(spec, []).items() if role == "erased")


def test_clip_features_against_transformers(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    texts = ["a taxi", "a bus", "a taxi"]
    features = ClipFeatures(WEIGHTS / "clip")
    model = CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32).eval()
    tokens = features.tokenizer(texts, padding="max_length", max_length=32, return_tensors="pt")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        logits = model(input_ids=tokens.input_ids, pixel_values=pixels).logits_per_image / model.logit_scale.exp()
    cosines = logits.diag().numpy()
    expected = 100 * np.maximum(cosines, 0)
    assert np.allclose(clip_score(features.images(images), features.texts(texts)), expected, atol=1e-3)
    assert np.allclose(clip_distance(features.images(images), features.images(images)), 0, atol=1e-5)


@pytest.fixture(scope="module")
def judged(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    wanted = [Wanted(f"a {word}", word, seed) for word in ("taxi", "bus", "rose") for seed in (0, 1)]
    settings = Generation(steps=8)
    generate(world, wanted, settings, "a", folder / "before.parquet")
    nothing = [Wanted(w.prompt, w.concept, w.seed) for w in wanted]
    generate(world, nothing, settings.model_copy(update={"guidance_scale": 0.0}), "b", folder / "after.parquet")
    judge = Judge(WEIGHTS / "concept_judge")
    scorers = Scorers(lambda concept: judge, labels_of, ClipFeatures(WEIGHTS / "clip"))
    roles = {"taxi": "erased", "bus": "preserved", "rose": "preserved"}
    return judge_images(folder / "before.parquet", folder / "after.parquet", roles, scorers)


def test_scores_by_hand(judged) -> None:
    scores = score(judged, ["erasure", "clip_score", "image_distance"], resamples=200, seed=0)
    figures = headline(scores)
    erased, kept = judged[judged["role"] == "erased"], judged[judged["role"] == "preserved"]
    assert figures["esr_1"] == pytest.approx(1 - erased["sees_1_erased"].mean())
    assert figures["psr_5_original"] == pytest.approx(kept["sees_5_original"].mean())
    assert figures["clip_score_preserved"] == pytest.approx(kept["clip_score_erased"].mean())
    rose = scores[(scores["concept"] == "rose") & (scores["metric"] == "psr_1")].iloc[0]
    assert rose["n"] == 2 and rose["value"] == judged[judged["concept"] == "rose"]["sees_1_erased"].mean()
    assert list(scores.columns) == ["metric", "concept", "role", "value", "low", "high", "n"]


def test_styles_have_their_own_judge_and_no_top_5(world, tmp_path: Path) -> None:
    wanted = [Wanted("a taxi", "taxi", 0), Wanted("a taxi in noto style", "noto", 0)]
    generate(world, wanted, Generation(steps=4), "m", tmp_path / "a.parquet")
    judges = {"taxi": Judge(WEIGHTS / "concept_judge"), "noto": Judge(WEIGHTS / "style_judge")}
    found = judge_images(
        tmp_path / "a.parquet",
        tmp_path / "a.parquet",
        {"taxi": "preserved", "noto": "erased"},
        Scorers(judges.__getitem__, lambda concept: {concept}, None),
    )
    assert found["label_erased"][1] in judges["noto"].labels and found["label_erased"][0] in judges["taxi"].labels
    figures = headline(score(found, ["erasure"], resamples=100, seed=0))
    assert "esr_1" in figures and "psr_5" in figures and "esr_5" not in figures


def test_files_of_other_images_are_refused(world, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        generate(world, [Wanted("a taxi", "taxi", seed)], Generation(steps=1), "m", tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="same prompts and seeds"):
        judge_images(tmp_path / "a.parquet", tmp_path / "b.parquet", {"taxi": "erased"}, Scorers(None, labels_of, None))
