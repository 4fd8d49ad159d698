"""Do probabilities and intervals mean what they say? Reliability bins, calibration error, coverage at every level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.evaluation.bootstrap import CELLS, Counts, Statistic
from service.evaluation.checks import (
    Array,
    labels_of,
    level_of,
    numbers,
    positive,
    probabilities_of,
    same_rows,
    whole,
    yes_or_no,
)
from service.evaluation.ties import Ties, before

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Bins of about equally many rows by confidence, rising; those that would be empty are left out. (bins,) each.

    rows:       how many rows the bin has.
    confidence: mean probability that was given.
    frequency:  share of these rows where it came true: the accuracy, for top labels.
    low, high:  least and most confidence in the bin.
    spread:     standard deviation of `frequency` if the confidences were true and rows independent.
    """

    rows: NDArray[np.int64]
    confidence: Array
    frequency: Array
    low: Array
    high: Array
    spread: Array

    @property
    def expected_error(self) -> float:
        """ECE: |frequency - confidence|, averaged over rows; from 0 to 1. 0 is best, but only ever reached by luck."""
        return float(np.abs(self.frequency - self.confidence) @ self.rows / self.rows.sum())

    @property
    def error_if_calibrated(self) -> float:
        """About the ECE that a perfectly calibrated predictor with these confidences has on as many rows, by chance.

        Only what an ECE has beyond that says anything. By the normal approximation, mean |Z| = sqrt(2/π).
        """
        return math.sqrt(2 / math.pi) * float(self.spread @ self.rows / self.rows.sum())


def top_label(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Each row's largest probability and whether its class is the label: (rows,), (rows,). Of equals the first."""
    p = probabilities_of(probabilities)
    y = labels_of(labels, *p.shape)
    return p.max(1), p.argmax(1) == y


def reliability(confidence: ArrayLike, came_true: ArrayLike, bins: int = BINS) -> Reliability:
    """Adaptive bins, of equal mass up to rounding. confidence, came_true: (rows,), or (rows, labels) for multilabel,
    where every cell counts. Equal confidences share a bin: that in which the middle one of them is.
    """
    c, y = _confidence(confidence, came_true)
    ties = Ties(c.ravel())
    ones = np.ones(c.size)
    at = _bins(ties.sums(ones), whole(bins, "bins"))[ties.values.searchsorted(c.ravel())]
    used, at = np.unique(at, return_inverse=True)
    rows = np.bincount(at)
    by_bin = [c.ravel()[at == k] for k in range(len(used))]
    return Reliability(
        rows, np.array([b.mean() for b in by_bin]), np.bincount(at, y.ravel()) / rows,
        np.array([b.min() for b in by_bin]), np.array([b.max() for b in by_bin]),
        np.array([math.sqrt((b * (1 - b)).sum()) / len(b) for b in by_bin]))


def calibration_error(confidence: ArrayLike, came_true: ArrayLike, bins: int = BINS) -> Statistic:
    """ECE as a statistic, on bins that are made anew for each resample; arguments as of `reliability`.

    Its percentile intervals are not to be relied upon. It is biased upwards by few rows, and a resample more so than
    the rows, so they lie too high, and a true error of 0 is never in them. Show the error
    beside `Reliability.error_if_calibrated`, and compare methods by log loss or Brier score, whose intervals hold.
    Source: Naeini et al. 2015; equal mass: Nixon et al. 2019, arXiv 1904.01685.
    """
    c, y = _confidence(confidence, came_true)
    whole(bins, "bins")
    ties = Ties(c.ravel())
    row_of_cell = np.arange(c.size) // (c.size // len(c))
    hit = y.ravel().astype(np.float64)

    def some(counts: Counts) -> Array:
        cells = counts[:, row_of_cell]
        sizes = ties.sums(cells)
        gaps = ties.sums(cells * hit) - sizes * ties.values
        at = _bins(sizes, bins) + np.arange(len(counts))[:, None] * bins
        by_bin = np.bincount(at.ravel(), gaps.ravel(), len(counts) * bins).reshape(-1, bins)
        return np.abs(by_bin).sum(1) / sizes.sum(1)

    def value(counts: Counts) -> Array:
        step = max(1, CELLS // c.size)
        return np.concatenate([some(counts[start: start + step]) for start in range(0, len(counts), step)])

    return Statistic((len(c),), value)


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> float:
    """Top-label ECE of a classifier, (rows, classes), on adaptive bins: from 0 to 1, lower is better.

    It says nothing of the other classes, nor of how good the predictor is: one that always answers with the share of
    the commonest class has 0.
    """
    return reliability(*top_label(probabilities, labels), bins).expected_error


@dataclass(frozen=True)
class IntervalCoverage:
    """For each asked level, the share of rows in their intervals, and the intervals' mean width: (levels,) each.

    level, coverage: from 0 to 1. width: in the target's unit.
    """

    level: Array
    coverage: Array
    width: Array


LEVELS = tuple(k / 20 for k in range(1, 20))


def gaussian_interval_coverage(mean: ArrayLike, total_std: ArrayLike, target: ArrayLike,
                               levels: Sequence[float] = LEVELS) -> IntervalCoverage:
    """Of the central intervals of Gaussians of mean and total_std, (rows,): mean ± z·total_std, ends let in."""
    m, s, y = numbers(mean, "mean"), positive(total_std, "total_std"), numbers(target, "target")
    same_rows(mean=m, total_std=s, target=y)
    z = np.array([NormalDist().inv_cdf((1 + level_of(level, "levels")) / 2) for level in levels])
    with np.errstate(over="ignore"):
        away = np.sort(np.abs(y - m) / s)
    return IntervalCoverage(np.array(levels, np.float64), away.searchsorted(z, "right") / len(away), 2 * z * s.mean())


def _confidence(confidence: ArrayLike, came_true: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    axes = "rows, labels" if np.ndim(confidence) == 2 else "rows"
    c = probabilities_of(confidence, axes, "confidence")
    y = yes_or_no(came_true, "came_true", axes)
    same_rows(confidence=c, came_true=y)
    return c, y


def _bins(sizes: Array, bins: int) -> NDArray[np.int64]:
    """Sizes of groups, (…, groups), to their bins from 0: by the rank of a group's middle, exactly."""
    middle = (2 * before(sizes) + sizes) * bins // (2 * sizes.sum(-1, keepdims=True))
    return np.minimum(middle, bins - 1).astype(np.int64)  # what no row is in may lie beyond the last
