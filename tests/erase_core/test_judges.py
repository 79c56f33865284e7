"""Judges on images whose right answer is known."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from transformers import (
    AutoImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    LevitImageProcessor,
    MobileViTImageProcessor,
    PoolFormerImageProcessor,
    ViTImageProcessor,
)

from erase_core.files import write_json
from erase_core.generation.sampler import sample
from erase_core.metrics.clip_features import ClipFeatures
from erase_core.metrics.imagenet import ImagenetJudge, class_names
from erase_core.metrics.judge import preprocessing, to_pixels
from erase_core.metrics.per_image import judge_images
from erase_core.metrics.scorers import Scorers, scorers_of
from erase_core.metrics.scores import headline, score
from erase_core.metrics.zero_shot import ZeroShotJudge
from erase_core.models.source import WEIGHTS
from erase_core.preflight import check
from erase_core.spec import Generation, make_spec
from erase_core.spec_errors import SpecError
from erase_core.spec_yaml import parse_spec


def square(picture: np.ndarray) -> np.ndarray:
    short, (height, width) = min(picture.shape[:2]), picture.shape[:2]
    top, left = (height - short) // 2, (width - short) // 2
    return np.asarray(Image.fromarray(picture[top : top + short, left : left + short]).resize((512, 512)))


def test_imagenet_on_photographs() -> None:
    """A palace in Beijing, a flower, and Grace Hopper in the uniform of a rear admiral."""
    portrait = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    pictures = [load_sample_image("china.jpg"), load_sample_image("flower.jpg"), np.asarray(portrait)]
    top, scores = ImagenetJudge().classify(np.stack([square(picture) for picture in pictures]))
    assert [row[0] for row in top] == ["palace", "daisy", "military uniform"]
    assert scores.shape == (3, 5) and (np.diff(scores) <= 0).all()


def test_imagenet_names() -> None:
    names = class_names()
    assert len(names) == 1000 and names[0].startswith("tench") and names[482] == "cassette player"
    assert names[569] == "garbage truck, dustcart" and names[571].startswith("gas pump")


def test_clip_as_a_judge_without_training(world) -> None:
    """The included model's pictures are named by the included CLIP."""
    words = ["taxi", "rose", "pizza", "house"]
    judge = ZeroShotJudge(ClipFeatures(WEIGHTS / "clip"), [*words, "cat", "sword"], "a {concept}")
    prompts = [f"a {word}" for word in words]
    images = np.concatenate(list(sample(world, prompts, [0] * len(words), Generation(steps=8))))
    top, scores = judge.classify(images)
    assert [row[0] for row in top] == words
    assert np.allclose(scores.sum(1), 1, atol=0.05)
    texts = judge.clip.texts([f"a {label}" for label in judge.labels])
    logits = judge.clip.model.logit_scale.exp().item() * judge.clip.images(images[1:2]) @ texts.T
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert scores[1, 0] == pytest.approx(expected.max(), abs=1e-4)


SPEC = "name: x\nconcepts: [{concept}]\nmodel: {model}\noutput: {out}\nscoring: {{judge: {judge}, metrics: [erasure]{extra}}}"


def test_a_clip_folder_judges_among_the_concepts(tmp_path: Path) -> None:
    text = SPEC.format(
        concept="taxi",
        model="emoji-world",
        out=tmp_path / "o",
        judge=WEIGHTS / "clip",
        extra=", description: 'a {concept}'",
    )
    scorers = scorers_of(parse_spec(text), ["taxi", "rose", "house"])
    judge = scorers.judge_of("rose")
    assert judge.labels == ["taxi", "rose", "house"] and scorers.labels_of("rose") == {"rose"}
    assert scorers.describe("rose") == "a rose"


@pytest.mark.parametrize(
    "extra", [", preserved: []", ", judge_classes: [taxi, taxi]"], ids=["no preserved concept", "one class twice"]
)
def test_a_clip_that_has_nothing_to_choose(extra: str, tiny_folder: Path, tmp_path: Path) -> None:
    given = {"concept": "taxi", "model": tiny_folder, "judge": WEIGHTS / "clip", "out": tmp_path / "o"}
    spec = parse_spec(SPEC.format(extra=extra, **given))
    with pytest.raises(
        SpecError, match=r"scoring.judge_classes: the judge .*clip is a CLIP and has 'taxi' alone to choose"
    ):
        check(spec)
    # An attack's judge chooses among everyday things then.
    check(spec, scored=False)


@pytest.mark.parametrize("judge", ["efficientnet-lite0", str(WEIGHTS / "concept_judge"), None])
def test_classes_to_choose_from_are_for_a_clip(judge: str | None, tiny_folder: Path, tmp_path: Path) -> None:
    given = {"judge": judge, "judge_classes": ["church", "taxi"], "preserved": ["church"]}
    spec = make_spec({"name": "x", "concepts": ["taxi"], "output": str(tmp_path / "o"), "scoring": given})
    told = "the model's own judges have" if judge is None else f"the judge {judge} has"
    with pytest.raises(SpecError, match=f"^scoring.judge_classes: {told} classes of their own; leave it out"):
        check(spec)


@pytest.mark.parametrize("extra", ["", ", preserved: [bus]", ", preserved: [], judge_classes: [taxi, bus]"])
def test_a_clip_that_has_something_to_choose(extra: str, tiny_folder: Path, tmp_path: Path) -> None:
    given = {"concept": "taxi", "model": tiny_folder, "judge": WEIGHTS / "clip", "out": tmp_path / "o"}
    check(parse_spec(SPEC.format(extra=extra, **given)))


@pytest.mark.parametrize(
    ("concept", "judge"), [("zeppelin of cheese", "efficientnet-lite0"), ("church", str(WEIGHTS / "style_judge"))]
)
def test_a_judge_that_does_not_know_the_concept(concept: str, judge: str, tiny_folder: Path, tmp_path: Path) -> None:
    spec = parse_spec(SPEC.format(concept=concept, model=tiny_folder, out=tmp_path / "o", judge=judge, extra=""))
    with pytest.raises(SpecError, match="concepts.0.concept: the judge .* has no class"):
        check(spec)


def test_preserved_concepts_that_the_judge_does_not_know_are_not_judged(images_file) -> None:
    wanted = [("a", "taxi", 0), ("b", "bus", 0), ("c", "sadness", 0)]
    files = [images_file(name, wanted, (0, 100, 200)) for name in ("before", "after")]

    class Blind:
        labels = ["taxi", "bus", "car"]

        def classify(self, images: np.ndarray) -> tuple[list[list[str]], np.ndarray]:
            return [["bus", "car", "taxi"]] * len(images), np.full((len(images), 3), 1 / 3)

    roles = {"taxi": "erased", "bus": "preserved", "sadness": "preserved"}
    judge = Blind()
    frame = judge_images(*files, roles, Scorers(lambda concept: judge))
    figures = headline(score(frame, ["erasure"], 100, 0))
    assert figures["psr_1"] == 1 and figures["esr_1"] == 1 and "psr_5" not in figures
    with pytest.raises(ValueError, match="has no class for sadness"):
        judge_images(*files, {**roles, "sadness": "erased"}, Scorers(lambda concept: judge))


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(size={"height": 96, "width": 96}, resample=2),
        ConvNextImageProcessor(size={"shortest_edge": 96}, crop_pct=0.875, resample=3),
        ConvNextImageProcessor(size={"shortest_edge": 384}, crop_pct=0.875, resample=3),
        CLIPImageProcessor(size={"shortest_edge": 112}, crop_size={"height": 96, "width": 96}),
        CLIPImageProcessor(size={"shortest_edge": 91}, crop_size={"height": 96, "width": 96}),
        DeiTImageProcessor(size={"height": 112, "width": 112}, crop_size={"height": 96, "width": 96}),
        PoolFormerImageProcessor(size={"shortest_edge": 96}, crop_pct=0.8, crop_size={"height": 96, "width": 96}),
        PoolFormerImageProcessor(size={"height": 96, "width": 96}, crop_pct=0.8, crop_size={"height": 80, "width": 80}),
        MobileViTImageProcessor(size={"shortest_edge": 112}, crop_size={"height": 96, "width": 96}),
        ViTImageProcessor(size={"shortest_edge": 96}, resample=3),
    ],
    ids=[
        "squashed",
        "cropped by a share",
        "too large to be cropped",
        "cropped to a size",
        "cropped to more than there is",
        "squashed and cropped",
        "cropped by a share and to a size",
        "cropped by a share and to another size",
        "blue first",
        "not cropped",
    ],
)
def test_images_are_prepared_as_a_model_s_own_processor_does(processor, tmp_path: Path) -> None:
    """But for the rounding to whole levels, which PIL does after each direction that it scales."""
    processor.save_pretrained(tmp_path)
    as_its_own_processor(tmp_path)


OLDER = {
    "a share of the shorter edge": (
        "resnet",
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 112, "crop_pct": 0.875, "resample": 3},
    ),
    "both edges": ("vit", {"size": 96, "resample": 2, "do_normalize": True}),
    "a cropped size": (
        "clip",
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": 112, "crop_size": 96, "do_center_crop": True},
    ),
    "no share, and too large to be cropped": (
        "convnext",
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 384, "crop_pct": None, "resample": 3},
    ),
    "not normalised": ("vit", {"size": 96, "do_normalize": False}),
}


@pytest.mark.parametrize(("kind", "written"), OLDER.values(), ids=OLDER)
def test_older_preprocessor_files(kind: str, written: dict, tmp_path: Path) -> None:
    """Their sizes are plain numbers, and mean one thing or another by the class that reads them."""
    write_json(tmp_path / "preprocessor_config.json", written)
    write_json(tmp_path / "config.json", {"model_type": kind})
    as_its_own_processor(tmp_path)


def test_an_unknown_way_to_scale_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "preprocessor_config.json", {"size": 96, "resample": 0})
    write_json(tmp_path / "config.json", {"model_type": "vit"})
    with pytest.raises(ValueError, match="resample 0 should be one of"):
        preprocessing(str(tmp_path))


SQUARE, WIDE = {"height": 96, "width": 96}, {"height": 96, "width": 128}
UNKNOWN = {
    "a wide size": (ViTImageProcessor(size=WIDE), "size {'height': 96, 'width': 128} should be a shortest_edge, or a"),
    "a wide crop": (CLIPImageProcessor(crop_size=WIDE), "crop_size {'height': 96, 'width': 128} should be a"),
    "not scaled": (
        ViTImageProcessor(do_resize=False),
        "image_processor_type ViTImageProcessor prepares images in a",
    ),
    "not divided": (ViTImageProcessor(do_rescale=False), "image_processor_type ViTImageProcessor prepares"),
    "a share of its own": (LevitImageProcessor(), "image_processor_type LevitImageProcessor prepares"),
    "normalised twice": (
        EfficientNetImageProcessor(size=SQUARE, resample=2, include_top=True),
        "image_processor_type EfficientNetImageProcessor prepares",
    ),
}


@pytest.mark.parametrize(("processor", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_processor_that_does_something_else_is_refused(processor, message: str, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: preprocessor_config.json: {message}")):
        preprocessing(str(tmp_path))


def as_its_own_processor(folder: Path) -> None:
    image = load_sample_image("china.jpg")
    theirs = AutoImageProcessor.from_pretrained(folder)(Image.fromarray(image), return_tensors="pt").pixel_values
    how = preprocessing(str(folder))
    ours = to_pixels(image[None], how)
    assert ours.shape == theirs.shape
    levels = 255 * (ours - theirs).abs() * torch.tensor(how.std).reshape(1, 3, 1, 1)
    assert levels.mean() < 0.5 and levels.max() < 10
