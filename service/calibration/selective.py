"""Which rows to answer: a threshold on a score under which errors are at most a given share, with given confidence.

The promise, over draws of the rows, for further rows drawn like them: P(share of errors among accepted rows > risk) ≤
delta. Hypotheses "the risk at this threshold is over `risk`" are tested in one order, fixed before the guarantee's rows
are looked at, and the first that stands ends it: then all tests together err with probability at most delta. To take
the largest threshold that passes would be 20 chances to err (28 % at delta 10 % in a test).
Sources: Geifman & El-Yaniv 2017; Angelopoulos et al. 2021, "Learn then test" (fixed-sequence testing).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from service.calibration.binomial import binomial_tail, least_rows, log_binomial_tail
from service.calibration.checks import Bools, Floats, Ints, finite, share, yes_or_no
from service.errors import CalibrationRefused

CANDIDATES = 20


@dataclass(frozen=True)
class Plan:
    """What *fit* decides: thresholds in rising order, and the place where testing starts."""

    thresholds: tuple[float, ...]
    start: int


@dataclass(frozen=True)
class RiskGuarantee:
    """Rows whose score is at most `threshold` are accepted; among such, errors are at most `risk` with confidence
    1 - delta. accepted, errors: of the guarantee's `rows`; p_value: of `threshold`; steps: how many thresholds
    passed. accepted / rows estimates how often further rows are accepted; nothing is promised of it."""

    threshold: float
    risk: float
    delta: float
    accepted: int
    errors: int
    rows: int
    p_value: float
    steps: int

    def accepts(self, scores: ArrayLike) -> Bools:
        """Of any shape. A score that is no number is not accepted."""
        return np.asarray(np.asarray(scores, dtype=np.float64) <= self.threshold)


def plan_thresholds(scores: ArrayLike, wrong: ArrayLike, risk: float) -> Plan:
    """Candidates that accept a 20th, two 20ths, … and all of *fit*'s rows, equal ones once, and as the start the one
    with the most evidence there: the smallest p-value, of equals the tightest.

    Args: scores: (rows,), low where the network is sure, such as entropies; wrong: (rows,), 0 or 1.
    """
    share(risk, "risk")
    s, errors = _sorted(scores, wrong)
    ends = [-(-len(s) * (i + 1) // CANDIDATES) - 1 for i in range(CANDIDATES)]
    thresholds = np.unique(s[ends])
    evidence = [log_binomial_tail(*_counts(s, errors, float(t)), risk) for t in thresholds]
    return Plan(tuple(float(t) for t in thresholds), int(np.argmin(evidence)))


def guarantee_risk(
    plan: Plan, scores: ArrayLike, wrong: ArrayLike, *, risk: float = 0.05, delta: float = 0.05
) -> RiskGuarantee:
    """Loosens from the plan's start while the exact binomial p-value is at most delta, and stops at the first that is
    not. The promise holds for this risk and delta, chosen before: who tries several has made another.

    Args:   scores, wrong: (rows,) of *guarantee*, none of which made the plan.
    Errors: CalibrationRefused where the start does not pass; `needed` is how many accepted rows it takes if no more of
            them are wrong.
    """
    share(risk, "risk")
    share(delta, "delta")
    s, errors = _sorted(scores, wrong)
    passed: RiskGuarantee | None = None
    for steps, threshold in enumerate(plan.thresholds[plan.start :], 1):
        failed, accepted = _counts(s, errors, threshold)
        p_value = binomial_tail(failed, accepted, risk)
        if p_value > delta:
            break
        passed = RiskGuarantee(threshold, risk, delta, accepted, failed, len(s), p_value, steps)
    if passed is None:
        raise _refused(*_counts(s, errors, plan.thresholds[plan.start]), len(s), risk, delta)
    return passed


def _sorted(scores: ArrayLike, wrong: ArrayLike) -> tuple[Floats, Ints]:
    """Scores in rising order, and the errors among the first n, n from 0 to all."""
    s = finite(scores, "scores", 1)
    failed = yes_or_no(wrong, s.shape, "wrong")
    order = np.argsort(s, kind="stable")
    return s[order], np.concatenate([[0], np.cumsum(failed[order])])


def _counts(s: Floats, errors: Ints, threshold: float) -> tuple[int, int]:
    """How many are wrong of how many accepted rows; equal scores are accepted together."""
    accepted = int(np.searchsorted(s, threshold, side="right"))
    return int(errors[accepted]), accepted


def _refused(errors: int, accepted: int, rows: int, risk: float, delta: float) -> CalibrationRefused:
    promise = f"a risk of at most {risk:g} with confidence {1 - delta:g}"
    needed = least_rows(risk, delta, errors)
    hint = "" if errors <= risk * accepted else f", which is more than {risk:g} of them: more rows alone will hardly do"
    return CalibrationRefused(
        f"{promise} takes at least {needed} accepted rows with {errors} errors; got {errors} errors among {accepted} "
        f"accepted rows of {rows}{hint}", needed)
