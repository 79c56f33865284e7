"""Vocabulary sources, and the chain of named filters that curates them into the concept space."""

from __future__ import annotations

import csv
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..emoji_world import catalogue
from ..files import new_file
from .plurals import is_one_of, singulars

SOURCES = ("emoji-world", "clip-tokens", "english-3000")
"""Built-in sources; anything else is a file."""

SCHEMA = pa.schema(
    [
        ("word", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("source", pa.string()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
    ]
)
WORD_COLUMNS = ("word", "concept", "words", "concepts")
FILTERS = ("not-whole", "not-letters", "length", "not-english", "stop-word", "duplicate", "erased", "excluded")
"""The filters in the order they are applied; each names the words it drops."""

EMBEDDED_ANYWAY = ("", "erased", "excluded")
"""Reasons that depend on what is erased. Such words are embedded with the rest, so that all runs share one embedding file."""
LEAST_FREQUENCY = 3.0
"""Zipf frequency (log10 of uses in a billion words) below which a token does not count as an English word."""


class Candidate(NamedTuple):
    """A word before curation. `whole` is false for a token that only occurs inside words."""

    word: str
    source: str
    whole: bool = True


class Row(NamedTuple):
    """A word after curation: kept, or dropped by the filter named in `reason`."""

    word: str
    source: str
    kept: bool
    reason: str


class VocabularyError(ValueError):
    """A vocabulary that cannot be read or is too small; the message names the field and the fix."""


def candidates(source: str, tokens: Callable[[], dict[str, int]] | None = None) -> list[Candidate]:
    """The words of a source in its own order.

    `tokens` gives the tokenizer's vocabulary, and is called for clip-tokens only. Raises VocabularyError for a file that
    cannot be read.
    """
    if source == "emoji-world":
        return [Candidate(word, source) for word in catalogue.words()]
    if source == "clip-tokens":
        if tokens is None:
            raise VocabularyError("vocabulary.source: clip-tokens needs the model's tokenizer")
        return [token_candidate(token) for token, _ in sorted(tokens().items(), key=lambda item: item[1])]
    if source == "english-3000":
        from wordfreq import top_n_list

        return [Candidate(word, source) for word in top_n_list("en", 3000)]
    return [Candidate(word, Path(source).name) for word in read_words(Path(source))]


@functools.cache
def token_candidate(token: str) -> Candidate:
    """A byte-level BPE token as the text it stands for; not whole when it continues, or is not valid UTF-8."""
    text = token.removesuffix("</w>")
    try:
        word = bytes(byte_of_character()[character] for character in text).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return Candidate(text, "clip-tokens", whole=False)
    return Candidate(word, "clip-tokens", whole=token.endswith("</w>"))


@functools.cache
def byte_of_character() -> dict[str, int]:
    """Byte-level BPE's printable stand-ins for the 256 bytes, in the order in which CLIP numbers them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def read_words(path: Path) -> list[str]:
    """Words of a text file (one a line), or of the word column of a CSV or Parquet file."""
    try:
        if not path.is_file():
            raise VocabularyError(
                f"vocabulary.source: {str(path)!r} is neither one of {', '.join(SOURCES)} nor a file; name one of them"
            )
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            return [
                str(word)
                for word in table.column(word_column(table.column_names, path)).to_pylist()
                if word is not None
            ]
        if path.suffix == ".csv":
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                column = word_column(rows.fieldnames or [], path)
                return [row[column].strip() for row in rows if row[column] and row[column].strip()]
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise VocabularyError(
            f"vocabulary.source: cannot read {path}: {error.strerror or error}; check its name and its permissions"
        ) from None
    except (UnicodeDecodeError, pa.ArrowInvalid, csv.Error) as error:
        raise VocabularyError(
            f"vocabulary.source: cannot read {path}: {error}; save it as UTF-8 text, CSV or Parquet"
        ) from None


def word_column(names: Iterable[str], path: Path) -> str:
    names = list(names)
    for wanted in WORD_COLUMNS:
        if wanted in names:
            return wanted
    if len(names) == 1:
        return names[0]
    raise VocabularyError(
        f"vocabulary.source: {path} has the columns {', '.join(names)}; name the column of words 'word'"
    )


@functools.cache
def stop_words() -> frozenset[str]:
    return frozenset((Path(__file__).parent / "stop_words.txt").read_text(encoding="utf-8").split())


def is_english(candidate: Candidate) -> bool:
    """Whether a token is in use as an English word. Other sources are lists of words already."""
    if candidate.source != "clip-tokens":
        return True
    from wordfreq import zipf_frequency

    return zipf_frequency(candidate.word, "en") >= LEAST_FREQUENCY


@functools.cache
def unfit(candidate: Candidate) -> str:
    """The first filter that drops a word whatever the others are, or ""."""
    if not candidate.whole:
        return "not-whole"
    if not re.fullmatch(r"[^\W\d_]+(?:[ -][^\W\d_]+)*", candidate.word):
        return "not-letters"
    if not (3 if candidate.source == "clip-tokens" else 2) <= len(candidate.word.casefold()) <= 40:
        return "length"
    if not is_english(candidate):
        return "not-english"
    return "stop-word" if candidate.word.casefold() in stop_words() else ""


def curate(words: Iterable[Candidate], erased: Iterable[str], exclude: Iterable[str]) -> list[Row]:
    """Apply the filters in order; each word is kept or carries the name of the first filter that dropped it.

    The filters: not-whole (a token that only continues a word, or does not decode), not-letters, length, not-english,
    stop-word, duplicate (by case or plural), erased (an erased concept, a synonym, or the plural of one), excluded.
    """
    found = [(candidate, unfit(candidate)) for candidate in words]
    forbidden = frozenset(name.casefold() for name in erased)
    unwanted = {name.casefold() for name in exclude}
    # Other singulars are none, such as "alway", or no words of the vocabulary.
    singular = {candidate.word.casefold() for candidate, reason in found if reason in ("", "stop-word")}
    seen: set[str] = set()
    rows = []
    for candidate, reason in found:
        if not reason:
            folded = candidate.word.casefold()
            if folded in seen or not singular.isdisjoint(singulars(folded)):
                reason = "duplicate"
            else:
                seen.add(folded)
                if is_one_of(folded, forbidden):
                    reason = "erased"
                elif folded in unwanted:
                    reason = "excluded"
        rows.append(Row(candidate.word, candidate.source, not reason, reason))
    return rows


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """How many words there were, and how many were left after each filter, in the filters' order."""
    dropped = Counter(row.reason for row in rows)
    left = {"candidates": dropped.total()}
    for name in FILTERS:
        left[name] = list(left.values())[-1] - dropped[name]
    return left


def require_top_k(rows: Iterable[Row], top_k: int) -> None:
    """Raise VocabularyError when fewer than top_k words were kept."""
    kept = sum(row.kept for row in rows)
    if top_k > kept:
        raise VocabularyError(
            f"vocabulary.top_k: {top_k} is larger than the vocabulary, which keeps {kept} words; lower it or choose a larger source"
        )


def write_vocabulary(path: Path, rows: list[Row], token_ids: list[list[int]]) -> None:
    """Write the vocabulary table (word, token_ids, source, kept, reason)."""
    columns = [
        [row.word for row in rows],
        token_ids,
        *([getattr(row, name) for row in rows] for name in ("source", "kept", "reason")),
    ]
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA)], schema=SCHEMA)
    with new_file(path) as partial:
        pq.write_table(table, partial)


def read_vocabulary(path: Path) -> list[Row]:
    """The rows of a vocabulary table, in its order."""
    return [Row(**row) for row in pq.read_table(path, columns=["word", "source", "kept", "reason"]).to_pylist()]


def embedded_words(rows: Iterable[Row]) -> list[str]:
    """The words that are embedded: the same for every run on one source, whatever it erases."""
    return [row.word for row in rows if row.reason in EMBEDDED_ANYWAY]
