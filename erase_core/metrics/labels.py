"""Which labels of a classifier stand for a concept."""

from __future__ import annotations


def matching_labels(labels: list[str], names: list[str]) -> set[str]:
    """Labels one of whose comma-separated names ("cab, hack, taxi") is one of `names`; case is ignored."""
    wanted = {name.casefold() for name in names}
    return {label for label in labels if wanted & {part.strip().casefold() for part in label.split(",")}}
