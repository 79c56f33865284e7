"""The matrices that closed-form methods are written with."""

from __future__ import annotations

ROWS = 2**16
"""So many rows at most are held in float64 together."""


def gram(left, right):
    """Σ_i left_i right_iᵀ over rows: [n, d], [n, d] → [d, d] in float64."""
    first, *others = (a.double().T @ b.double() for a, b in zip(left.split(ROWS), right.split(ROWS)))
    return sum(others, first)


def identity(weight):
    """I [d, d] for a projection W [o, d], of its type and on its device."""
    return weight.new_ones(weight.shape[1]).diag()
