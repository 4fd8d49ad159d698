"""Rows whose truth is known: made from a seed."""

from __future__ import annotations

import numpy as np

from service.evaluation.checks import Array


def classified(rows: int = 300, classes: int = 4, seed: int = 0) -> tuple[Array, np.ndarray]:
    """Probabilities (rows, classes) and labels that are drawn from them: perfectly calibrated."""
    random = np.random.default_rng(seed)
    raw = np.exp(2 * random.normal(size=(rows, classes)))
    probabilities = raw / raw.sum(1, keepdims=True)
    labels = (random.random((rows, 1)) > probabilities.cumsum(1)).sum(1).clip(max=classes - 1)
    return probabilities, labels


def measured(rows: int = 300, seed: int = 0) -> tuple[Array, Array, Array]:
    """Mean, total_std and targets that are drawn from them."""
    random = np.random.default_rng(seed)
    mean, std = random.normal(5, 3, rows), random.uniform(0.5, 2, rows)
    return mean, std, random.normal(mean, std)
