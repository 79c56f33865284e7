"""Sources, filters, embeddings and top-K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from erase_core.concepts import vocabulary as v
from erase_core.concepts.embeddings import EmbeddingTable, write_embeddings, write_pooled
from erase_core.concepts.nearest import find_neighbours, reduce_to_clusters, top_k
from erase_core.concepts.neighbours import Neighbour, read_neighbours, write_neighbours
from erase_core.models.prompts import embed, encode
from erase_core.models.source import WEIGHTS
from erase_core.preflight import tokenizer_vocabulary
from erase_core.spec import Vocabulary, make_spec
from erase_core.training.candidates import erased_concepts


def reasons(words: list[str], erased=(), exclude=(), source="mine.txt") -> dict[str, str]:
    return {row.word: row.reason for row in v.curate([v.Candidate(w, source) for w in words], erased, exclude)}


def test_filters_by_name() -> None:
    found = reasons(
        ["taxi", "Taxi", "taxis", "cab", "bus", "buses", "x", "a1", "the", "apple", "a b c"], ["Taxi"], ["apple"]
    )
    assert found == {
        "taxi": "erased", "Taxi": "duplicate", "taxis": "duplicate", "cab": "", "bus": "", "buses": "duplicate", "x": "length",
        "a1": "not-letters", "the": "stop-word", "apple": "excluded", "a b c": "",
    }  # fmt: skip


def test_counts_left_after_each_filter() -> None:
    rows = v.curate(
        [v.Candidate(w, "mine.txt") for w in ["taxi", "bus", "the", "a1", "buses", "apple"]], ["taxi"], ["apple"]
    )
    assert v.counts(rows) == {
        "candidates": 6, "not-whole": 6, "not-letters": 5, "length": 5, "not-english": 5, "stop-word": 4, "duplicate": 3,
        "erased": 2, "excluded": 1,
    }  # fmt: skip


def test_erased_plural_is_dropped_without_its_singular() -> None:
    assert reasons(["knives", "wolves", "bus"], ["knife", "wolf"]) == {
        "knives": "erased",
        "wolves": "erased",
        "bus": "",
    }
    assert reasons(["knife"], ["knives"]) == {"knife": "erased"}


def test_a_plural_goes_when_there_is_its_singular() -> None:
    """Not when the singular is none, or no word of the vocabulary; a stop word's form goes with it."""
    words = [v.Candidate(w, "mine.txt") for w in ["cats", "iris", "gets", "get", "cat"]]
    found = {row.word: row.reason for row in v.curate([*words, v.Candidate("iri", "mine.txt", whole=False)], [], [])}
    assert found == {
        "cats": "duplicate", "iris": "", "gets": "duplicate", "get": "stop-word", "cat": "", "iri": "not-whole",
    }  # fmt: skip


def test_embedded_words_do_not_depend_on_what_is_erased() -> None:
    words = [v.Candidate(w, "mine.txt") for w in ["taxi", "taxis", "bus", "the", "cab"]]
    assert (
        v.embedded_words(v.curate(words, ["taxi"], ["cab"]))
        == v.embedded_words(v.curate(words, [], []))
        == ["taxi", "bus", "cab"]
    )


def test_clip_tokens() -> None:
    rows = v.curate(
        v.candidates("clip-tokens", lambda: tokenizer_vocabulary(WEIGHTS / "pipeline/tokenizer")), ["taxi"], []
    )
    assert len(rows) == 49_408
    by_word = {row.word: row.reason for row in rows if row.kept or row.reason == "erased"}
    assert by_word["taxi"] == "erased" and by_word["car"] == "" and by_word["helicopter"] == ""
    assert 10_000 < sum(row.kept for row in rows) < 30_000
    assert all(row.word.isalpha() for row in rows if row.kept)


def test_english_3000() -> None:
    rows = v.curate(v.candidates("english-3000"), [], [])
    assert len(rows) == 3000 and sum(row.kept for row in rows) > 2000


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_file_sources(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"words.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"n": [1, 2], "word": ["taxi", "bus"]}), path)
    else:
        path.write_text("taxi\nbus\n" if kind == "txt" else "n,word\n1,taxi\n2,bus\n")
    assert [c.word for c in v.candidates(str(path))] == ["taxi", "bus"]


def test_file_without_a_word_column(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("a,b\n1,2\n")
    with pytest.raises(v.VocabularyError, match="name the column of words 'word'"):
        v.candidates(str(tmp_path / "w.csv"))


def test_vocabulary_table_round_trip(tmp_path: Path) -> None:
    rows = v.curate([v.Candidate(w, "s") for w in ["taxi", "bus"]], ["taxi"], [])
    v.write_vocabulary(tmp_path / "v.parquet", rows, [[1], [2, 3]])
    assert v.read_vocabulary(tmp_path / "v.parquet") == rows
    assert pq.read_table(tmp_path / "v.parquet").column_names == ["word", "token_ids", "source", "kept", "reason"]


@pytest.fixture(scope="module")
def file(world, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("e") / "embeddings.arrow"
    write_embeddings(path, world, [c.word for c in v.candidates("emoji-world")], {"model_hash": "m"}, batch_size=100)
    return path


@pytest.fixture(scope="module")
def table(file: Path) -> EmbeddingTable:
    return EmbeddingTable(file)


def test_embeddings_are_the_text_encoders(table: EmbeddingTable, world) -> None:
    words = ["taxi", "police car", "weapon"]
    rows = [table.words.index(word) for word in words]
    assert torch.allclose(table.rows(rows), encode(world, words), atol=5e-3)
    assert np.allclose(table.lengths[rows], table.rows(rows).flatten(1).double().norm(dim=1), rtol=1e-6)
    assert table.metadata["model_hash"] == "m"


def test_rows_stay_on_disk(file: Path, tmp_path: Path) -> None:
    """They are a map of the file, and change with it."""
    copied = tmp_path / "embeddings.arrow"
    copied.write_bytes(file.read_bytes())
    (chunk, *_) = EmbeddingTable(copied).chunks["embedding"]
    before = chunk.copy()
    with open(copied, "r+b") as changed:
        changed.seek(copied.stat().st_size // 4)
        changed.write(bytes(64))
    assert not np.array_equal(chunk, before)


def test_the_nearest_word_is_the_one_that_is_preserved(table: EmbeddingTable, world) -> None:
    near = [Neighbour(word, 0.9 - i / 10, table.words.index(word)) for i, word in enumerate(("bus", "car", "rose"))]
    for method, words in (("nearest", ["bus"]), ("concept-ablation", ["bus"]), ("adversarial", ["bus", "car", "rose"])):
        spec = make_spec({"name": "x", "output": "o", "concepts": ["taxi"], "method": method})
        (concept,) = erased_concepts(spec, world, table, {"taxi": near})
        assert concept.candidate_words == words
        assert torch.allclose(concept.candidates[:1], encode(world, ["bus"]), atol=5e-3)


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
def test_top_k_against_brute_force(table: EmbeddingTable, world, similarity: str) -> None:
    query = encode(world, ["taxi"])[0]
    allowed = set(table.words) - {"taxi", "cab"}
    found = top_k(table, query, 10, similarity, allowed)
    every = table.rows(list(range(len(table)))).flatten(1).double().numpy()
    q = query.flatten().double().numpy()
    if similarity == "cosine":
        scores = every @ q / np.linalg.norm(every, axis=1) / np.linalg.norm(q)
    else:
        scores = -np.linalg.norm(every - q, axis=1)
    expected = [table.words[i] for i in np.argsort(-scores) if table.words[i] in allowed][:10]
    assert [n.word for n in found] == expected
    assert [n.similarity for n in found] == sorted((n.similarity for n in found), reverse=True)


def test_neighbours_make_sense(table: EmbeddingTable, world) -> None:
    """The text encoder knows its world: a taxi's nearest words are vehicles."""
    near = [n.word for n in top_k(table, encode(world, ["taxi"])[0], 6, "cosine", set(table.words) - {"taxi", "cab"})]
    vehicles = {"bus", "car", "police car", "tractor", "motorcycle", "vehicle", "lorry", "racing car", "trolleybus", "bicycle",
                "electric bus", "delivery truck", "ambulance", "fire engine", "coach", "truck"}  # fmt: skip
    assert len(vehicles & set(near)) >= 5


def test_clusters(table: EmbeddingTable, world) -> None:
    near = top_k(table, encode(world, ["taxi"])[0], 40, "cosine", set(table.words))
    reduced = reduce_to_clusters(table, near, 8, seed=0)
    assert 1 < len(reduced) <= 8 and set(reduced) <= set(near)
    for count in (2, 5, 11):
        assert reduce_to_clusters(table, near, count, seed=0)[0] == near[0]
    assert reduced == reduce_to_clusters(table, near, 8, seed=0)


@pytest.fixture(scope="module")
def pooled(table: EmbeddingTable, world, tmp_path_factory) -> EmbeddingTable:
    path = tmp_path_factory.mktemp("p") / "embeddings.arrow"
    write_pooled(path, world, table.words, {"model_hash": "m"})
    return EmbeddingTable(path)


def test_nearest_by_pooled_embeddings(table: EmbeddingTable, pooled: EmbeddingTable, world, tmp_path: Path) -> None:
    """Against brute force over pooled embeddings of padded texts; of the words that are found the rows are whole ones."""
    allowed, concepts = set(table.words) - {"taxi", "cab", "cat"}, ["taxi", "cat"]
    vocabulary = Vocabulary(similarity="pooled", top_k=10)
    found = find_neighbours(world, pooled, concepts, vocabulary, allowed, 0, tmp_path / "kept.arrow")
    every = table.rows(range(len(table)), "pooled").double()
    with torch.no_grad():
        _, queries = embed(world, concepts)
    for concept, query in zip(concepts, queries.double()):
        order = torch.cosine_similarity(every, query).argsort(descending=True).tolist()
        assert [n.word for n in found[concept]] == [table.words[i] for i in order if table.words[i] in allowed][:10]
    kept = EmbeddingTable(tmp_path / "kept.arrow")
    assert set(kept.words) == {n.word for near in found.values() for n in near} and kept.metadata["model_hash"] == "m"
    for near in found.values():
        rows = kept.rows([n.row for n in near])
        assert torch.allclose(rows, encode(world, [n.word for n in near]), atol=5e-3)


def test_pooled_embeddings_find_nearly_the_same_words(
    table: EmbeddingTable, pooled: EmbeddingTable, world, tmp_path: Path
) -> None:
    concepts, allowed = ["taxi", "apple", "weapon"], set(table.words)
    found = [
        find_neighbours(world, of, concepts, Vocabulary(top_k=50, similarity=way), allowed, 0, tmp_path / "kept.arrow")
        for of, way in ((table, "cosine"), (pooled, "pooled"))
    ]
    for whole, short in zip(*(near.values() for near in found)):
        assert len({n.word for n in whole} & {n.word for n in short}) >= 40


def test_clusters_of_pooled_embeddings(pooled: EmbeddingTable, world, tmp_path: Path) -> None:
    vocabulary = Vocabulary(similarity="pooled", top_k=40, clusters=8)
    found = find_neighbours(world, pooled, ["taxi"], vocabulary, set(pooled.words), 0, tmp_path / "kept.arrow")
    assert 1 < len(found["taxi"]) <= 8 and len(EmbeddingTable(tmp_path / "kept.arrow")) == len(found["taxi"])


def test_neighbours_round_trip(table: EmbeddingTable, world, tmp_path: Path) -> None:
    near = {"taxi": top_k(table, encode(world, ["taxi"])[0], 3, "cosine", set(table.words))}
    write_neighbours(tmp_path / "p.parquet", near)
    read = read_neighbours(tmp_path / "p.parquet")
    assert [(n.word, n.row) for n in read["taxi"]] == [(n.word, n.row) for n in near["taxi"]]
