"""Prompts from CSV files in the field's shapes: Imagenette's, artists', I2P's and COCO's work as they are.

case_number, prompt, evaluation_seed, label_str | artist | class | …     what a prompt shows stands beside it
prompt, categories, nudity_percentage, sd_seed, sd_guidance_scale, …     I2P: every prompt shows what is erased
case_number, source, prompt, evaluation_seed, coco_id                    COCO: general prompts, for the quality metrics
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import math
import re
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..hub import fetched
from ..spec import PromptFile
from ..spec_texts import ALL

PROMPT = "prompt"
CASE = "case_number"
SEEDS = ("evaluation_seed", "sd_seed", "seed")
CONCEPTS = ("label_str", "artist", "class", "concept", "object", "style")
GUIDANCE = ("evaluation_guidance", "sd_guidance_scale")
OF_I2P, OF_COCO = ("nudity_percentage", "inappropriate_percentage", "categories"), ("coco_id",)
HUB_FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+(?:@\w[\w.+-]*)?)/([\w./-]+\.csv(?:\.gz)?)")
"""owner/name, or owner/name@revision, and a file in it."""
LARGEST_SEED = 2**63 - 1
FILES_KEPT = 8


class PromptFileError(ValueError):
    """A prompt file that cannot be used; the message names the field, the line and the fix."""


@dataclass(frozen=True)
class Prompt:
    """A row of a prompt file. concept is None in general prompts; seed where the file has no column of seeds."""

    prompt: str
    concept: str | None
    seed: int | None
    case_number: int
    guidance_scale: float | None


def is_local(part: PromptFile) -> bool:
    """Whether the file is on this machine, and not one of a hub dataset that is fetched when the images are drawn."""
    return Path(part.file).is_file() or not HUB_FILE.fullmatch(part.file)


def are_local(parts: Iterable[PromptFile]) -> bool:
    """Whether all files are on this machine, and so can be read before anything is fetched."""
    return all(is_local(part) for part in parts)


def read_prompts(part: PromptFile, erased: list[str], field: str = "generation.prompt_files") -> list[Prompt]:
    """The prompts of a file, in its order.

    erased: the concepts that the run erases; the only one is what an I2P-shaped file's prompts show. field: the field that
    errors name. Raises PromptFileError for what is missing or not readable.
    """
    rows, columns = read_rows(part.file, field)
    if PROMPT not in columns:
        raise PromptFileError(f"{field}.file: {part.file} has no column {PROMPT}; its columns are {', '.join(columns)}")
    concept_column = next((name for name in CONCEPTS if name in columns), None)
    seed_column = next((name for name in SEEDS if name in columns), None)
    guidance_column = next((name for name in GUIDANCE if name in columns), None)
    if part.own_guidance and guidance_column is None:
        raise PromptFileError(f"{field}.own_guidance: {part.file} has neither {' nor '.join(GUIDANCE)}; leave it out")
    general = part.general or (part.concept is None and concept_column is None and bool(set(OF_COCO) & set(columns)))
    concept = part.concept
    if not general and concept is None and concept_column is None:
        if len(erased) != 1 or not set(OF_I2P) & set(columns):
            raise PromptFileError(
                f"{field}.concept: is needed, for {part.file} has none of the columns {', '.join(CONCEPTS)}; name the concept "
                "that its prompts show, or write general: true"
            )
        concept = erased[0]

    found = []
    for i, row in enumerate(rows[: part.limit]):
        where = f"{field}.file: {part.file}, line {i + 2}"
        text = (row[PROMPT] or "").strip()
        if not text:
            raise PromptFileError(f"{where} has no {PROMPT}; write one or take the line out")
        shown = None if general else (concept or (row[concept_column] or "").strip())
        # As the spec's words are: a letter and its accent are written as one sign or as two.
        shown = shown and unicodedata.normalize("NFC", shown)
        if shown == "":
            raise PromptFileError(f"{where} has no {concept_column}; write what the prompt shows")
        if shown and shown.casefold() == ALL:
            raise PromptFileError(
                f"{where}: {shown!r} is what the scores call all concepts together; write another word"
            )
        seed = number(row, seed_column, where)
        if seed is not None and not 0 <= seed <= LARGEST_SEED:
            raise PromptFileError(f"{where} has the {seed_column} {row[seed_column]}; use 0 to {LARGEST_SEED}")
        guidance = number(row, guidance_column if part.own_guidance else None, where)
        case = number(row, CASE if CASE in columns else None, where)
        found.append(
            Prompt(text, shown, None if seed is None else int(seed), i if case is None else int(case), guidance)
        )
    if not found:
        raise PromptFileError(f"{field}.file: {part.file} has no rows; a row is one prompt")
    return found


def read_rows(file: str, field: str) -> tuple[list[dict[str, str | None]], list[str]]:
    """A CSV's rows and column names, from a plain or gzipped file, or from a hub dataset. HubError when that cannot be had."""
    path = Path(file)
    if not path.is_file():
        if not (hub := HUB_FILE.fullmatch(file)):
            raise PromptFileError(f"{field}.file: {file!r} is neither a CSV nor a hub dataset's (owner/name/file.csv)")
        path = fetched(f"{field}.file", hub[1], hub[2], "dataset")
    try:
        status = path.stat()
        return rows_in(path, status.st_mtime_ns, status.st_size)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        fix = "check its permissions" if isinstance(error, PermissionError) else "save it as UTF-8 CSV"
        raise PromptFileError(f"{field}.file: cannot read {file}: {error}; {fix}") from None


@functools.lru_cache(maxsize=FILES_KEPT)
def rows_in(path: Path, changed: int, size: int) -> tuple[list[dict[str, str | None]], list[str]]:
    """A CSV's rows and column names, read once for the many lists of a batch. changed, size: those of the file."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    return list(reader), [name for name in reader.fieldnames or [] if name]


def number(row: dict[str, str | None], column: str | None, where: str) -> float | int | None:
    """A cell as a number, whole where it is written so; None without a column."""
    if column is None:
        return None
    text = (row[column] or "").strip()
    try:
        found = int(text) if text.lstrip("-").isdigit() else float(text)
        if math.isfinite(found):
            return found
    except (ValueError, OverflowError):
        pass
    raise PromptFileError(f"{where} has the {column} {text!r}; write a number") from None
