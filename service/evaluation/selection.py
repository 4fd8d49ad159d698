"""Does a score know which rows are wrong, or which come from elsewhere? Risk-coverage curves, their area, AUROC.

A low score means: keep this row first. Rows with equal scores have no order among themselves, and everything here is
the exact average over all of them; it never depends on the order in which rows came.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from service.evaluation.bootstrap import Counts, Statistic
from service.evaluation.checks import Array, numbers, same_rows
from service.evaluation.ties import Ties, before


@dataclass(frozen=True)
class RiskCoverage:
    """What is risked if only the rows with the lowest scores are answered and the others are left to somebody else.

    coverage: share of rows that are answered, 1/n, 2/n, … 1: (rows,).
    risk:     mean loss over these, in the loss's unit: (rows,). Within equal scores the average over their orders.
    score:    the highest score among these: answering up to it, rows of equal scores are all answered. (rows,).
    """

    coverage: Array
    risk: Array
    score: Array


def risk_coverage(losses: ArrayLike, scores: ArrayLike) -> RiskCoverage:
    """losses: (rows,), 0/1 errors or squared errors. scores: (rows,), lower is kept first. Source: El-Yaniv & Wiener
    2010, JMLR 11."""
    loss, score = _losses_and_scores(losses, scores)
    ties = Ties(score)
    sizes = ties.sums(np.ones_like(loss))
    of_row = np.repeat(np.arange(len(sizes)), sizes.astype(np.int64))
    kept = np.arange(1.0, len(loss) + 1)
    sums = ties.sums(loss)
    within = (kept - before(sizes)[of_row]) * (sums / sizes)[of_row]
    return RiskCoverage(kept / len(loss), (before(sums)[of_row] + within) / kept, ties.values[of_row])


def risk_coverage_area(losses: ArrayLike, scores: ArrayLike) -> Statistic:
    """AURC as a statistic: the mean of the risks at coverage 1/n, 2/n, … 1, in the loss's unit; lower is better.

    A score that knows nothing has the mean loss. It mixes how many errors there are with how well they are ranked:
    `excess_risk_coverage_area` is the second alone. Source: Geifman, Uziel & El-Yaniv 2019, arXiv 1805.08206.
    """
    loss, score = _losses_and_scores(losses, scores)
    ties = Ties(score)

    def value(counts: Counts) -> Array:
        sizes, sums = ties.sums(counts), ties.sums(counts * loss)
        earlier = before(sizes)
        most = counts.sum(1).max()
        harmonic = np.concatenate(([0.0], (1 / np.arange(1.0, most + 1)).cumsum()))
        reciprocals = harmonic[(earlier + sizes).astype(np.int64)] - harmonic[earlier.astype(np.int64)]
        mean = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
        # Σ over k of a group, from e+1 to e+m, of (S + (k - e)·mean) / k, where S is the loss of the e rows before it
        area = sums + (before(sums) - mean * earlier) * reciprocals
        return area.sum(1) / counts.sum(1)

    return Statistic((len(loss),), value)


def excess_risk_coverage_area(losses: ArrayLike, scores: ArrayLike) -> Statistic:
    """AURC less that of the best possible score, which is the loss itself, as a statistic; from 0 up, 0 is best."""
    area, least = risk_coverage_area(losses, scores), risk_coverage_area(losses, losses)
    return Statistic(area.sets, lambda counts: np.maximum(area.value(counts) - least.value(counts), 0))


def separation(negatives: ArrayLike, positives: ArrayLike) -> Statistic:
    """AUROC as a statistic of two sets: how often a row of the second scores above one of the first, equals half.

    negatives, positives: scores (rows of each,), as of rows in and out of distribution. From 0 to 1: 1 is perfect, 0.5
    says nothing, and below 0.5 the score is upside down. It is no threshold's error rate, and does not depend on how
    many rows either set has. In a bootstrap each set is resampled by itself. Source: Hanley & McNeil 1982.
    """
    low, high = numbers(negatives, "negatives", finite=False), numbers(positives, "positives", finite=False)
    ties = Ties(np.concatenate((low, high)))
    is_positive = np.repeat((0.0, 1.0), (len(low), len(high)))

    def value(counts: Counts) -> Array:
        all_rows, above = ties.sums(counts), ties.sums(counts * is_positive)
        under = all_rows - above
        wins = (above * (before(under) + under / 2)).sum(1)
        return wins / (under.sum(1) * above.sum(1))

    return Statistic((len(low), len(high)), value)


def aurc(losses: ArrayLike, scores: ArrayLike) -> float:
    """`risk_coverage_area` of the rows as they are."""
    return risk_coverage_area(losses, scores).once()


def excess_aurc(losses: ArrayLike, scores: ArrayLike) -> float:
    """`excess_risk_coverage_area` of the rows as they are."""
    return excess_risk_coverage_area(losses, scores).once()


def auroc(negatives: ArrayLike, positives: ArrayLike) -> float:
    """`separation` of the rows as they are."""
    return separation(negatives, positives).once()


def _losses_and_scores(losses: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    loss, score = numbers(losses, "losses"), numbers(scores, "scores", finite=False)
    same_rows(losses=loss, scores=score)
    return loss, score
