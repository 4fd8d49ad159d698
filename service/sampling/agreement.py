"""How far apart two ways of computing the same outputs may be."""

from __future__ import annotations

from torch import Tensor

from service.statistics import Task

AGREEMENT = 1e-5  # of an output's scale
_LEAST = 1e-30


def scale_of(values: Tensor, task: Task = "generic") -> Tensor | float:
    """What errors of outputs (n, …) are measured by: 1 for probabilities; else the largest magnitude that each output
    has in any of the n. Outputs have scales of their own: by that of the largest, a wrong small one would be right."""
    if task in ("classification", "multilabel"):
        return 1.0
    return values.abs().amax(0).clamp_min(_LEAST)


def furthest(one: Tensor, other: Tensor, scale: Tensor | float) -> float:
    """The largest difference, in scales; NaN where any number is no number."""
    return float(((one - other).abs() / scale).max())


def agree(one: Tensor, other: Tensor, scale: Tensor | float) -> bool:
    return furthest(one, other, scale) <= AGREEMENT
