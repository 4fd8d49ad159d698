"""Exact intervals of a share, for where a bootstrap has nothing to vary: no error in 100 rows is not "no error"."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from service.evaluation.bootstrap import Interval
from service.evaluation.checks import Array, level_of, whole

HALVINGS = 60  # of [0, 1]: beyond the precision of the sums


def proportion_interval(hits: int, rows: int, level: float = 0.95) -> Interval:
    """The true share, of which `hits` in `rows` independent rows were seen, by Clopper & Pearson 1934.

    It holds the true share at least as often as `level`, with however few rows, and is somewhat wide for that. Time and
    memory grow with rows. Accuracy and coverage of intervals and sets are such shares.
    ValueError unless there is a row and hits are from 0 to rows.
    """
    n, h = whole(rows, "rows"), whole(hits, "hits", 0)
    if h > n:
        raise ValueError(f"hits: an integer from 0 to {n} expected, got {h}")
    each_side = (1 - level_of(level)) / 2
    k = np.arange(n + 1.0)
    factorials = np.concatenate(([0.0], np.log(k[1:]).cumsum()))
    ways = factorials[n] - factorials - factorials[::-1]

    def probability(share: float, some: slice) -> float:
        """That as many hits as in `some` are seen where `share` is the truth."""
        terms: Array = ways[some] + k[some] * np.log(share) + (n - k[some]) * np.log1p(-share)
        return float(np.exp(terms).sum())

    low = 0.0 if h == 0 else _crossing(lambda share: probability(share, slice(h, None)) > each_side)
    high = 1.0 if h == n else _crossing(lambda share: probability(share, slice(h + 1)) < each_side)
    return Interval(h / n, low, high, level)


def _crossing(beyond: Callable[[float], bool]) -> float:
    """Where in (0, 1) it begins to be so, for something that stays so."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return (low + high) / 2
