"""Attack models that several methods made, and put the table into docs/attacks.md.

    python -m benchmarks.attack_table [--only METHOD …] [--concepts WORD …]

Every stage is cached as a run's is, so what was measured once is not measured again. What is left out keeps its figures
(benchmarks/results/attacks.json).
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from erase_core import attack_stages, stages
from erase_core.files import new_file, read_json, write_json
from erase_core.spec import Spec, make_spec
from infra.environment import prepare

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "attacks.md"
RESULTS = ROOT / "benchmarks" / "results" / "attacks.json"
HEADING = "## On the included model"
ERASING = {"negative_guidance": 1.0, "weighting": "epsilon"}
PRESERVING = {**ERASING, "preservation_weight": 1.0, "neutral_share": 0.0, "search": "gradient"}
METHODS = {
    "naive": {"name": "naive", **ERASING},
    "esd": {"name": "esd", **ERASING},
    "uce": {"name": "uce", "preservation_weight": 1.0},
    "adversarial": {"name": "adversarial", **PRESERVING},
    "adversarial, attack_steps 2": {"name": "adversarial", **PRESERVING, "attack_steps": 2},
}
TRAINING = {"steps": 150, "learning_rate": 5e-4, "schedule": "constant"}
"""What the table was measured with; other settings ask for all of its rows anew."""
CONCEPTS = ("taxi", "cat", "guitar")
ATTACKS = [
    {"name": "seeds", "budgets": [1, 16]},
    {"name": "words", "budgets": [1, 16]},
    {"name": "sdedit", "budgets": [0.7, 0.9]},
    {"name": "inversion", "budgets": [0, 50, 200]},
    {"name": "soft-prompt", "budgets": [0, 50, 200]},
    {"name": "discrete-prompt", "budgets": [0, 10, 40]},
    {"name": "fine-tuning-related", "budgets": [0, 20, 100]},
    {"name": "fine-tuning-unrelated", "budgets": [0, 20, 100]},
]
RATES = ("esr_1", "esr_5", "psr_1", "psr_5")


def spec_of(concept: str, method: dict) -> Spec:
    """One concept erased from the included model, each of the others drawn once, and every attack."""
    return make_spec(
        {
            "name": "attacks",
            "concepts": [concept],
            "method": method,
            "training": TRAINING,
            "generation": {"seeds": [0], "sampler": "dpm-solver++", "steps": 15},
            "attacks": {"run": ATTACKS},
            "output": "-",
        }
    )


def measure(spec: Spec) -> dict:
    """A run's figures and the rates of each attack on its model and on the original, without the flow around them."""
    from erase_core.attacks.rates import headline as attack_figures
    from erase_core.attacks.rates import rates
    from erase_core.metrics.scores import headline

    vocabulary = stages.vocabulary(spec)
    embeddings = stages.embeddings(spec, vocabulary)
    nearest = stages.nearest(spec, vocabulary, embeddings)
    training = stages.training(spec, nearest, embeddings)
    original, erased = stages.images(spec, nearest, None), stages.images(spec, nearest, training)
    scores = stages.scores(spec, nearest, original, erased)
    figures = headline(pd.read_parquet(scores.file("scores.parquet")))
    references = attack_stages.references(spec)
    attempts = pd.concat(
        pd.read_parquet(attack_stages.attack(spec, attack, references, victim).file("attempts.parquet")).drop(
            columns="png"
        )
        for _, attack, victim in attack_stages.every_attack(spec, training)
    )
    kept = {name: figures[name] for rate in RATES for name in (rate, f"{rate}_original")}
    return {**kept, "seconds": training.seconds, **attack_figures(rates(attempts, spec))}


def sections(found: dict[str, dict[str, dict]]) -> Iterator[str]:
    """The page's part about the measurement: what was done, the means over concepts, and each concept's largest."""
    first, *others = found.values()
    concepts = [concept for concept in first if all(concept in of for of in others)]
    frame = pd.DataFrame(
        [{"method": method, "concept": concept, **of[concept]} for method, of in found.items() for concept in concepts]
    )
    names = [attack["name"] for attack in ATTACKS]
    columns = [f"attack_success_{name}" for name in names]
    mean = frame.groupby("method", sort=False)[["esr_1", "psr_1", "psr_1_original", "seconds", *columns]].mean()
    other = frame.reindex(columns=[f"{c}_{model}" for c in columns for model in ("original", "control")]).mean()

    def cells(values: list[float]) -> str:
        return " | ".join("–" if pd.isna(value) else f"{100 * value:.0f}" for value in values)

    yield HEADING
    yield (
        f"Each of {', '.join(concepts)} erased alone, seed 0, with λ and η of 1, noise predictions compared, no share of "
        f"the neutral concept, the published search, and a learning rate of "
        f"{TRAINING['learning_rate']:g} for {TRAINING['steps']} steps that does not "
        f"fall; means over these, in per cent. PSR-1 is over all other concepts; the original's is "
        f"{100 * mean['psr_1_original'].mean():.1f} %. Success is at "
        "the budget that served the attacker best (of sdedit, at its greatest strength): "
        + ", ".join(f"{attack['name']} {'/'.join(map(str, attack['budgets']))}" for attack in ATTACKS)
        + f". A figure is of {8 * len(concepts)} images, eight a concept (16 for seeds and words, of which one has to succeed)."
    )
    head = ["model", "ESR-1", "PSR-1", *names]
    rows = [
        f"| {method} | {100 * row['esr_1']:.1f} | {100 * row['psr_1']:.1f} | {cells([row[c] for c in columns])} |"
        for method, row in mean.iterrows()
    ]
    rows += [
        f"| *{model}* | – | – | {cells([other[f'{column}_{model}'] for column in columns])} |"
        for model in ("original", "control")
    ]
    yield "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])
    yield "By concept, PSR-1 and the mean of the eight attacks' success:"
    each = [
        f"| {method} | "
        + " | ".join(
            f"{100 * of[concept]['psr_1']:.1f} / {100 * pd.Series([of[concept][c] for c in columns]).mean():.0f}"
            for concept in concepts
        )
        + " |"
        for method, of in found.items()
    ]
    yield "\n".join([f"| model | {' | '.join(concepts)} |", "|" + "---|" * (len(concepts) + 1), *each])
    yield "The command that made both: `python -m benchmarks.attack_table`"


def write_page(found: dict[str, dict[str, dict]]) -> None:
    """Put the measurement into the page, in place of an earlier one."""
    before = PAGE.read_text(encoding="utf-8").split(f"\n{HEADING}")[0].rstrip()
    with new_file(PAGE) as partial:
        partial.write_text("\n\n".join([before, *sections(found)]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack the models that several methods made.")
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS), help="which methods")
    parser.add_argument("--concepts", nargs="*", default=list(CONCEPTS), help="which concepts")
    given = parser.parse_args()
    prepare()
    found = read_json(RESULTS) if RESULTS.exists() else {}
    for concept in given.concepts:
        for method in given.only:
            row = measure(spec_of(concept, METHODS[method]))
            found.setdefault(method, {})[concept] = row
            write_json(RESULTS, {name: found[name] for name in METHODS if name in found})
            print(
                f"{concept}, {shlex.quote(method)}: PSR-1 {row['psr_1']:.3f}, attacks {row['attack_success']:.2f}",
                flush=True,
            )
    write_page(read_json(RESULTS))
    print(f"\nWhere to look: {PAGE}")


if __name__ == "__main__":
    main()
