"""Split conformal prediction: sets of classes and intervals that hold the truth with probability 1 - alpha.

The promise is over draws of calibration rows and one more row together, all exchangeable, whatever the network: P(truth
inside) ≥ 1 - alpha. Given the calibration rows, the share of further rows inside follows Beta(k, n + 1 - k) with
k = ceil((n + 1)(1 - alpha)) where scores have no ties, and is greater otherwise: with few rows it may well be under
1 - alpha. It is marginal: it does not hold row by row, nor for groups of rows, nor for rows that something accepted,
and for a class only where it was asked for class by class. Calibration rows must have fitted nothing.
Sources: Vovk, Gammerman & Shafer 2005; Sadinle, Lei & Wasserman 2019 (LAC); Romano, Sesia & Candès 2020 (APS);
Lei et al. 2018 (intervals); Vovk 2012 (the law given the calibration rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from service.calibration.checks import Bools, Floats, class_labels, finite, positive, probabilities, same_shape, share
from service.errors import CalibrationRefused, InvalidInput, InvalidOption

SetMethod = Literal["lac", "aps"]


def least_calibration_rows(alpha: float) -> int:
    """The fewest rows, 1/alpha - 1, whose scores have such a quantile: 9, 19 and 99 at .1, .05 and .01."""
    share(alpha, "alpha")
    return ceil(1 / _as_written(alpha)) - 1


def quantile_rank(rows: int, alpha: float) -> int:
    """ceil((rows + 1)(1 - alpha)), of alpha as it is written: .1 is a tenth. Over `rows` where there are too few."""
    share(alpha, "alpha")
    return rows + 1 - floor((rows + 1) * _as_written(alpha))


def conformal_quantile(scores: ArrayLike, alpha: float, of: str = "") -> float:
    """The quantile_rank-th smallest of the scores (rows,). Equal scores count each by itself. `of`: whose they are, for
    the message.

    Errors: CalibrationRefused, with the number that is needed, where there are too few.
    """
    needed = least_calibration_rows(alpha)
    rows = np.size(scores)
    if rows < needed:
        raise CalibrationRefused(f"alpha = {alpha:g} needs at least {needed} calibration rows{of}, got {rows}", needed)
    array = finite(scores, "scores", 1)
    rank = quantile_rank(rows, alpha)
    return float(np.partition(array, rank - 1)[rank - 1])


@dataclass(frozen=True)
class PredictionSets:
    """members: which classes are in, (rows, classes). empty: where the rule left none, (rows,): no class is as
    likely as nearly all right ones were. `members` holds every class there. An empty set would be read as
    "no hazard", and the likeliest class alone as "certain", where the network is least so; all classes are safe however
    they are read."""

    members: Bools
    empty: Bools


@dataclass(frozen=True)
class ConformalSets:
    """A class is in the set if its score is at most its threshold. thresholds: one, or one a class if
    `class_conditional`. calibration_rows: as many, those behind each."""

    method: SetMethod
    alpha: float
    class_conditional: bool
    thresholds: tuple[float, ...]
    calibration_rows: tuple[int, ...]
    classes: int

    def sets(self, values: ArrayLike) -> PredictionSets:
        """values: probabilities (rows, classes), made as those of the calibration were."""
        p = probabilities(values)
        if p.shape[1] != self.classes:
            raise InvalidInput.at("probabilities", f"{self.classes} classes expected, got {p.shape[1]}")
        members = class_scores(p, self.method) <= np.asarray(self.thresholds)
        empty = ~np.any(members, axis=1, keepdims=True)
        return PredictionSets(members | empty, empty[:, 0])


def class_scores(p: Floats, method: SetMethod) -> Floats:
    """How little each class fits, (rows, classes), from probabilities of that shape.

    lac: 1 - p. aps: the probability of all classes that are likelier than it, without its own, so the likeliest has 0.
    That is the set of the likeliest classes that reaches a level, the class that crosses it included, and never empty.
    Classes of equal probability have equal scores. Nothing is drawn: the same row always has the same set.
    """
    if method == "lac":
        return 1 - p
    order = np.argsort(-p, 1, kind="stable")
    falling = np.take_along_axis(p, order, 1)
    before = np.zeros_like(p)
    np.cumsum(falling[:, :-1], 1, out=before[:, 1:])
    leads = np.ones(p.shape, dtype=np.bool_)  # the first of equal ones speaks for them
    leads[:, 1:] = falling[:, 1:] != falling[:, :-1]
    leader = np.maximum.accumulate(np.where(leads, np.arange(p.shape[1]), 0), 1)
    before = np.take_along_axis(before, leader, 1)
    scores = np.empty_like(p)
    np.put_along_axis(scores, order, before, 1)
    return scores


def calibrate_sets(
    values: ArrayLike, labels: ArrayLike, alpha: float, *, method: SetMethod = "lac", class_conditional: bool = False
) -> ConformalSets:
    """Thresholds such that sets hold the true class with probability at least 1 - alpha.

    lac gives the smallest sets on average and may leave none (see PredictionSets); aps adapts to how spread a row's
    probabilities are. Where the likeliest class is right for at least 1 - alpha of the rows, aps gives it alone and
    covers that share. class_conditional: the promise holds for each class by itself, and takes rows of each.

    Args:   values: probabilities (rows, classes); labels: (rows,), classes from 0.
    Errors: InvalidInput names the first wrong place; CalibrationRefused says how many rows it takes, of which class.
    """
    if method not in ("lac", "aps"):
        raise InvalidOption.at("method", f"'lac' or 'aps' expected, got {method!r}")
    share(alpha, "alpha")
    p = probabilities(values)
    rows, classes = p.shape
    truth = class_labels(labels, rows, classes)
    scores = class_scores(p, method)[np.arange(rows), truth]
    if class_conditional:
        parts = [scores[truth == c] for c in range(classes)]
        names = [f" of class {c}" for c in range(classes)]
    else:
        parts, names = [scores], [""]
    thresholds = tuple(conformal_quantile(part, alpha, name) for part, name in zip(parts, names, strict=True))
    return ConformalSets(method, alpha, class_conditional, thresholds, tuple(map(len, parts)), classes)


@dataclass(frozen=True)
class ConformalIntervals:
    """mean ± factor · scale. factors: one a target. The promise is for each target by itself."""

    alpha: float
    factors: tuple[float, ...]
    calibration_rows: int

    def intervals(self, means: ArrayLike, scales: ArrayLike) -> tuple[Floats, Floats]:
        """Lower and upper ends, of the shape of `means`: (rows,) or (rows, targets), in the targets' units."""
        mean = finite(means, "means", (1, 2))
        scale = positive(scales, mean.shape, "scales")
        if mean.shape[1:] not in ((len(self.factors),), *([()] if len(self.factors) == 1 else [])):
            raise InvalidInput.at("means", f"{len(self.factors)} targets expected, got {list(mean.shape[1:])}")
        half = np.asarray(self.factors if mean.ndim == 2 else self.factors[0]) * scale
        return mean - half, mean + half


def calibrate_intervals(targets: ArrayLike, means: ArrayLike, scales: ArrayLike, alpha: float) -> ConformalIntervals:
    """Factors from scores |target - mean| / scale, such that intervals hold the target with probability at least
    1 - alpha. The scale (`total_std`, or `std` where the noise is unknown) decides where intervals are wide, never how
    often they hold.

    Args:   targets, means, scales: of one shape, (rows,) or (rows, targets); scales over 0.
    Errors: InvalidInput names the first wrong place; CalibrationRefused says how many rows it takes.
    """
    y = finite(targets, "targets", (1, 2))
    mean = finite(means, "means", (1, 2))
    same_shape(mean, y.shape, "means")
    scores = np.abs(y - mean) / positive(scales, y.shape, "scales")
    columns = scores.reshape(len(scores), -1).T
    return ConformalIntervals(alpha, tuple(conformal_quantile(column, alpha) for column in columns), len(scores))


def _as_written(alpha: float) -> Fraction:
    return Fraction(repr(float(alpha)))
