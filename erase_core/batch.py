"""A batch: one spec for many lists of concepts. Reads and checks them all, and makes the table of what became of each."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .files import new_file
from .preflight import check
from .spec import Spec, make_spec
from .spec_errors import SpecError
from .spec_texts import LONGEST_NAME
from .spec_yaml import SafeLoader, lines_of, parse_mapping, read_text
from .studies.variants import merged

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,58}[A-Za-z0-9_-])?")
OWN_COLUMNS = ("list", "concept", "synonyms", "prompts")
"""Columns of a table of lists; every other one is a key of the spec, such as seed or training.steps."""
JOINT = " - "
"""Between the spec's name and the list's, in the name of the list's run."""
SEPARATOR = ";"
"""Between the synonyms, or the prompts, of a cell."""
STATUSES = ("done", "cached", "failed")
TABLE = pa.schema(
    [
        ("list", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("gate", pa.string()),
        ("concepts", pa.list_(pa.string())),
        ("seconds", pa.float64()),
        ("esr_1", pa.float64()),
        ("psr_1", pa.float64()),
        ("output", pa.string()),
        ("mlflow_run", pa.string()),
    ]
)
"""The batch's table. status: done, cached (all of it was there) or failed; reason: why it failed; gate: passed or rejected, where
the spec has one; seconds: of its own stages.
"""
PASSED, REJECTED = "passed", "rejected"


@dataclass
class ConceptList:
    """One list: its concepts and overrides as a part of a spec, and where each of them was written ("file:line")."""

    name: str
    place: str
    given: dict = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


class ListsFailed(RuntimeError):
    """Some lists of a batch failed, when all of them have ended; table has a row for every list."""

    def __init__(self, table: list[dict]):
        failed = [row["list"] for row in table if row["status"] == "failed"]
        super().__init__(f"{len(failed)} of {len(table)} lists failed: {', '.join(failed)}")
        self.table = table


class Problems:
    """Everything that is wrong, each said once, in the order of its finding."""

    def __init__(self):
        self.found: dict[str, None] = {}

    def add(self, place: str, text: str) -> None:
        for line in text.splitlines():
            self.found[f"{place}: {line}"] = None

    def end(self) -> None:
        """Raise SpecError with all of them, if there is any."""
        if self.found:
            raise SpecError("\n".join(self.found))


def read_specs(path: Path, lists: Path) -> tuple[dict, dict[str, Spec]]:
    """The spec's own keys, and the spec of every list by the list's name, all checked. Needs no torch.

    path: a spec without concepts. lists: a folder of NAME.txt (a concept a line) with overrides in NAME.yaml, or a CSV or
    Parquet table. SpecError has every problem of all of them, one a line, with its file and line.
    """
    problems = Problems()
    text = read_text(path)
    base = parse_mapping(text, str(path))
    lines = lines_of(text)
    if "concepts" in base:
        problems.add(f"{path}:{lines['concepts']}", "concepts: come from the lists; remove it")
    for name in ("name", "output"):
        if not isinstance(base.get(name), str):
            problems.add(str(path), f"{name}: is missing; add it")
    problems.end()
    found = read_lists(lists, problems)
    specs = {}
    for one in found:
        if (longest := LONGEST_NAME - len(JOINT)) < len(base["name"]) + len(one.name):
            problems.add(
                one.place,
                f"list: the spec's name {base['name']!r} and the list's {one.name!r} are too long together; shorten them to "
                f"{longest} characters in all",
            )
            continue
        try:
            specs[one.name] = spec_of(base, one)
            check(specs[one.name])
        except SpecError as error:
            for line in str(error).splitlines():
                problems.add(place_of(line.split(":")[0], one, str(path), lines), line)
    problems.end()
    return base, specs


def spec_of(base: dict, one: ConceptList) -> Spec:
    """A list's spec: the base's with the list's concepts and overrides over it, and an output folder below the base's.

    An override of method.name replaces the method with all its parameters.
    """
    method = one.given.get("method")
    if isinstance(method, str) or (isinstance(method, dict) and "name" in method):
        base = {key: value for key, value in base.items() if key != "method"}
    named = {"name": f"{base['name']}{JOINT}{one.name}", "output": str(Path(base["output"]) / one.name)}
    return make_spec(merged(base, {**one.given, **named}))


def place_of(name: str, one: ConceptList, path: str, lines: dict[str, int]) -> str:
    """Where the field of an error was written: in the list, or in the spec."""
    parts = name.split(".")
    column = next((key for key in one.places if key.startswith(f"{name}.") and parts[0] != "concepts"), None)
    if column and name not in one.places and name not in lines:
        # A table has columns for keys of a part, and none for the part itself.
        return f"{one.places[column]}, column {column}"
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in one.places:
            return one.places[prefix]
        if prefix in lines:
            return f"{path}:{lines[prefix]}"
    return one.place if parts[0] == "concepts" else path


def read_lists(path: Path, problems: Problems) -> list[ConceptList]:
    """All lists of a folder or a table, in the order of their names or rows."""
    if path.is_dir():
        found = list(read_folder(path, problems))
    elif path.suffix in (".csv", ".parquet") and path.is_file():
        found = read_table(path, problems)
    else:
        raise SpecError(f"{path}: is neither a folder of lists nor a CSV or Parquet table of them; give one of these")
    if not found and not problems.found:
        problems.add(str(path), "holds no list; put a NAME.txt with a concept a line there, or rows in the table")
    folded: dict[str, str] = {}
    for one in found:
        if not NAME.fullmatch(one.name):
            problems.add(
                one.place,
                f"list: {one.name[:80]!r} cannot name a folder; use letters, digits, dots, dashes and underscores, at most 60",
            )
        # Their folders, and their registered models, would be the same.
        other = folded.setdefault(re.sub(r"[^a-z0-9]+", "-", one.name.casefold()), one.name)
        if other != one.name:
            problems.add(one.place, f"list: {one.name!r} and {other!r} differ in case or punctuation only; rename one")
        for name in ("name", "output"):
            if name in one.given:
                problems.add(one.places[name], f"{name}: is made from the batch's and the list's name; remove it")
    return [one for one in found if NAME.fullmatch(one.name)]


def read_folder(folder: Path, problems: Problems) -> Iterator[ConceptList]:
    """NAME.txt with a concept a line (a "#" begins a comment), NAME.yaml with overrides; or NAME.yaml alone, with concepts."""
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for file in files:
        if not file.is_file() or file.suffix not in (".txt", ".yaml", ".csv", ".parquet"):
            problems.add(str(file), "is no list; lists are NAME.txt, with overrides in NAME.yaml")
        elif file.suffix in (".csv", ".parquet"):
            problems.add(str(file), "is a table; give it alone, as --lists FILE")
    for name in sorted({file.stem for file in files if file.suffix in (".txt", ".yaml") and file.is_file()}):
        words, overrides = folder / f"{name}.txt", folder / f"{name}.yaml"
        one = ConceptList(name, str(words if words.is_file() else overrides))
        try:
            if overrides.is_file():
                text = read_text(overrides)
                one.given = parse_mapping(text, str(overrides))
                one.places = {key: f"{overrides}:{line}" for key, line in lines_of(text).items()}
            if words.is_file():
                if "concepts" in one.given:
                    problems.add(one.places["concepts"], f"concepts: come from {words.name}; remove it, or that file")
                read_words(words, one)
        except SpecError as error:
            problems.add(*str(error).split(": ", 1))
            continue
        if not one.given.get("concepts"):
            problems.add(one.place, "concepts: is empty; write a concept a line")
        yield one


def read_words(file: Path, one: ConceptList) -> None:
    one.given["concepts"] = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if word := re.split(r"(?:^|\s)#", line)[0].strip():
            one.places[f"concepts.{len(one.given['concepts'])}"] = f"{file}:{number}"
            one.given["concepts"].append(word)


def table_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """("file:line", row) of a table; cells that are empty are left out. SpecError when it cannot be read."""
    try:
        if path.suffix == ".parquet":
            for number, row in enumerate(pq.read_table(path).to_pylist(), 1):
                yield f"{path}:row {number}", {key: value for key, value in row.items() if value is not None}
            return
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True, restkey="")
        for row in reader:
            if "" in row:
                raise SpecError(
                    f"{path}:{reader.line_num}: has more cells than there are columns; quote those with commas"
                )
            yield (
                f"{path}:{reader.line_num}",
                {key: value.strip() for key, value in row.items() if value and value.strip()},
            )
    except (pa.ArrowException, csv.Error) as error:
        raise SpecError(f"{path}: cannot be read: {error}; save it as CSV in UTF-8 or as Parquet") from None


def read_table(path: Path, problems: Problems) -> list[ConceptList]:
    """A row a concept: list, concept, synonyms, prompts. Other columns are overrides, given in any of a list's rows."""
    found: dict[str, ConceptList] = {}
    try:
        for place, row in table_rows(path):
            name = str(row.get("list", ""))
            if not name or "concept" not in row:
                problems.add(place, "needs the columns list and concept; fill them in")
                continue
            one = found.setdefault(name, ConceptList(name, place, {"concepts": []}))
            one.places[f"concepts.{len(one.given['concepts'])}"] = place
            concept = {key: parts(row[key]) for key in ("synonyms", "prompts") if key in row}
            one.given["concepts"].append({"concept": row["concept"], **concept})
            for column, value in row.items():
                if column not in OWN_COLUMNS:
                    override(one, column, value if path.suffix == ".parquet" else scalar(value), place, problems)
    except SpecError as error:
        problems.add(*str(error).split(": ", 1))
    return list(found.values())


def parts(cell: str | list) -> list[str]:
    return [text.strip() for text in cell.split(SEPARATOR)] if isinstance(cell, str) else cell


def scalar(cell: str) -> object:
    """A CSV's cell as YAML reads it: a number, a list, or text."""
    try:
        return yaml.load(cell, SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return cell


def override(one: ConceptList, column: str, value: object, place: str, problems: Problems) -> None:
    """Put a column's value into a list's part of the spec, under its dotted name."""
    *above, last = column.split(".")
    part = one.given
    for name in above:
        part = part.setdefault(name, {})
        if not isinstance(part, dict):
            problems.add(place, f"{column}: {name} is given as a whole too; keep one of the two columns")
            return
    if part.setdefault(last, value) != value:
        problems.add(
            place, f"{column}: {value!r} is not the {part[last]!r} of the same list's other rows; make them the same"
        )
    one.places.setdefault(column, place)


def row_of(name: str, spec: Spec, status: str, summary: dict | None = None, reason: str = "") -> dict:
    """What became of a list, as a row of the batch's table."""
    figures = summary or {}
    own = set(figures.get("seconds", {})) - set(figures.get("cached", []))
    return {
        "list": name,
        "status": status,
        "reason": reason,
        "gate": {True: PASSED, False: REJECTED}[gate["passed"]] if (gate := figures.get("gate")) else None,
        "concepts": spec.concept_words,
        "seconds": sum(figures["seconds"][stage] for stage in own) if status == "done" else 0.0,
        "esr_1": figures.get("esr_1"),
        "psr_1": figures.get("psr_1"),
        "output": spec.output,
        "mlflow_run": figures.get("mlflow_run"),
    }


def write_table(path: Path, rows: list[dict]) -> None:
    with new_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=TABLE), partial)


def markdown(rows: list[dict]) -> str:
    """The batch's table as Markdown, under a line with how many lists came to what."""
    counts = ", ".join(f"{sum(row['status'] == status for row in rows)} {status}" for status in STATUSES)
    if rejected := sum(row["gate"] == REJECTED for row in rows):
        counts += f"; the gate rejected {rejected}"
    lines = [
        f"{len(rows)} lists: {counts}.",
        "",
        "| list | status | gate | concepts | seconds | ESR-1 | PSR-1 | reason |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        rates = ["–" if row[name] is None else f"{100 * row[name]:.1f} %" for name in ("esr_1", "psr_1")]
        reason = row["reason"].replace("|", "\\|").replace("\n", " ")
        cells = [
            row["list"],
            row["status"],
            row["gate"] or "–",
            ", ".join(row["concepts"]),
            f"{row['seconds']:.0f}",
            *rates,
            reason,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def busy(summaries: list[dict], slots: dict[str, int]) -> dict[str, float]:
    """Share of each kind's slots that was at work, from its first stage's begin to its last one's end.

    summaries: of the runs that were done. Only stages that were computed count; those served from the cache held no slot.
    """
    shares = {}
    for kind, count in slots.items():
        spans = [
            (summary["began"][stage], summary["seconds"][stage])
            for summary in summaries
            for stage in set(summary["began"]) - set(summary["cached"]) - {"vocabulary"}
            if (stage == "training") == (kind == "training")
        ]
        if spans:
            window = max(began + seconds for began, seconds in spans) - min(began for began, _ in spans)
            shares[kind] = sum(seconds for _, seconds in spans) / (count * window)
    return shares
