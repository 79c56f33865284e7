"""Every metric on images that are drawn from prompt files, with the judges and networks that a user would name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from erase_core import stages
from erase_core.metrics.scores import headline
from erase_core.preflight import check
from erase_core.spec_yaml import load_spec
from tests.metrics_spec import assert_complete, assert_exported, write_spec


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    spec = load_spec(write_spec(tmp_path_factory.mktemp("scored")))
    check(spec)
    vocabulary = stages.vocabulary(spec)
    nearest = stages.nearest(spec, vocabulary, stages.embeddings(spec, vocabulary))
    images = stages.images(spec, nearest)
    return stages.scores(spec, nearest, images, images).folder


def test_every_figure_is_there(scored: Path) -> None:
    figures = headline(pd.read_parquet(scored / "scores.parquet"))
    assert_complete(figures)
    assert figures["lpips_general"] == figures["cmmd_general"] == 0 and figures["fid_general"] == pytest.approx(
        0, abs=1e-4
    )
    assert figures["psr_1"] == figures["psr_1_original"] and all(value == value for value in figures.values())


def test_the_exported_verdicts_score_as_the_run_did(scored: Path) -> None:
    table = pd.read_csv(scored / "verdicts.csv")
    assert sorted(table["case_number"]) == [0, 5, 6, 7] and set(table["evaluation_seed"]) == {11, 12, 13, 14}
    assert set(table["label_str"]) == {"Garbage Truck, dustcart", "Church", "Tench"}
    assert_exported(scored, headline(pd.read_parquet(scored / "scores.parquet")))
