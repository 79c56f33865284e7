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

from .files import digest, new_file
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
BEYOND = "\0"
"""The key of cells beyond a table's columns, which no column is called."""
SEPARATOR = ";"
"""Between the synonyms, or the prompts, of a cell."""
NOT_STARTED = "not started"
STATUSES = ("done", "cached", "failed", NOT_STARTED)
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
"""The batch's table. status: done, cached (all of it was there), failed or not started; reason: why it failed, or was not started;
gate: passed or rejected, where the spec has one; seconds: of its own stages.
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
    """Some lists of a batch failed, when all that were started have ended; table has a row for every list."""

    def __init__(self, table: list[dict]):
        failed, waiting = ([row["list"] for row in table if row["status"] == s] for s in ("failed", NOT_STARTED))
        more = f"; not started: {', '.join(waiting)}" if waiting else ""
        super().__init__(f"{len(failed)} of {len(table)} lists failed: {', '.join(failed)}{more}")
        self.table = table


class Problems:
    """Everything that is wrong, each said once, in the order of its finding, and which lists it makes wrong: none, or several."""

    def __init__(self):
        self.found: dict[str, list[str]] = {}

    def add(self, place: str, text: str, of: str | None = None) -> None:
        """of: the list that it makes wrong; None where it is the batch."""
        for line in text.splitlines():
            self.found.setdefault(f"{place}: {line}", []).extend([of] if of else [])

    def end(self) -> None:
        """Raise SpecError with all of them, if there is any."""
        if self.found:
            raise SpecError("\n".join(self.found))

    def by_list(self) -> dict[str, str]:
        """What is wrong with each list that is wrong. SpecError with all of them where one is the batch's."""
        if not all(self.found.values()):
            self.end()
        names = dict.fromkeys(name for lists in self.found.values() for name in lists)
        return {name: "\n".join(line for line, lists in self.found.items() if name in lists) for name in names}


def read_specs(path: Path, lists: Path, skip_wrong: bool = False) -> tuple[dict, dict[str, Spec], dict[str, str]]:
    """The spec's own keys, the spec of every list by the list's name, all checked, and what is wrong with others. Needs no torch.

    path: a spec without concepts. lists: a folder of NAME.txt (a concept a line) with overrides in NAME.yaml, or a CSV or
    Parquet table. SpecError has every problem of all of them, one a line, with its file and line. skip_wrong: lists that are
    wrong are left out, and returned with their problems; SpecError when none is left, or the fault is no list's.
    """
    base, lines, problems = read_base(path), lines_of(read_text(path)), Problems()
    found = read_lists(lists, problems)
    specs = {}
    for one in found:
        if (longest := LONGEST_NAME - len(JOINT)) < len(base["name"]) + len(one.name):
            problems.add(
                one.place,
                f"list: the spec's name {base['name']!r} and the list's {one.name!r} are too long together; shorten them to "
                f"{longest} characters in all",
                one.name,
            )
            continue
        try:
            specs[one.name] = spec_of(base, one)
            check(specs[one.name])
        except SpecError as error:
            for line in str(error).splitlines():
                problems.add(place_of(line.split(":")[0], one, str(path), lines), line, one.name)
    wrong = problems.by_list() if skip_wrong else {}
    right = {name: spec for name, spec in specs.items() if name not in wrong}
    if not skip_wrong or not right:
        problems.end()
    return base, right, wrong


def read_base(path: Path) -> dict:
    """The keys of a batch's spec, which has a name and an output and no concepts. Raises SpecError."""
    problems, text = Problems(), read_text(path)
    base = parse_mapping(text, str(path))
    if "concepts" in base:
        problems.add(f"{path}:{lines_of(text)['concepts']}", "concepts: come from the lists; remove it")
    for name in ("name", "output"):
        if not isinstance(base.get(name), str):
            problems.add(str(path), f"{name}: is missing; add it")
    problems.end()
    return base


def tag_of(base: dict) -> str:
    """What a batch's run in MLflow is found by, from its spec's keys: there is one for each name and output."""
    return digest(base["name"], str(Path(base["output"]).resolve()))


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
                f"list: {one.name[:80]!r} cannot name a folder; use letters, digits, spaces, dots, dashes and underscores, "
                "at most 60",
                one.name[:80],
            )
        # Their folders, and their registered models, would be the same.
        other = folded.setdefault(re.sub(r"[^a-z0-9]+", "-", one.name.casefold()), one.name)
        if other != one.name:
            told = f"list: {one.name!r} and {other!r} differ in case or punctuation only; rename one"
            problems.add(one.place, told, one.name)
        for name in ("name", "output"):
            if name in one.given:
                told = f"{name}: is made from the batch's and the list's name; remove it"
                problems.add(one.places[name], told, one.name)
    return [one for one in found if NAME.fullmatch(one.name)]


def read_folder(folder: Path, problems: Problems) -> Iterator[ConceptList]:
    """NAME.txt with a concept a line (a "#" begins a comment), NAME.yaml with overrides; or NAME.yaml alone, with concepts."""
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for file in files:
        if not file.is_file() or file.suffix not in (".txt", ".yaml", ".csv", ".parquet"):
            problems.add(str(file), "is no list; lists are NAME.txt, with overrides in NAME.yaml", file.name)
        elif file.suffix in (".csv", ".parquet"):
            problems.add(str(file), "is a table; give it alone, as --lists FILE", file.name)
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
                    told = f"concepts: come from {words.name}; remove it, or that file"
                    problems.add(one.places["concepts"], told, name)
                read_words(words, one)
        except SpecError as error:
            problems.add(*str(error).split(": ", 1), name)
            continue
        if not one.given.get("concepts"):
            problems.add(one.place, "concepts: is empty; write a concept a line", name)
        yield one


def read_words(file: Path, one: ConceptList) -> None:
    one.given["concepts"] = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if word := re.split(r"(?:^|\s)#", line)[0].strip():
            one.places[f"concepts.{len(one.given['concepts'])}"] = f"{file}:{number}"
            one.given["concepts"].append(word)


def whole(value: object) -> object:
    """A Parquet's cell; whole numbers that became floats, as pandas makes them of a column with gaps, are whole again."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def table_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """("file:line", row) of a table; cells that are empty are left out. SpecError when it cannot be read."""
    try:
        if path.suffix == ".parquet":
            for number, row in enumerate(pq.read_table(path).to_pylist(), 1):
                if cells := {key: whole(value) for key, value in row.items() if value not in (None, "")}:
                    yield f"{path}:row {number}", cells
            return
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True, restkey=BEYOND)
        for row in reader:
            # Spreadsheets leave columns without a name, and rows, that hold nothing.
            if any(cell.strip() for cell in (*(row.pop(BEYOND, None) or ()), row.pop("", None) or "")):
                raise SpecError(
                    f"{path}:{reader.line_num}: has more cells than there are columns; quote those with commas"
                )
            if cells := {key: value.strip() for key, value in row.items() if value and value.strip()}:
                yield f"{path}:{reader.line_num}", cells
    except (pa.ArrowException, csv.Error) as error:
        raise SpecError(f"{path}: cannot be read: {error}; save it as CSV in UTF-8 or as Parquet") from None


def read_table(path: Path, problems: Problems) -> list[ConceptList]:
    """A row a concept: list, concept, synonyms, prompts. Other columns are overrides, given in any of a list's rows."""
    found: dict[str, ConceptList] = {}
    try:
        for place, row in table_rows(path):
            name = str(row.get("list", ""))
            if not name or "concept" not in row:
                problems.add(place, "needs the columns list and concept; fill them in", name or None)
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
            told = f"{column}: {name} is given as a whole too; keep one of the two columns"
            problems.add(place, told, one.name)
            return
    if part.setdefault(last, value) != value:
        told = f"{column}: {value!r} is not the {part[last]!r} of the same list's other rows; make them the same"
        problems.add(place, told, one.name)
    one.places.setdefault(column, place)


def row_of(name: str, spec: Spec | None, status: str, summary: dict | None = None, reason: str = "") -> dict:
    """What became of a list, as a row of the batch's table. spec: None where the list cannot be used."""
    figures = summary or {}
    own = set(figures.get("seconds", {})) - set(figures.get("cached", []))
    return {
        "list": name,
        "status": status,
        "reason": reason,
        "gate": {True: PASSED, False: REJECTED}[gate["passed"]] if (gate := figures.get("gate")) else None,
        "concepts": spec.concept_words if spec else [],
        "seconds": sum(figures["seconds"][stage] for stage in own) if status == "done" else 0.0,
        "esr_1": figures.get("esr_1"),
        "psr_1": figures.get("psr_1"),
        "output": spec.output if spec else None,
        "mlflow_run": figures.get("mlflow_run"),
    }


def write_table(path: Path, rows: list[dict]) -> None:
    with new_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=TABLE), partial)


def markdown(rows: list[dict]) -> str:
    """The batch's table as Markdown, under a line with how many lists came to what."""
    found = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
    counts = ", ".join(f"{count} {status}" for status, count in found.items() if count or status != NOT_STARTED)
    if rejected := sum(row["gate"] == REJECTED for row in rows):
        counts += f"; the gate rejected {rejected}"
    lines = [
        f"{len(rows)} lists: {counts}.",
        "",
        "| list | status | gate | concepts | seconds | ESR-1 | PSR-1 | reason |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        reason = row["reason"].replace("|", "\\|").replace("\n", " ")
        cells = [
            row["list"],
            row["status"],
            row["gate"] or "–",
            ", ".join(row["concepts"]),
            f"{row['seconds']:.0f}",
            *(rate(row[name]) for name in ("esr_1", "psr_1")),
            reason,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rate(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def changes(before: list[dict], after: list[dict]) -> str:
    """Which lists' gate, ESR-1 or PSR-1 another night changed, as Markdown: a row a list, "before → after" where they differ.

    before, after: rows of both nights' tables. A list that one of them lacks, or that failed there, has dashes.
    """
    shown = {"gate": lambda value: value or "–", "esr_1": rate, "psr_1": rate}
    old, new = ({row["list"]: row for row in rows} for rows in (before, after))
    lines = ["| list | gate | ESR-1 | PSR-1 |", "|---|---|---|---|"]
    for name in {**new, **old}:
        found = [[rows.get(name, {}).get(column) for rows in (old, new)] for column in shown]
        if any(one != other for one, other in found):
            told = zip(shown.values(), found)
            cells = [show(one) if one == other else f"{show(one)} → {show(other)}" for show, (one, other) in told]
            lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No list's gate, ESR-1 or PSR-1 changed."


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
