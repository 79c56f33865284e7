"""The matrices that closed-form methods are written with."""

from __future__ import annotations


def gram(left, right):
    """Σ_i left_i right_iᵀ over rows: [n, d], [n, d] → [d, d]."""
    return left.T @ right


def identity(weight):
    """I [d, d] for a projection W [o, d], of its type and on its device."""
    return weight.new_ones(weight.shape[1]).diag()
