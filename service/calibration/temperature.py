"""One temperature for the logits of every sample, chosen by the likelihood of what is served: the Monte-Carlo mean.

    NLL(T) = - mean over rows of ln( mean over samples t of softmax(z_t / T)[label] )

Dividing the mean's own logits by T would be another law: the answer is a mean of probabilities, and its spread over the
samples is to be of the same networks as its centre. Source for one sample: Guo et al. 2017, "On calibration of modern
neural networks".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log, sqrt
from operator import itemgetter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.calibration.checks import Floats, class_labels, not_empty, positive, refuse, yes_or_no
from service.errors import InvalidInput

LOWEST, HIGHEST = 0.05, 20.0
TOLERANCE = 1e-6  # of ln T

_GRID = 25  # temperatures that are looked at first: a quarter of ln T apart
_GOLDEN = (sqrt(5) - 1) / 2
_NUMBERS_AT_ONCE = 1 << 20
_LEAST_PROBABILITY = 2.0**-149  # float32's; a softmax that says 0 means less than that
_MOST_PROBABILITY = 1 - 2.0**-25  # what float32 rounds to 1 is at least that


@dataclass(frozen=True)
class Temperature:
    """value: T, over 1 where the network was too sure. nll, nll_uncalibrated: mean negative log-likelihood of a row in
    nats, at T and at 1, on the rows that T was fitted on (so the gain looks a little better than it is). at_bound: the
    likelihood still rises at the end of 0.05 to 20, as where every row is right; then T says little."""

    value: float
    nll: float
    nll_uncalibrated: float
    at_bound: bool
    rows: int


def fit_temperature(logits: ArrayLike, labels: ArrayLike, *, multilabel: bool = False) -> Temperature:
    """The T from 0.05 to 20 of the greatest likelihood: the best of 25, then a golden-section search around it until
    ln T is known to 1e-6. The likelihood of a mean may have several peaks; narrower ones than the grid are not looked
    for. Never worse than T = 1.

    Args:   logits: (samples, rows, classes), finite; log-probabilities are logits too, see `logits_of`. float32 is
            computed in float64, a few rows at a time.
            labels: (rows,), classes from 0; multilabel: (rows, labels), each 0 or 1, each a sigmoid's.
    Errors: InvalidInput names the first wrong place.
    """
    z = _logits(logits)
    _, rows, classes = z.shape
    if multilabel:
        truth: NDArray[np.generic] = yes_or_no(labels, (rows, classes), "labels")
    else:
        truth = class_labels(labels, rows, classes)

    def loss(log_temperature: float) -> float:
        return _nll(z, truth, exp(log_temperature), multilabel)

    grid = np.linspace(log(LOWEST), log(HIGHEST), _GRID)
    losses = [loss(float(x)) for x in grid]
    best = int(np.argmin(losses))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)])
    plain = loss(0.0)
    # the first of equals: where T changes nothing it stays 1
    found = [(0.0, plain), (float(grid[best]), losses[best]), _golden_section(loss, low, high)]
    x, least = min(found, key=itemgetter(1))
    at_bound = min(x - log(LOWEST), log(HIGHEST) - x) <= TOLERANCE
    return Temperature(exp(x), least, plain, at_bound, rows)


def apply_temperature(logits: ArrayLike, temperature: float, *, multilabel: bool = False) -> Floats:
    """Each sample's probabilities, float64, of the shape of `logits`: (…, classes). Their mean is the calibrated
    prediction. T changes the order of neither classes nor labels in a sample, but may change it in the mean."""
    t = float(positive(temperature, (), "temperature"))
    z = np.asarray(logits, dtype=np.float64)
    refuse(~np.isfinite(z), z, "logits", "a finite number")
    if multilabel:
        return np.exp(-np.logaddexp(0, -z / t))
    e = np.exp((z - z.max(-1, keepdims=True)) / t)
    return np.asarray(e / e.sum(-1, keepdims=True))


def logits_of(probabilities: ArrayLike, *, multilabel: bool = False) -> Floats:
    """Logits with exactly these probabilities, up to a constant a row: ln p, or ln p - ln(1 - p) if multilabel. A 0
    or 1 that float32 rounded to is put as far in as float32 tells: 2^-149, and in multilabel 1 - 2^-25."""
    p = np.asarray(probabilities, dtype=np.float64)
    refuse(~((p >= 0) & (p <= 1 + 1e-6)), p, "probabilities", "a number from 0 to 1")
    p = np.maximum(p, _LEAST_PROBABILITY)
    if not multilabel:
        return np.log(p)
    p = np.minimum(p, _MOST_PROBABILITY)
    return np.asarray(np.log(p) - np.log1p(-p))


def _logits(values: ArrayLike) -> NDArray[np.generic]:
    """(samples, rows, classes), checked a sample at a time and left in its own type."""
    z = np.asarray(values)
    if z.dtype.kind not in "iuf":
        raise InvalidInput.at("logits", f"numbers expected, got {z.dtype}")
    if z.ndim != 3:
        raise InvalidInput.at("logits", f"(samples, rows, classes) expected, got {z.ndim} axes")
    not_empty(z.shape, "logits")
    for sample in range(len(z)):
        wrong = ~np.isfinite(z[sample])
        if wrong.any():
            row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
            place = f"logits[{sample}][{row}][{column}]"
            raise InvalidInput.at(place, f"a finite number expected, got {z[sample, row, column]}")
    return z


def _nll(z: NDArray[np.generic], truth: NDArray[np.generic], temperature: float, multilabel: bool) -> float:
    samples, rows, classes = z.shape
    step = max(1, _NUMBERS_AT_ONCE // (samples * classes))
    total = 0.0
    for start in range(0, rows, step):
        part, label = z[:, start : start + step].astype(np.float64), truth[start : start + step]
        logs = _log_likelihoods(part, label, temperature, multilabel)
        total -= float(_log_mean_exp(logs).sum())
    return total / rows


def _log_likelihoods(z: Floats, label: NDArray[np.generic], temperature: float, multilabel: bool) -> Floats:
    """Of each sample: (samples, rows), or (samples, rows, labels)."""
    if multilabel:
        return np.asarray(-np.logaddexp(0, np.where(label, -z, z) / temperature))
    z -= np.take_along_axis(z, label[None, :, None].astype(np.int64), 2)
    top = z.max(2)
    z -= top[..., None]
    z /= temperature
    return np.asarray(-top / temperature - np.log(np.exp(z, out=z).sum(2)))


def _log_mean_exp(logs: Floats) -> Floats:
    top = logs.max(0)
    return np.asarray(top + np.log(np.exp(logs - top).mean(0)))


def _golden_section(loss: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """A least place between `low` and `high`, to the tolerance, and the loss there."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > TOLERANCE:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return min((left, at_left), (right, at_right), key=itemgetter(1))
