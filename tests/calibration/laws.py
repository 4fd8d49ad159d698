"""Data whose law is known, so that promises can be held against the truth."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def drawn(p: Array, g: np.random.Generator) -> Array:
    """A class for each row (…, classes), with these probabilities."""
    return (g.random((*p.shape[:-1], 1)) > p.cumsum(-1)[..., :-1]).sum(-1)


def overconfident(
    shape: tuple[int, ...], classes: int, g: np.random.Generator, sure: float = 2.0
) -> tuple[Array, Array]:
    """Probabilities (…, classes) of a network that is `sure` times as sure as it may be, and labels (…)."""
    z = 1.5 * g.standard_normal((*shape, classes))
    return softmax(sure * z), drawn(softmax(z), g)


def sampled_logits(samples: int, rows: int, classes: int, g: np.random.Generator, spread: float = 1.0) -> Array:
    """(samples, rows, classes)"""
    centre = 2 * g.standard_normal((1, rows, classes))
    return centre + spread * g.standard_normal((samples, rows, classes))
