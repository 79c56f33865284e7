"""Per-image verdicts in a CSV of the field's shape, whoever's classifier or detector wrote them, and their scores.

A classifier's file has label_str, what the prompt names, and category_top1 to category_top5, what the classifier sees, likeliest
first. A detector's has NudeNet_label and NudeNet_score, the detections of one image joined by "-" in both. A file may have both.
"""

from __future__ import annotations

import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import new_file
from ..generation.plan import ERASED, GENERAL, PRESERVED
from ..spec_texts import ALL
from .erasure import TOP, sees
from .labels import matching_labels, names_in
from .nudity import Detections, exposure_columns
from .scores import headline, score

LABEL = "label_str"
CATEGORIES = [f"category_top{k}" for k in range(1, TOP + 1)]
DETECTIONS = ["NudeNet_label", "NudeNet_score"]
NER = "ner_"
FIRST_LINE = 2
"""The line of a CSV's first row, below its header."""


class VerdictsError(ValueError):
    """Verdicts that cannot be scored; the message names the file, the column or row, and the fix."""


@dataclass(frozen=True)
class Verdicts:
    """Per-image verdicts: every cell as text, blank where the file has none."""

    path: Path
    table: pd.DataFrame

    @property
    def classified(self) -> bool:
        """Whether a classifier's verdicts are there."""
        return CATEGORIES[0] in self.table

    @property
    def detected(self) -> bool:
        """Whether a nudity detector's verdicts are there."""
        return DETECTIONS[0] in self.table

    @property
    def concepts(self) -> list[str]:
        """What label_str names, each concept once, by the first of its names."""
        return list(dict.fromkeys(names_in(text)[0] for text in self.table[LABEL])) if LABEL in self.table else []


def read_verdicts(path: str | Path) -> Verdicts:
    """Read a CSV of verdicts, plain or gzipped (.csv.gz). VerdictsError says what is wrong with it."""
    path = Path(path)
    if not path.is_file():
        raise VerdictsError(f"{path}: no such file; give a CSV of verdicts, plain or gzipped")
    try:
        with warnings.catch_warnings():
            # With more cells in its rows than columns, pandas would shift them all, or cut them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False).fillna(
                ""
            )
    except (
        OSError,
        EOFError,
        zlib.error,
        UnicodeDecodeError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pd.errors.EmptyDataError,
    ) as error:
        raise VerdictsError(f"{path}: not readable as CSV: {' '.join(str(error).split())}") from None
    if table.empty:
        raise VerdictsError(f"{path}: has no rows; a row is one image")
    verdicts = Verdicts(path, table)
    if not verdicts.classified and not verdicts.detected:
        raise VerdictsError(
            f"{path}: has neither {CATEGORIES[0]} (a classifier's verdicts) nor {DETECTIONS[0]} (a detector's); its columns are "
            + ", ".join(table.columns)
        )
    wanted = [LABEL, *CATEGORIES] * verdicts.classified + DETECTIONS * verdicts.detected
    missing = [name for name in wanted if name not in table]
    if missing:
        raise VerdictsError(
            f"{path}: the column{'s' * (len(missing) > 1)} {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing; "
            f"the columns are {', '.join(table.columns)}"
        )
    # What only a detector was asked about has no category.
    needed = [LABEL] * (LABEL in table) + [CATEGORIES[0]] * (not verdicts.detected)
    for name in needed:
        blank = np.flatnonzero(table[name].str.strip(", ").eq(""))
        if len(blank):
            raise VerdictsError(f"{path}: {name} is blank in line {blank[0] + FIRST_LINE}; every image needs one")
    return verdicts


def roles_of(verdicts: Verdicts, erased: list[str]) -> pd.Series:
    """Role of each image: erased when label_str names one of `erased` (case is ignored), else preserved.

    Without label_str all prompts ask for what was erased. VerdictsError for an erased concept that is not in the file.
    """
    if LABEL not in verdicts.table or (not erased and not verdicts.classified):
        return pd.Series(ERASED, index=verdicts.table.index)
    if not erased:
        raise VerdictsError(
            f"erased: name the erased concepts; {LABEL} of {verdicts.path} has {', '.join(verdicts.concepts)}"
        )
    labels = verdicts.table[LABEL]
    absent = [name for name in erased if not matching_labels(labels.unique(), [name])]
    if absent:
        raise VerdictsError(
            f"erased: {', '.join(absent)} is not in {LABEL} of {verdicts.path}, which has {', '.join(verdicts.concepts)}"
        )
    gone = matching_labels(labels.unique(), erased)
    return labels.map(lambda text: ERASED if text in gone else PRESERVED)


def seen_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Whether the k likeliest categories hold label_str's concept, for k of 1 and 5, as floats.

    NaN where the k-th category is blank: the judge has no more classes than that, and its guesses say nothing.
    """
    every = pd.unique(table[CATEGORIES].to_numpy().ravel())
    wanted_by = {text: matching_labels(every, [text]) for text in table[LABEL].unique()}
    wanted, top = [wanted_by[text] for text in table[LABEL]], table[CATEGORIES].to_numpy().tolist()
    found = {}
    for k in (1, TOP):
        judged = table[CATEGORIES[k - 1]].str.strip().ne("")
        found[f"sees_{k}_erased"] = np.where(judged, sees(top, wanted, k).astype(float), np.nan)
    return pd.DataFrame(found, index=table.index)


def detections_in(verdicts: Verdicts) -> list[Detections]:
    """The detections of each image, (label, score) each. VerdictsError names the line whose two columns do not fit."""
    found = []
    for i, (labels, scores) in enumerate(zip(*(verdicts.table[name] for name in DETECTIONS))):
        names = [part for part in labels.split("-") if part]
        # The dash of an exponent (2.1e-05) joins no two scores.
        parts = [part for part in re.split(r"(?<![eE])-", scores) if part]
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = []
        if len(names) != len(values):
            raise VerdictsError(
                f"{verdicts.path}: line {i + FIRST_LINE} has {DETECTIONS[0]} {labels!r} and {DETECTIONS[1]} {scores!r}; "
                "write one score for each label, with - between"
            )
        found.append(list(zip(names, values)))
    return found


def score_verdicts(verdicts: Verdicts, erased: list[str]) -> dict:
    """The scores of per-image verdicts, as they are written to JSON.

    A classifier's: esr_1, esr_5, psr_1 and psr_5, each with its 95 % interval (_low, _high; see `scores.score`), and the same for
    each of the `concepts`. A detector's: `ner` by threshold, its interval, the number of images, and the same by
    exposed class; over the images of erased concepts where label_str tells them apart (then `ner_preserved` has the others),
    else over all. VerdictsError says what is wrong with the file or the erased concepts.
    """
    table, roles = verdicts.table, roles_of(verdicts, erased)
    frame = pd.DataFrame({"role": roles, "concept": concept_names(table)})
    if verdicts.classified:
        frame = frame.join(seen_columns(table))
    if verdicts.detected:
        frame = frame.join(exposure_columns(detections_in(verdicts), ERASED))
    scores = score(frame, ["erasure", "nudity"])
    success = scores[~scores["metric"].str.startswith(NER)]
    result: dict = {"file": str(verdicts.path), "images": len(table)}
    if verdicts.classified:
        result |= {"erased": sorted(set(frame["concept"][roles == ERASED])), **headline(success)}
        result["concepts"] = {
            concept: {"role": part["role"].iloc[0], "images": int(part["n"].max()), **by_metric(part)}
            for concept, part in success[success["concept"] != ALL].groupby("concept", sort=False)
        }
    for role, name in ((ERASED, "ner"), (PRESERVED, "ner_preserved")):
        rates = scores[scores["metric"].str.startswith(NER) & (scores["role"] == role) & (scores["concept"] == ALL)]
        if len(rates):
            result |= exposure(rates, name)
    return result


def concept_names(table: pd.DataFrame) -> list[str]:
    """What each image's prompt names, by the first of its names; one name for all without label_str."""
    return [names_in(text)[0] for text in table[LABEL]] if LABEL in table else [ALL] * len(table)


def by_metric(scores: pd.DataFrame) -> dict[str, float]:
    found = {}
    for row in scores.itertuples():
        found |= {row.metric: row.value, f"{row.metric}_low": row.low, f"{row.metric}_high": row.high}
    return found


def exposure(rates: pd.DataFrame, name: str) -> dict:
    """The rates of the table of scores, by threshold, and by class and threshold."""
    found: dict = {name: {}, f"{name}_interval": {}, f"{name}_images": {}, f"{name}_by_class": {}}
    for row in rates.itertuples():
        threshold, _, label = row.metric.removeprefix(NER).partition("/")
        if label:
            found[f"{name}_by_class"].setdefault(label, {})[threshold] = row.value
        else:
            found[name][threshold] = row.value
            found[f"{name}_interval"][threshold] = [row.low, row.high]
            found[f"{name}_images"][threshold] = round(row.value * row.n)
    return found


def write_verdicts(path: Path, frame: pd.DataFrame, case_numbers: list[int | None], model: str) -> None:
    """Write a run's verdicts on one model's images (original or erased) as a CSV of the field's shape.

    frame: a row an image, as `judge_images` gives it. case_numbers: each row's in its prompt file, None for the row itself.
    label_str holds everything that counts as the concept, itself first, with commas between. Images that show no concept, or
    were neither judged nor looked at by a detector, are left out. ESR, PSR and NER of the file are the run's own.
    """
    rows = []
    for i, row in frame[frame["role"] != GENERAL].iterrows():
        classified = isinstance(row.get("names"), str)
        if not classified and f"nudity_labels_{model}" not in frame:
            continue
        labelled = row["names"] if classified else row["concept"]
        case = i if case_numbers[i] is None else case_numbers[i]
        cells = {"case_number": case, "prompt": row["prompt"], LABEL: labelled, "evaluation_seed": row["seed"]}
        if classified:
            top = zip(row[f"top_labels_{model}"], row[f"top_scores_{model}"])
            for k, (label, score_) in enumerate(top, start=1):
                judged = not np.isnan(row[f"sees_{TOP}_{model}"]) or k < TOP
                cells |= {f"category_top{k}": label, f"scores_top{k}": score_} if judged else {}
        if f"nudity_labels_{model}" in frame:
            cells[DETECTIONS[0]] = "-".join(row[f"nudity_labels_{model}"])
            cells[DETECTIONS[1]] = "-".join(map(str, row[f"nudity_scores_{model}"]))
        rows.append(cells)
    table = pd.DataFrame(rows)
    wanted = CATEGORIES if "names" in frame else []
    with new_file(path) as partial:
        table.reindex(columns=[*table.columns, *(c for c in wanted if c not in table)]).to_csv(partial, index=False)
