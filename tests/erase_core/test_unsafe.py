"""Which images are hidden from those who only read about a run."""

from __future__ import annotations

import pandas as pd
import pytest

from erase_core.emoji_world import catalogue
from erase_core.spec import make_spec
from erase_core.spec_errors import SpecError
from erase_core.unsafe import hidden_images, hides, speaks_of_it, unsafe_concepts


def spec_of(**parts):
    return make_spec({"name": "x", "concepts": ["taxi", "Nudity"], "output": "-", **parts})


CASES = {
    "by its words": ({}, ["Nudity"]),
    "by a synonym's": ({"concepts": [{"concept": "red paint", "synonyms": ["fake blood"]}, "hater"]}, ["red paint"]),
    "named by a synonym": (
        {"concepts": [{"concept": "person", "synonyms": ["Bather"]}, "taxi"], "report": {"unsafe": ["bather"]}},
        ["person"],
    ),
    "named": ({"report": {"unsafe": ["TAXI"]}}, ["taxi"]),
    "none": ({"report": {"unsafe": []}}, []),
    "shown": ({"report": {"unsafe": ["taxi"], "show_unsafe": True}}, []),
    "all, where nudity is measured": ({"scoring": {"metrics": ["nudity"]}}, ["taxi", "Nudity"]),
}


@pytest.mark.parametrize(("parts", "wanted"), CASES.values(), ids=CASES)
def test_unsafe_concepts(parts: dict, wanted: list[str]) -> None:
    spec = spec_of(**parts)
    assert unsafe_concepts(spec) == wanted and hides(spec) == bool(wanted)


FOUND = (
    "self harm", "Self-harm scars", "semi-nude", "a nude_woman", "blood-soaked", "bloodstained shirt", "corpses", "dead bodies",
    "genitalia", "topless", "beheading", "pornstar", "Nazis", "kills", "sexually explicit", "school shootings", "strip club",
    "neo-nazi's", "mutilated", "suicidal", "X-rated film",
)  # fmt: skip
NOT_FOUND = (
    "gun metal grey", "killer whale", "sperm whale", "blue tit", "nudibranch", "nudge", "violin", "grapes", "double-breasted coat",
    "Essex", "David Lynch", "skull", "self-portrait", "farm hand", "Edward Gorey", "shooting star", "strange", "heroine", "abacus",
    "assorted sweets", "analog clock", "bloodhound", "cumulus", "hater",
)  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_words_are_found_in_every_form(name: str) -> None:
    assert unsafe_concepts(spec_of(concepts=[{"concept": "taxi", "synonyms": [name]}])) == ["taxi"]


@pytest.mark.parametrize("name", NOT_FOUND)
def test_other_words_are_not(name: str) -> None:
    assert not speaks_of_it(name)


def test_no_word_of_the_included_model_is_unsafe() -> None:
    """Its catalogue, in whose report nothing was to be blurred: guns, knives and skulls are pictures for children."""
    assert not [word for word in catalogue.words() if speaks_of_it(word)]


def test_what_is_not_erased_cannot_be_unsafe() -> None:
    with pytest.raises(SpecError, match=r"report\.unsafe: bus is not erased"):
        spec_of(report={"unsafe": ["bus"]})


def test_hidden_images_are_those_of_the_concept_and_those_a_detector_finds() -> None:
    images = pd.DataFrame(
        {"concept": ["taxi", "Nudity", "breast", "bus", "bus"], "role": ["erased"] * 3 + ["preserved"] * 2}
    )
    found = hidden_images(spec_of(), images, pd.DataFrame(index=images.index))
    assert found["original"].tolist() == found["erased"].tolist() == [False, True, True, False, False]

    exposed = pd.DataFrame({"exposed_original": [0, 0, 0, 0.31, 0.2], "exposed_erased": [0, 0, 0, 0, 0.9]})
    of_detector = spec_of(scoring={"metrics": ["nudity"]}, report={"unsafe": []})
    found = hidden_images(of_detector, images, exposed)
    assert found["original"].tolist() == [False, False, False, True, False]
    assert found["erased"].tolist() == [False, False, False, False, True]
    shown = spec_of(scoring={"metrics": ["nudity"]}, report={"show_unsafe": True})
    assert not hidden_images(shown, images, exposed).to_numpy().any()
