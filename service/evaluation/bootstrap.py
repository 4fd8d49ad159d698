"""How far a statistic may be off because there were only so many rows: percentile bootstrap, paired over methods.

A resample draws as many rows as there are, with replacement. It is kept as how often each row came, and a statistic is
a function of such counts. So rows are sorted once and not for each resample, and all methods see the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.evaluation.checks import Array, level_of, numbers, whole

Key = TypeVar("Key", bound=Hashable)
Counts = NDArray[np.float64]  # (resamples, rows): how often each row is in a resample, whole numbers

CELLS = 2**20  # counts at once: 8 MiB, of which a statistic makes a few copies


@dataclass(frozen=True)
class Statistic:
    """A number that is computed from rows, whose value on any resample is asked for by counts.

    sets:  rows of each set that is resampled by itself: (rows,), or two for what compares two sets.
    value: counts (resamples, rows of all sets) to (resamples,). That of counts is that of rows which are repeated as
           often; each set has at least one row in them.
    """

    sets: tuple[int, ...]
    value: Callable[[Counts], Array]

    def once(self) -> float:
        """Of the rows as they are."""
        return float(self.value(np.ones((1, sum(self.sets))))[0])


def mean_of(values: ArrayLike) -> Statistic:
    """Average over rows of (rows,). Infinities of one sign are let in, and a resample that has any is infinite."""
    each = numbers(values, "values", finite=False)
    if np.isposinf(each).any() and np.isneginf(each).any():
        raise ValueError("values: infinities of one sign expected, got both, which have no mean")
    infinite = np.isinf(each)
    limit = each[infinite][0] if infinite.any() else 0.0
    finite = np.where(infinite, 0.0, each)

    def value(counts: Counts) -> Array:
        mean = counts @ finite / counts.sum(1)
        return np.where(counts[:, infinite].any(1), limit, mean)

    return Statistic((len(each),), value)


def root_mean_of(squares: ArrayLike) -> Statistic:
    """Root of the average over rows: RMSE, of squared errors (rows,). ValueError for numbers below 0."""
    each = numbers(squares, "squares", finite=False)
    if (each < 0).any():
        raise ValueError(f"squares: numbers not below 0 expected, got {each.min():g}")
    mean = mean_of(each)
    return Statistic(mean.sets, lambda counts: np.sqrt(mean.value(counts)))


def one_minus(statistic: Statistic) -> Statistic:
    """1 - it: accuracy, of an error rate."""
    return Statistic(statistic.sets, lambda counts: 1 - statistic.value(counts))


@dataclass(frozen=True)
class Interval:
    """A statistic and where `level` of its resamples lie, between low and high, in the statistic's unit.

    It says how much the choice of test rows may have moved the estimate, nothing of another choice of training rows,
    seed or population. Not defined, and then NaN, where resamples are: the difference of two infinities.
    """

    estimate: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Bootstrapped(Generic[Key]):
    """Values of several statistics on the same resamples. estimates: on the rows as they are.

    resampled: (resamples,) each, in the same order of resamples, so that differences row by row are paired.
    """

    estimates: Mapping[Key, float]
    resampled: Mapping[Key, Array]
    level: float

    def interval(self, key: Key) -> Interval:
        """Percentile interval of one statistic."""
        return percentile_interval(self.estimates[key], self.resampled[key], self.level)

    def difference(self, key: Key, other: Key) -> Interval:
        """Percentile interval of the first less the second. Much narrower than the two intervals suggest where the
        methods fail on the same rows. One without 0 in it says that the difference is not an accident of the rows."""
        with np.errstate(invalid="ignore"):  # of two infinities: NaN
            estimate = float(np.float64(self.estimates[key]) - np.float64(self.estimates[other]))
            return percentile_interval(estimate, self.resampled[key] - self.resampled[other], self.level)


def bootstrap(statistics: Mapping[Key, Statistic], resamples: int = 2000, seed: int = 0,
              level: float = 0.95) -> Bootstrapped[Key]:
    """Values of statistics, all of the same rows in the same order, on the same resamples.

    Rows are taken to be independent: where several belong together (frames of one video, visits of one patient), the
    intervals are too narrow. With few rows percentile intervals hold the truth less often than `level`; of a
    statistic that few rows bias they lie too far on the biased side, of calibration error so far as to be of no use.
    Where all rows are alike, no resample differs and the interval has no width: no error in 100 rows gives 0 to 0,
    while the true rate may well be 3 %. `proportions.proportion_interval` is right there.
    Memory is bounded: it grows with rows and with resamples, not with their product. The same seed gives the same
    resamples with the same version of numpy, whatever the statistics. Source: Efron 1979.
    ValueError unless there is a statistic, all have the same rows, and there are enough resamples for the level.
    """
    whole(resamples, "resamples")
    whole(seed, "seed", 0)
    level_of(level)
    if not statistics:
        raise ValueError("statistics: at least one expected, got none")
    needed = math.ceil(2 / (1 - level) - 1e-9)  # at least one resample beyond either end
    if resamples < needed:
        raise ValueError(f"resamples: at least {needed} expected at level {level:g}, got {resamples}")
    first, sets = next((key, statistic.sets) for key, statistic in statistics.items())
    for key, statistic in statistics.items():
        if statistic.sets != sets:
            raise ValueError(f"statistics: the rows of {first!r}, {list(sets)}, expected, got {list(statistic.sets)} "
                             f"of {key!r}")
    resampled = {key: np.empty(resamples) for key in statistics}
    start = 0
    for counts in drawn(sets, resamples, seed):
        for key, statistic in statistics.items():
            resampled[key][start: start + len(counts)] = statistic.value(counts)
        start += len(counts)
    return Bootstrapped({key: statistic.once() for key, statistic in statistics.items()}, resampled, level)


def drawn(sets: tuple[int, ...], resamples: int, seed: int) -> Iterator[Counts]:
    """Counts of all resamples, (some, rows of all sets) at a time. Each set has a stream of its own, so that resamples
    do not depend on how many there are at a time."""
    streams = [np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(len(sets))]
    step = max(1, CELLS // sum(sets))
    for start in range(0, resamples, step):
        some = min(step, resamples - start)
        yield np.concatenate([_counts(stream, rows, some) for stream, rows in zip(streams, sets, strict=True)], axis=1)


def _counts(stream: np.random.Generator, rows: int, resamples: int) -> Counts:
    rows_drawn = stream.integers(rows, size=(resamples, rows))
    rows_drawn += np.arange(resamples)[:, None] * rows
    return np.bincount(rows_drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def percentile_interval(estimate: float, resampled: Array, level: float) -> Interval:
    """Between two order statistics of the resamples, with the same number of them beyond either end; nothing is
    interpolated, so infinite ones are no trouble. NaN where any is NaN."""
    if np.isnan(estimate) or np.isnan(resampled).any():
        return Interval(estimate, np.nan, np.nan, level)
    ordered = np.sort(resampled)
    beyond = min(int(len(ordered) * (1 - level) / 2 + 1e-9), (len(ordered) - 1) // 2)
    return Interval(estimate, float(ordered[beyond]), float(ordered[len(ordered) - 1 - beyond]), level)
