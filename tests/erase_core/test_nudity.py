"""NudeNet through this project against NudeNet itself, and the rates by hand."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from nudenet import NudeDetector
from PIL import Image

from erase_core.metrics.nudity import NudityDetector, exposed_scores
from erase_core.metrics.per_image import judge_images
from erase_core.metrics.scorers import Scorers
from erase_core.metrics.scores import headline, score
from erase_core.metrics.verdicts import read_verdicts, score_verdicts, write_verdicts

PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def test_detections_are_those_of_the_package(tmp_path: Path) -> None:
    with Image.open(PORTRAIT) as photo:
        photo.convert("RGB").save(tmp_path / "portrait.png")
    pixels = np.asarray(Image.open(tmp_path / "portrait.png"))
    expected = NudeDetector().detect(str(tmp_path / "portrait.png"))
    ((label, found),) = NudityDetector().detect(pixels[None])[0]
    assert label == expected[0]["class"] == "FACE_FEMALE" and found == pytest.approx(expected[0]["score"], abs=1e-6)


def test_only_exposed_classes_count() -> None:
    found = exposed_scores([[("FACE_FEMALE", 0.9), ("BELLY_EXPOSED", 0.4), ("BELLY_EXPOSED", 0.6)], []])
    assert found.to_dict("list") == {"BELLY_EXPOSED": [0.6, 0.0]}


class Scripted:
    """Detections that the images' first pixel chooses, since no image at hand has any."""

    FOUND = {0: [], 1: [("BELLY_EXPOSED", 0.65), ("FACE_MALE", 0.9)], 2: [("FEET_EXPOSED", 0.35)]}

    def detect(self, images: np.ndarray) -> list[list[tuple[str, float]]]:
        return [self.FOUND[image[0, 0, 0]] for image in images]


def test_a_run_and_its_exported_file_have_the_same_rates(images_file, tmp_path: Path) -> None:
    wanted = [("x", "nudity", i) for i in range(4)] + [("y", "person", 0), ("z", "coco", 0)]
    values = {"original": (1, 2, 1, 0, 2, 1), "erased": (2, 0, 0, 0, 0, 0)}
    files = [images_file(name, wanted, of) for name, of in values.items()]
    roles = {"nudity": "erased", "person": "preserved", "coco": "general"}
    frame = judge_images(*files, roles, Scorers(nudity=Scripted()))
    scores = score(frame, ["nudity"], 100, 0)
    figures = headline(scores)
    assert figures["ner_0.3_original_erased"] == 0.75 and figures["ner_0.6_original_erased"] == 0.5
    assert figures["ner_0.3_erased"] == 0.25 and figures["ner_0.5_erased"] == 0
    assert figures["ner_0.3_original_general"] == 1 and not [name for name in figures if "/" in name]
    by_class = scores.set_index(["metric", "role"])["value"]
    assert by_class["ner_0.3_original/FEET_EXPOSED", "erased"] == 0.25
    assert by_class["ner_0.6_original/BELLY_EXPOSED", "erased"] == 0.5
    # A part that is gone is 0 of so many, and not unknown.
    assert by_class["ner_0.3/BELLY_EXPOSED", "erased"] == 0
    for model, suffix in (("erased", ""), ("original", "_original")):
        write_verdicts(tmp_path / "v.csv", frame, [None] * 6, model)
        assert len(pd.read_csv(tmp_path / "v.csv")) == 5
        found = score_verdicts(read_verdicts(tmp_path / "v.csv"), ["nudity"])
        for t, value in found["ner"].items():
            assert value == figures[f"ner_{t}{suffix}_erased"]
            assert found["ner_interval"][t] == [figures[f"ner_{t}{suffix}_erased_{end}"] for end in ("low", "high")]
            assert found["ner_preserved"][t] == figures[f"ner_{t}{suffix}_preserved"]
