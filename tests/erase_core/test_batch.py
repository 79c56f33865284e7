"""Lists of concepts become specs, all checked at once; the batch's table says what became of each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from erase_core.batch import ListsFailed, busy, changes, markdown, read_specs, row_of, write_table
from erase_core.spec_errors import SpecError

SPEC = """name: night
vocabulary: {{top_k: 4}}
training:
  steps: 3
scoring: {{preserved: [apple, bus]}}
output: {output}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC.format(output=tmp_path / "out"))
    (tmp_path / "lists").mkdir()
    return tmp_path / "spec.yaml"


def refused(spec: Path, lists: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read_specs(spec, lists)
    return str(caught.value).replace(f"{spec.parent}/", "").splitlines()


def test_a_folder(spec: Path) -> None:
    lists = spec.parent / "lists"
    (lists / "cars.txt").write_text("# what drives\ntaxi\n\n  police car\n")
    (lists / "cars.yaml").write_text("seed: 3\ntraining: {batch_size: 2}\nmethod: {name: naive}\n")
    (lists / "pets.yaml").write_text("concepts: [{concept: cat, synonyms: [kitten]}]\n")
    base, specs, wrong = read_specs(spec, lists)
    assert not wrong and base["name"] == "night" and list(specs) == ["cars", "pets"]
    cars, pets = specs.values()
    assert [c.concept for c in cars.concepts] == ["taxi", "police car"] and pets.concepts[0].synonyms == ["kitten"]
    assert (cars.seed, cars.training.batch_size, cars.training.steps, cars.method.name) == (3, 2, 3, "naive")
    assert (pets.seed, pets.method.name) == (0, "adversarial")
    assert cars.name == "night - cars" and cars.output == str(spec.parent / "out" / "cars")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table(spec: Path, kind: str) -> None:
    rows = [
        {"list": "a", "concept": "taxi", "synonyms": "cab; hackney", "training.learning_rate": "1e-4", "seed": None},
        {"list": "a", "concept": "lion", "synonyms": None, "training.learning_rate": None, "seed": None},
        {"list": "b", "concept": "rose", "synonyms": None, "training.learning_rate": None, "seed": "7"},
    ]
    path = spec.parent / f"lists.{kind}"
    if kind == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        for row in rows:
            row["seed"] = row["seed"] and int(row["seed"])
            row["training.learning_rate"] = row["training.learning_rate"] and 1e-4
        pd.DataFrame(rows).astype({"seed": "Int64"}).to_parquet(path)
    a, b = read_specs(spec, path)[1].values()
    assert a.erased_names == ["taxi", "cab", "hackney", "lion"] and a.training.learning_rate == 1e-4
    assert b.erased_names == ["rose"] and b.seed == 7 and a.seed == 0


def test_every_problem_with_its_file_and_line(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("steps: 3", "steps: -3"))
    lists = spec.parent / "lists"
    (lists / "a.txt").write_text("taxi\n# a comment\n../etc/passwd\n")
    (lists / "b.txt").write_text("bus\n")
    (lists / "c.txt").write_text("rose\n")
    (lists / "c.yaml").write_text("seed: 1\ntraining:\n  batch_size: many\n")
    (lists / "d.txt").write_text("\n")
    (lists / "e.doc").write_text("rose\n")
    (lists / "f.yaml").write_text("a: !!python/object/apply:os.system [ls]\n")
    (lists / "g.txt").write_bytes(b"\xff")
    (lists / "h.yaml").write_text("concepts: [rose]\noutput: /tmp/elsewhere\n")
    assert refused(spec, lists) == [
        "lists/e.doc: is no list; lists are NAME.txt, with overrides in NAME.yaml",
        "lists/d.txt: concepts: is empty; write a concept a line",
        "lists/f.yaml: not readable as YAML: line 1: tags (tag:yaml.org,2002:python/object/apply:os.system) are not allowed; "
        "remove it",
        "lists/g.txt: not UTF-8 text; save it as UTF-8",
        "lists/h.yaml:2: output: is made from the batch's and the list's name; remove it",
        "lists/a.txt:3: concepts.1.concept: has a path separator; write the concept's words, not a path",
        "spec.yaml:4: training.steps: -3 should be greater than 0",
        "lists/c.yaml:3: training.batch_size: 'many' is not a whole number; write one without quotes",
        "lists/d.txt: concepts: is empty; give at least one",
    ]
    assert not (spec.parent / "out").exists()


def test_lists_that_are_wrong_are_left_out_with_their_problems(spec: Path) -> None:
    """Wherever what is wrong was found; where none is right, or the fault is no list's, nothing is left out."""
    lists = spec.parent / "lists"
    lists.mkdir(exist_ok=True)
    (lists / "cars.txt").write_text("taxi\n")
    (lists / "Cars.txt").write_text("lion\n")
    (lists / "mood.txt").write_text("happiness\nsadness\n")
    (lists / "notes.doc").write_text("rose\n")
    (lists / "old.yaml").write_text("[]\n")
    (lists / "pets.txt").write_text("cat\n")
    (lists / "pets.yaml").write_text("training: {steps: -1}\n")
    (lists / "void.txt").write_text("\n")
    (lists / f"{'l' * 60}.txt").write_text("rose\n")
    spec.write_text(spec.read_text().replace("night", "n" * 40))
    _, specs, wrong = read_specs(spec, lists, skip_wrong=True)
    assert list(specs) == ["Cars"]
    told = {name: text.replace(f"{lists}/", "").splitlines() for name, text in wrong.items()}
    assert [line.split(":")[0] for line in told["mood"]] == ["mood.txt", "mood.txt"]
    assert told["pets"] == ["pets.yaml:1: training.steps: -1 should be greater than 0"]
    assert told["notes.doc"] == ["notes.doc: is no list; lists are NAME.txt, with overrides in NAME.yaml"]
    assert set(told) == {"cars", "mood", "notes.doc", "old", "pets", "void", "l" * 60}

    (lists / "Cars.txt").unlink()
    (lists / "cars.txt").unlink()
    with pytest.raises(SpecError, match=r"pets.yaml:1: training.steps"):
        read_specs(spec, lists, skip_wrong=True)
    table = spec.parent / "lists.csv"
    table.write_text("list,concept\na,taxi\nb,happiness\n")
    assert list(read_specs(spec, table, skip_wrong=True)[1]) == ["a"]
    table.write_text("list,concept\na,taxi\n,lion\n")
    with pytest.raises(SpecError, match="lists.csv:3: needs the columns list and concept"):
        read_specs(spec, table, skip_wrong=True)


def test_what_is_wrong_with_the_spec_is_wrong_with_every_list(spec: Path) -> None:
    (spec.parent / "lists" / "a.txt").write_text("taxi\n")
    (spec.parent / "lists" / "b.txt").write_text("cat\n")
    (spec.parent / "lists" / "b.yaml").write_text("training: {steps: 3}\n")
    spec.write_text(spec.read_text().replace("steps: 3", "steps: -3"))
    _, specs, wrong = read_specs(spec, spec.parent / "lists", skip_wrong=True)
    assert list(specs) == ["b"] and wrong["a"].endswith("spec.yaml:4: training.steps: -3 should be greater than 0")
    (spec.parent / "lists" / "b.yaml").unlink()
    assert len(refused(spec, spec.parent / "lists")) == 1


def test_what_a_list_alone_makes_wrong(spec: Path) -> None:
    lists = spec.parent / "lists"
    (lists / "a.txt").write_text("taxi\nTaxi\n")
    (lists / "b.txt").write_text("bus\n")
    (lists / "c.txt").write_text("happiness\n")
    found = refused(spec, lists)
    assert found[0].startswith("lists/a.txt: concepts: taxi is given twice")
    assert found[1].startswith("lists/b.txt: concepts: bus is also to be preserved")
    assert found[2].startswith("lists/c.txt:1: concepts.0.concept: 'happiness'") and len(found) == 3


TABLES = {
    "path": ("list,concept\n../x,taxi\n", "lists.csv:2: list: '../x' cannot name a folder"),
    "dots": ("list,concept\n..,taxi\n", "lists.csv:2: list: '..' cannot name a folder"),
    "absolute": ("list,concept\n/etc,taxi\n", "lists.csv:2: list: '/etc' cannot name a folder"),
    "last dot": ("list,concept\na.,taxi\n", "lists.csv:2: list: 'a.' cannot name a folder"),
    "long": (f"list,concept\n{'a' * 61},taxi\n", "cannot name a folder"),
    "emoji": ("list,concept\n🚕,taxi\n", "lists.csv:2: list: '🚕' cannot name a folder"),
    "case": ("list,concept\na,taxi\nA,lion\n", "lists.csv:3: list: 'A' and 'a' differ in case or punctuation only"),
    "registered as one": ("list,concept\nred car,taxi\nred-car,lion\n", "'red-car' and 'red car' differ in case or"),
    "no concept": ("list,word\na,taxi\n", "lists.csv:2: needs the columns list and concept"),
    "unknown column": ("list,concept,colour\na,taxi,red\n", "lists.csv:2: colour: is not a key"),
    "unknown part": (
        "list,concept,traning.steps\na,taxi,3\n",
        "lists.csv:2, column traning.steps: traning: is not a key here",
    ),
    "two values": ("list,concept,seed\na,taxi,1\na,lion,2\n", "lists.csv:3: seed: 2 is not the 1 of the same list's"),
    "more cells below no name": ("list,concept,\na,taxi,x\n", "lists.csv:2: has more cells than there are columns"),
    "more cells": ("list,concept\na,taxi,x\n", "lists.csv:2: has more cells than there are columns"),
    "whole and part": (
        "list,concept,method,method.name\na,taxi,naive,esd\n",
        "lists.csv:2: method.name: method is given as a",
    ),
    "name": ("list,concept,name\na,taxi,x\n", "lists.csv:2: name: is made from the batch's"),
    "empty": ("list,concept\n", "lists.csv: holds no list"),
}


@pytest.mark.parametrize(("text", "message"), TABLES.values(), ids=TABLES)
def test_a_bad_table(spec: Path, text: str, message: str) -> None:
    (spec.parent / "lists.csv").write_text(text, encoding="utf-8")
    found = refused(spec, spec.parent / "lists.csv")
    assert len(found) == 1 and message in found[0]


def test_a_table_as_spreadsheets_write_it(spec: Path) -> None:
    """With columns without a name and rows that hold nothing, and in Parquet gaps among whole numbers."""
    (spec.parent / "lists.csv").write_text(
        "list,concept,training.steps,\n,,,\na,taxi,30,\nb,lion,,\n,,,\n", encoding="utf-8"
    )
    table = pd.DataFrame(
        {"list": ["a", "b"], "concept": ["taxi", "lion"], "training.steps": [30, None], "synonyms": ["", None]}
    )
    table.to_parquet(spec.parent / "lists.parquet")
    for kind in ("csv", "parquet"):
        _, found, _ = read_specs(spec, spec.parent / f"lists.{kind}")
        assert {name: one.training.steps for name, one in found.items()} == {"a": 30, "b": 3}, (
            "of the spec where none is given"
        )
        assert not found["a"].concepts[0].synonyms


def test_names_that_are_too_long_together(spec: Path) -> None:
    spec.write_text(spec.read_text().replace("night", "n" * 60))
    (spec.parent / "lists" / f"{'a' * 38}.txt").write_text("taxi\n")
    (spec.parent / "lists" / "b.txt").write_text("taxi\n")
    assert refused(spec, spec.parent / "lists") == [
        f"lists/{'a' * 38}.txt: list: the spec's name {'n' * 60!r} and the list's {'a' * 38!r} are too long together; "
        "shorten them to 97 characters in all"
    ]


def test_all_that_is_wrong_with_lists_that_can_be_read(spec: Path) -> None:
    spec.write_text(spec.read_text() + "generation: {prompt_files: [missing.csv]}\n")
    lists = spec.parent / "lists"
    (lists / "a.txt").write_text("taxi\nhappiness\n")
    (lists / "b.txt").write_text("bus\n")
    (lists / "b.yaml").write_text("seed: -1\n")
    (lists / "c.txt").write_text("sadness\n")
    (lists / "c.yaml").write_text("vocabulary: {top_k: 9999}\n")
    assert [line.split(": ")[:2] for line in refused(spec, lists)] == [
        ["lists/a.txt:2", "concepts.1.concept"],
        ["spec.yaml:7", "generation.prompt_files.0.file"],
        ["lists/b.yaml:1", "seed"],
        ["lists/c.txt:1", "concepts.0.concept"],
        ["lists/c.yaml:1", "vocabulary.top_k"],
    ]


def test_a_spec_with_concepts_and_a_missing_folder(spec: Path) -> None:
    assert refused(spec, spec.parent / "none")[0].startswith(
        "none: is neither a folder of lists nor a CSV or Parquet table"
    )
    spec.write_text("concepts: [taxi]\n" + spec.read_text())
    assert refused(spec, spec.parent / "lists") == ["spec.yaml:1: concepts: come from the lists; remove it"]


def test_a_broken_parquet(spec: Path) -> None:
    (spec.parent / "lists.parquet").write_bytes(b"PAR1 not at all")
    assert "lists.parquet: cannot be read" in refused(spec, spec.parent / "lists.parquet")[0]


def test_the_table(spec: Path) -> None:
    (spec.parent / "lists" / "a.txt").write_text("taxi\n")
    (one,) = read_specs(spec, spec.parent / "lists")[1].values()
    summary = {
        "seconds": {"training": 5.0, "nearest": 2.0},
        "cached": ["nearest"],
        "esr_1": 0.5,
        "psr_1": 1.0,
        "mlflow_run": "r",
    }
    rows = [
        row_of("a", one, "done", summary),
        row_of("b", one, "cached", {**summary, "gate": {"passed": False}}),
        row_of("c", one, "failed", reason="Diverged: it | did\nnot"),
    ]
    assert [row["seconds"] for row in rows] == [5.0, 0.0, 0.0]
    write_table(spec.parent / "t.parquet", rows)
    kept = pd.read_parquet(spec.parent / "t.parquet")
    assert list(kept["status"]) == ["done", "cached", "failed"] and kept["esr_1"].isna().tolist() == [
        False,
        False,
        True,
    ]
    text = markdown(rows)
    assert text.startswith("3 lists: 1 done, 1 cached, 1 failed; the gate rejected 1.")
    assert "| b | cached | rejected | taxi | 0 |" in text
    assert "| c | failed | – | taxi | 0 | – | – | Diverged: it \\| did not |" in text


def test_lists_that_were_not_started_are_told(spec: Path) -> None:
    rows = [
        row_of("a", None, "failed", reason="OSError: full"),
        row_of("b", None, "not started", reason="a full disk"),
    ]
    assert markdown(rows).startswith("2 lists: 0 done, 0 cached, 1 failed, 1 not started.")
    assert str(ListsFailed(rows)) == "1 of 2 lists failed: a; not started: b"
    write_table(spec.parent / "t.parquet", rows)
    assert [list(concepts) for concepts in pd.read_parquet(spec.parent / "t.parquet")["concepts"]] == [[], []]


def test_what_changed_between_two_nights() -> None:
    def row(name: str, gate: str | None, esr: float | None, psr: float | None = 1.0) -> dict:
        return {"list": name, "status": "done", "gate": gate, "esr_1": esr, "psr_1": psr}

    before = [row("a", "passed", 0.98), row("b", None, 0.5), row("c", "passed", 0.9), row("gone", None, 1.0)]
    after = [row("new", None, 0.7), row("a", "rejected", 0.98), row("b", None, 0.5), row("c", None, None, None)]
    assert changes(before, after).splitlines()[2:] == [
        "| new | – | – → 70.0 % | – → 100.0 % |",
        "| a | passed → rejected | 98.0 % | 100.0 % |",
        "| c | passed → – | 90.0 % → – | 100.0 % → – |",
        "| gone | – | 100.0 % → – | 100.0 % → – |",
    ]
    assert changes(before, before) == "No list's gate, ESR-1 or PSR-1 changed."


def test_comments_in_a_list(spec: Path) -> None:
    (spec.parent / "lists" / "a.txt").write_text("# cars\ntaxi  # the yellow one\n\nlion\n")
    (one,) = read_specs(spec, spec.parent / "lists")[1].values()
    assert one.concept_words == ["taxi", "lion"]


def test_how_busy_the_slots_were() -> None:
    def run(training: tuple[float, float], images: tuple[float, float], cached: list[str] = []) -> dict:  # noqa: B006
        began = {"training": training[0], "erased": images[0], "vocabulary": 0.0}
        return {
            "began": began,
            "seconds": {"training": training[1], "erased": images[1], "vocabulary": 9.0},
            "cached": cached,
        }

    runs = [run((0, 10), (10, 2)), run((0, 8), (12, 2)), run((10, 2), (0, 99), ["erased"])]
    assert busy(runs, {"training": 2, "generation": 1}) == {"training": 20 / 24, "generation": 1.0}
    assert busy([], {"training": 1}) == {}
