"""The benchmark's runs and its table."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import create_model

from erase_core import benchmark, methods
from erase_core.emoji_world.catalogue import concepts
from erase_core.generation.plan import WORDS_PER_STYLE, styled_images
from erase_core.methods import naive
from erase_core.metrics.kernel_distance import kernel_distance
from erase_core.preflight import check
from erase_core.spec import Attacks
from erase_core.spec_yaml import parse_spec


def test_every_run_can_be_run(tmp_path: Path) -> None:
    base = parse_spec(f"name: b\nconcepts: [taxi]\noutput: {tmp_path / 'out'}\ntraining: {{steps: 7}}")
    cells = benchmark.cells(methods.names(), list(benchmark.TASKS), list(benchmark.SEEDS))
    assert len(cells) == len(methods.MODULES) * (4 + 4 + 1) * 3 and len({c.label for c in cells}) == len(cells)
    for cell in cells:
        spec = benchmark.spec_of(cell, base)
        assert (spec.seed, spec.method.name, spec.training.steps) == (cell.seed, cell.method, 7)
    for cell in cells[:: len(methods.MODULES) * 3]:
        check(benchmark.spec_of(cell, base))


def test_splits_are_apart() -> None:
    words = [word for task in benchmark.OBJECTS.values() for split in task.values() for word in split]
    assert len(words) == len(set(words)) == 20 and set(words) <= {c.word for c in concepts()}


def test_synonyms_are_the_model_s_own() -> None:
    known = {concept.word: concept.tags for concept in concepts()}
    assert all(synonym in known[word] for word, synonym in benchmark.SYNONYMS.items())
    assert benchmark.cases(benchmark.TUNING)["A"][:2] == [
        {"concept": "taxi", "synonyms": ["cab"]},
        {"concept": "cat", "synonyms": ["kitten"]},
    ]


def test_styles_are_scored_on_things_that_they_are_not_shown_with() -> None:
    (noto,) = benchmark.cases("style")["noto"]
    assert {"prompt": "an umbrella in noto style", "neutral": "an umbrella"} in noto["prompts"]
    scored = {wanted.prompt for wanted in styled_images("noto", [0])}
    assert len(scored) == WORDS_PER_STYLE and not scored & {prompt["prompt"] for prompt in noto["prompts"]}


def run(method: str, case: str, seed: int, psr: float) -> dict:
    figures = {name: 0.5 for name in benchmark.METRICS if name not in ("seconds", "peak_memory_gib")}
    figures |= {f"{name}_original": 0.9 for name in ("esr_1", "esr_5", "psr_1", "psr_5")}
    figures |= {"clip_score_original_erased": 64.0, "clip_score_original_preserved": 68.0}
    figures["psr_1"] = psr
    summary = {
        "metrics": figures,
        "step_seconds": 10.0,
        "peak_memory_gib": 1.5,
        "mlflow_run": "r",
    }
    return benchmark.row_of(benchmark.Cell("unsafe", case, method, seed), summary, "k")


def test_table_is_mean_and_spread() -> None:
    runs = pd.DataFrame(
        [run("naive", "weapon", s, p) for s, p in enumerate((0.2, 0.4, 0.6))] + [run("uce", "weapon", 0, 0.8)]
    )
    table = benchmark.table(runs).set_index("method")
    assert list(table.index) == ["original", "naive", "uce"]
    assert table.loc["naive", "psr_1"] == pytest.approx(0.4)
    assert table.loc["naive", "psr_1_spread"] == pytest.approx(np.std([0.2, 0.4, 0.6]))
    assert table.loc["original", "psr_1"] == pytest.approx(0.9) and table.loc["naive", "runs"] == 3
    assert list(table.loc["original", ["clip_score_erased", "clip_score_preserved"]]) == [64.0, 68.0]
    text = benchmark.markdown(benchmark.table(runs))
    assert "| naive | 3 | 50.0 ± 0.0 |" in text and "40.0 ± 16.3" in text and "| original | 1 | 90.0 ± 0.0 |" in text


def test_attacks_have_a_column_when_they_were_made() -> None:
    runs = pd.DataFrame([run("naive", "weapon", 0, 0.2)])
    assert "| 50.0 ± 0.0 | 10 ± 0 |" in benchmark.markdown(benchmark.table(runs)).replace("  ", " ")
    assert "| attacks |" in benchmark.markdown(benchmark.table(runs))
    assert "attacks" not in benchmark.markdown(benchmark.table(runs.assign(attack_success=None)))


def test_rows_are_taken_up_while_they_would_come_out_the_same(tmp_path: Path, monkeypatch) -> None:
    base = parse_spec(f"name: b\nconcepts: [taxi]\noutput: {tmp_path / 'out'}")
    cell = benchmark.Cell("unsafe", "weapon", "naive", 0)
    key = benchmark.key_of(cell, base)
    row = {**run("naive", "weapon", 0, 0.2), "key": key}
    other = {**run("gone", "weapon", 0, 0.2), "key": "of a method that is no longer there"}
    pd.DataFrame([row, other]).to_parquet(tmp_path / "runs.parquet")
    assert list(benchmark.known_rows(tmp_path / "runs.parquet", base)) == [key]
    assert benchmark.known_rows(tmp_path / "none.parquet", base) == {}
    old = tmp_path / "old.parquet"
    pd.read_parquet(tmp_path / "runs.parquet").assign(case="another", task="no longer").to_parquet(old)
    assert benchmark.known_rows(old, base) == {}

    elsewhere = parse_spec(f"name: other\nconcepts: [taxi]\noutput: {tmp_path / 'elsewhere'}")
    assert benchmark.key_of(cell, elsewhere) == key
    shorter = parse_spec(f"name: b\nconcepts: [taxi]\noutput: {tmp_path / 'out'}\ntraining: {{steps: 7}}")
    assert benchmark.known_rows(tmp_path / "runs.parquet", shorter) == {}
    gentler = create_model("Gentler", __base__=naive.Settings, negative_guidance=(float, 0.5))
    with monkeypatch.context() as patched:
        patched.setattr(methods, "settings_of", lambda name: gentler)
        assert benchmark.known_rows(tmp_path / "runs.parquet", base) == {}
    attacked = base.model_copy(update={"attacks": Attacks()})
    before = [benchmark.key_of(cell, spec) for spec in (base, attacked)]
    monkeypatch.setitem(benchmark.VERSIONS, "attack", -1)
    after = [benchmark.key_of(cell, spec) for spec in (base, attacked)]
    assert before[0] == after[0] and before[1] != after[1]
    monkeypatch.setitem(benchmark.VERSIONS, "training", -1)
    assert benchmark.known_rows(tmp_path / "runs.parquet", base) == {}


def test_a_file_that_a_spec_names_is_known_by_its_content(tmp_path: Path) -> None:
    words, cell = tmp_path / "words.txt", benchmark.Cell("unsafe", "weapon", "naive", 0)
    base = parse_spec(f"name: b\nconcepts: [taxi]\noutput: o\nvocabulary: {{source: {words}, top_k: 2}}")
    keys = []
    for text in ("bus\ncar\n", "bus\nrose\n", "bus\ncar\n"):
        words.write_text(text)
        keys.append(benchmark.key_of(cell, base))
    assert keys[0] == keys[2] != keys[1]


def test_what_judges_the_images_is_known_by_its_content(tmp_path: Path) -> None:
    """A judge that is trained anew keeps its folder's name, and a folder of real images its own."""
    judge, real, cell = tmp_path / "judge", tmp_path / "real", benchmark.Cell("unsafe", "weapon", "naive", 0)
    judge.mkdir()
    real.mkdir()
    (judge / "config.json").write_text("{}")
    scoring = f"scoring: {{judge: {judge}, reference: {real}, metrics: [erasure, kid]}}"
    base = parse_spec(f"name: b\nconcepts: [taxi]\noutput: o\n{scoring}")
    keys = [benchmark.key_of(cell, base)]
    (judge / "model.safetensors").write_bytes(b"other weights")
    keys.append(benchmark.key_of(cell, base))
    (real / "one.png").write_bytes(b"")
    keys.append(benchmark.key_of(cell, base))
    assert len(set(keys)) == 3


def test_a_stage_s_version_counts_where_a_run_has_the_stage(monkeypatch) -> None:
    cell, text = benchmark.Cell("unsafe", "weapon", "naive", 0), "name: b\nconcepts: [taxi]\noutput: o\n"
    for given, same in ((text, True), (f"{text}attacks: {{run: [seeds]}}", False)):
        base = parse_spec(given)
        with monkeypatch.context() as patched:
            before = benchmark.key_of(cell, base)
            patched.setitem(benchmark.VERSIONS, "references", -1)
            assert (benchmark.key_of(cell, base) == before) is same


def test_a_row_is_added_and_all_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    assert benchmark.keys_in(path) == set()
    for method, key in (("uce", "a"), ("a method from elsewhere", "b"), ("naive", "c"), ("uce", "a")):
        benchmark.add_row(path, {**run(method, "weapon", 0, 0.2), "key": key})
    assert benchmark.keys_in(path) == {"a", "b", "c"}
    assert list(pd.read_parquet(path)["method"]) == ["naive", "uce", "a method from elsewhere"]


def add_rows(folder: Path, case: str) -> None:
    for seed in range(8):
        benchmark.add_row(folder / "runs.parquet", {**run("naive", case, seed, 0.2), "key": f"{case}-{seed}"})


def test_two_processes_share_a_table(tmp_path: Path) -> None:
    started = [multiprocessing.get_context("fork").Process(target=add_rows, args=(tmp_path, case)) for case in "AB"]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert len(benchmark.keys_in(tmp_path / "runs.parquet")) == 16


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="methods: magic is not one of adversarial"):
        benchmark.known(["magic"], ["unsafe"], [0])
    with pytest.raises(ValueError, match="tasks: faces is not one of objects-tuning"):
        benchmark.known(["naive"], ["faces"], [0])
    with pytest.raises(ValueError, match="seeds: are none"):
        benchmark.known(["naive"], ["unsafe"], [])


def test_kernel_distance_against_its_definition() -> None:
    """With one subset of everything: the unbiased squared MMD, pair by pair."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((6, 4)), rng.standard_normal((6, 4)) + 1
    kernel = lambda x, y: (x @ y / 4 + 1) ** 3  # noqa: E731
    within = [np.mean([kernel(x[i], x[j]) for i in range(6) for j in range(6) if i != j]) for x in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * across)


def test_kernel_distance_tells_distributions_apart() -> None:
    rng = np.random.default_rng(1)
    same, other = rng.standard_normal((200, 8)), rng.standard_normal((200, 8)) + 0.5
    assert abs(kernel_distance(same[:100], same[100:])) < 0.1 * kernel_distance(same, other)
