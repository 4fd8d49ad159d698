"""Exact binomial tails: how likely so few errors are if the risk is what it must not be."""

from __future__ import annotations

from fractions import Fraction
from math import exp, inf, log, log1p, pi

import numpy as np

from service.calibration.checks import share
from service.errors import InvalidInput

_NEGLIGIBLE = 1e-19  # of a sum of falling terms
_TERMS_AT_ONCE = 1024
# ln k! - (k + 1/2) ln k + k - ln(2π)/2 is 1/(12k) - 1/(360k³) + ...: the Bernoulli numbers' series, from k = 16 on
# good to the last bit of float64
_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_SERIES_FROM = 16


def log_binomial_tail(errors: int, rows: int, risk: float) -> float:
    """ln P(X ≤ errors) for X binomial: the p-value of "the risk is at least `risk`", exact for independent rows.

    Good to 1e-12 of P up to a million rows. A logarithm, so that evidence that no float can hold still has an order.
    Args:   errors: 0 to rows; risk: between 0 and 1.
    Source: the largest term by the saddle-point form of Loader 2000, "Fast and accurate computation of binomial
            probabilities"; the others by their ratios.
    """
    share(risk, "risk")
    if not 0 <= errors <= rows:
        raise InvalidInput.at("errors", f"0 to {rows}, the number of rows, expected, got {errors}")
    if errors == rows:
        return 0.0
    mean = rows * Fraction(risk)  # a rounded mean would cost three digits of P at a million rows
    if errors + 1 > mean:  # then 1 - P is the lesser one
        return log1p(-exp(_log_falling_sum(rows - errors - 1, rows, 1 - risk, risk, float(mean - errors - 1))))
    return _log_falling_sum(errors, rows, risk, 1 - risk, float(errors - mean))


def binomial_tail(errors: int, rows: int, risk: float) -> float:
    """P(X ≤ errors), as above. 0 where it is under the least float."""
    return exp(log_binomial_tail(errors, rows, risk))


def least_rows(risk: float, delta: float, errors: int = 0) -> int:
    """The fewest accepted rows which, with so many errors among them, show the risk to be at most `risk` with
    confidence 1 - delta. 59 at .05 and .05, 688 at .01 and .001."""
    share(risk, "risk")
    share(delta, "delta")
    few, many = errors, errors + 1
    while binomial_tail(errors, many, risk) > delta:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if binomial_tail(errors, middle, risk) <= delta else (middle, many)
    return many


def _log_falling_sum(last: int, rows: int, p: float, q: float, gap: float) -> float:
    """ln of the sum of P(X = i) over i ≤ last, where the terms fall towards 0. q: 1 - p; gap: last less the mean; each
    to its own last bit."""
    total = term = 1.0
    for top in range(last, 0, -_TERMS_AT_ONCE):
        i = np.arange(top, max(top - _TERMS_AT_ONCE, 0), -1, dtype=np.float64)
        terms = term * np.cumprod(i * q / ((rows - i + 1) * p))
        total += float(terms.sum())
        term = float(terms[-1])
        if term < _NEGLIGIBLE * total:
            break
    return _log_probability(last, rows, p, q, gap) + log(total)


def _log_probability(k: int, n: int, p: float, q: float, gap: float) -> float:
    """ln P(X = k), 0 ≤ k < n. gap: k - n p."""
    if k == 0:
        return n * (log1p(-p) if p < q else log(q))
    stirling = _stirling_rest(n) - _stirling_rest(k) - _stirling_rest(n - k)
    far = _deviance(k, n * p, gap) + _deviance(n - k, n * q, -gap)
    return stirling - far + 0.5 * log(n / (2 * pi * k * (n - k)))


def _stirling_rest(k: int) -> float:
    """ln k! less Stirling's formula."""
    rest = 0.0
    while k < _SERIES_FROM:  # one step down: ln k! = ln (k+1)! - ln(k+1)
        rest += (k + 0.5) * log1p(1 / k) - 1
        k += 1
    square = 1.0 / (k * k)
    series = 0.0
    for c in reversed(_SERIES):
        series = series * square + c
    return rest + series / k


def _deviance(x: float, mean: float, gap: float) -> float:
    """x ln(x / mean) - gap, where gap is x - mean, without losing its digits where x is near the mean: there it is
    gap v + 2x (v³/3 + v⁵/5 + ...) with v = gap / (x + mean)."""
    v = gap / (x + mean)
    if abs(v) > 0.1:
        return x * log(x / mean) - gap
    total, power, k, before = gap * v, 2 * x * v, 1, inf
    while total != before:
        power *= v * v
        k += 2
        before = total
        total += power / k
    return total
