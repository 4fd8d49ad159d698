"""How good predictions were, once the truth is known: one number for each row, and their averages.

What ends in `s` gives the rows' own numbers, of which `bootstrap.mean_of` makes a statistic with an interval.
All logarithms are natural. ValueError says what was expected and what came: nothing is dropped, clipped or guessed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.evaluation.checks import (
    Array,
    labels_of,
    numbers,
    positive,
    probabilities_of,
    same_rows,
    yes_or_no,
)

CELLS = 2**20  # numbers at once, of which there are a few copies: some tens of megabytes

# --- classification: probabilities (rows, classes), labels (rows,) from 0 to classes - 1


def class_errors(probabilities: ArrayLike, labels: ArrayLike) -> Array:
    """1 where the most probable class is not the label, else 0: (rows,). Of equals the first, as the server answers."""
    p, y = _classification(probabilities, labels)
    return (p.argmax(1) != y).astype(np.float64)


def log_losses(probabilities: ArrayLike, labels: ArrayLike) -> Array:
    """-log of the probability that was given to the label, nats: (rows,), from 0 up.

    Infinite where that probability is 0: it was called impossible and happened. Clip the probabilities beforehand if
    that shall not decide, and say to what.
    """
    p, y = _classification(probabilities, labels)
    return _surprise(p[np.arange(len(y)), y])


def brier_scores(probabilities: ArrayLike, labels: ArrayLike) -> Array:
    """Squared distance of the probabilities from the label's 0s and 1, summed over classes: (rows,), from 0 to 2.

    With two classes that is twice what some call the Brier score. Source: Brier 1950.
    """
    p, y = _classification(probabilities, labels)
    p[np.arange(len(y)), y] -= 1
    return (p**2).sum(1)


def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Share of rows whose most probable class is the label; higher is better."""
    return 1 - float(class_errors(probabilities, labels).mean())


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of `log_losses`, nats a row; lower is better. One row at probability 0 makes it infinite."""
    return float(log_losses(probabilities, labels).mean())


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean of `brier_scores`, from 0 to 2; lower is better."""
    return float(brier_scores(probabilities, labels).mean())


# --- multilabel: probabilities (rows, labels), each a yes-or-no of its own, truth (rows, labels) of 0 and 1


def hamming_losses(probabilities: ArrayLike, truth: ArrayLike) -> Array:
    """Share of a row's labels that are on the wrong side of 0.5, which itself says no: (rows,), from 0 to 1."""
    p, y = _multilabel(probabilities, truth)
    return ((p > 0.5) != y).mean(1)


def subset_errors(probabilities: ArrayLike, truth: ArrayLike) -> Array:
    """1 where any label of the row is on the wrong side of 0.5, else 0: (rows,)."""
    p, y = _multilabel(probabilities, truth)
    return ((p > 0.5) != y).any(1).astype(np.float64)


def binary_log_losses(probabilities: ArrayLike, truth: ArrayLike) -> Array:
    """-log of the probability of what was true, nats, averaged over the labels: (rows,).

    Infinite where any label had probability 0. Times the number of labels it is the row's joint surprise under
    independent labels.
    """
    p, y = _multilabel(probabilities, truth)
    return _surprise(np.where(y, p, 1 - p)).mean(1)


def binary_brier_scores(probabilities: ArrayLike, truth: ArrayLike) -> Array:
    """Squared distance of the probability from 0 or 1, averaged over the labels: (rows,), from 0 to 1."""
    p, y = _multilabel(probabilities, truth)
    return ((p - y) ** 2).mean(1)


# --- regression: one target, (rows,), in its unit; more targets are evaluated one by one


def squared_errors(mean: ArrayLike, target: ArrayLike) -> Array:
    """In the target's unit squared: (rows,)."""
    m, y = _regression(mean, target)
    return (m - y) ** 2


def absolute_errors(mean: ArrayLike, target: ArrayLike) -> Array:
    """In the target's unit: (rows,)."""
    m, y = _regression(mean, target)
    return np.abs(m - y)


def root_mean_squared_error(mean: ArrayLike, target: ArrayLike) -> float:
    """In the target's unit; lower is better, and large errors weigh more than in the mean absolute error."""
    return math.sqrt(float(squared_errors(mean, target).mean()))


def mean_absolute_error(mean: ArrayLike, target: ArrayLike) -> float:
    """In the target's unit; lower is better."""
    return float(absolute_errors(mean, target).mean())


def gaussian_log_densities(mean: ArrayLike, total_std: ArrayLike, target: ArrayLike) -> Array:
    """Log density of the target under a Gaussian of mean and total_std: (rows,), in nats, per unit of the target.

    It depends on the unit: in metres it is log(1000) higher than in millimetres. total_std includes the noise; the
    dropout standard deviation alone is no predictive distribution. ValueError where it is not above 0.
    """
    m, y = _regression(mean, target)
    s = positive(total_std, "total_std")
    same_rows(mean=m, total_std=s)
    return _log_density(y, m, s)


def gaussian_log_likelihood(mean: ArrayLike, total_std: ArrayLike, target: ArrayLike) -> float:
    """Mean of `gaussian_log_densities`, nats a row; higher is better."""
    return float(gaussian_log_densities(mean, total_std, target).mean())


def mixture_log_densities(samples: ArrayLike, noise_std: ArrayLike, target: ArrayLike) -> Array:
    """Log density of the target under an equal mixture of Gaussians, one around each sample: (rows,), in nats.

    samples: (samples, rows). noise_std: one number, (rows,), or (samples, rows). This is log of the mean over samples
    of the density, computed without underflow. With few samples it is biased low. Source: Gal & Ghahramani 2016,
    arXiv 1506.02142, eq. 8.
    """
    x, y = numbers(samples, "samples", "samples, rows"), numbers(target, "target")
    if x.shape[1] != len(y):
        raise ValueError(f"samples: {len(y)} rows, as target has, expected, got {x.shape[1]}")
    axes = ("", "rows", "samples, rows")[min(np.ndim(noise_std), 2)]
    noise = positive(np.atleast_1d(noise_std), "noise_std", axes or "rows")
    if axes and noise.shape != x.shape[2 - noise.ndim:]:
        raise ValueError(f"noise_std: one number, [{len(y)}] or {list(x.shape)} expected, got {list(noise.shape)}")
    noise = np.broadcast_to(noise, x.shape)
    found = np.empty(len(y))
    step = max(1, CELLS // len(x))
    for start in range(0, len(y), step):
        part = slice(start, start + step)
        each = _log_density(y[part], x[:, part], noise[:, part])
        most = each.max(0)
        possible = most > -np.inf  # else the density is 0 to the last bit of every sample
        found[part] = most
        found[part][possible] += np.log(np.exp(each[:, possible] - most[possible]).mean(0))
    return found


def mixture_log_likelihood(samples: ArrayLike, noise_std: ArrayLike, target: ArrayLike) -> float:
    """Mean of `mixture_log_densities`, nats a row; higher is better."""
    return float(mixture_log_densities(samples, noise_std, target).mean())


# --- intervals: low and high (rows,), in the target's unit, infinite where anything is let in


def interval_hits(low: ArrayLike, high: ArrayLike, target: ArrayLike) -> Array:
    """1 where low ≤ target ≤ high, else 0: (rows,)."""
    lo, hi = _interval(low, high)
    y = numbers(target, "target")
    same_rows(low=lo, target=y)
    return ((lo <= y) & (y <= hi)).astype(np.float64)


def interval_widths(low: ArrayLike, high: ArrayLike) -> Array:
    """high - low, in the target's unit: (rows,)."""
    lo, hi = _interval(low, high)
    return hi - lo


def interval_coverage(low: ArrayLike, high: ArrayLike, target: ArrayLike) -> float:
    """Share of rows whose target lies in its interval; best at the level that the intervals were made for."""
    return float(interval_hits(low, high, target).mean())


def mean_interval_width(low: ArrayLike, high: ArrayLike) -> float:
    """In the target's unit; of two methods with the same coverage the narrower is better."""
    return float(interval_widths(low, high).mean())


# --- sets of classes: members (rows, classes) of 0 and 1, labels (rows,)


def set_hits(members: ArrayLike, labels: ArrayLike) -> Array:
    """1 where the label is in the row's set, else 0: (rows,). An empty set holds no label."""
    inside = yes_or_no(members, "members", "rows, classes")
    y = labels_of(labels, *inside.shape)
    return inside[np.arange(len(y)), y].astype(np.float64)


def set_sizes(members: ArrayLike) -> Array:
    """How many classes each row's set has: (rows,), from 0 to the number of classes."""
    return yes_or_no(members, "members", "rows, classes").sum(1).astype(np.float64)


def set_coverage(members: ArrayLike, labels: ArrayLike) -> float:
    """Share of rows whose label is in its set; best at the level that the sets were made for."""
    return float(set_hits(members, labels).mean())


def mean_set_size(members: ArrayLike) -> float:
    """Classes a set; of two methods with the same coverage the smaller is better."""
    return float(set_sizes(members).mean())


def _classification(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
    p = probabilities_of(probabilities)
    return p, labels_of(labels, *p.shape)


def _multilabel(probabilities: ArrayLike, truth: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    p, y = probabilities_of(probabilities, "rows, labels"), yes_or_no(truth, "truth", "rows, labels")
    same_rows(probabilities=p, truth=y)
    return p, y


def _regression(mean: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    m, y = numbers(mean, "mean"), numbers(target, "target")
    same_rows(mean=m, target=y)
    return m, y


def _interval(low: ArrayLike, high: ArrayLike) -> tuple[Array, Array]:
    lo, hi = numbers(low, "low", finite=False), numbers(high, "high", finite=False)
    same_rows(low=lo, high=hi)
    wrong = (lo > hi) | (np.isinf(lo) & (lo == hi))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"low: numbers not above high expected, got {lo[row]:g} and {hi[row]:g} in row {row}")
    return lo, hi


def _surprise(probability: Array) -> Array:
    with np.errstate(divide="ignore"):
        return -np.log(probability) + 0.0  # no -0


def _log_density(y: Array, mean: Array, std: Array) -> Array:
    with np.errstate(over="ignore"):  # a target that far away has density 0
        return -0.5 * ((y - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)
