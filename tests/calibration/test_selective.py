"""Among accepted rows errors are as rare as promised, with the confidence that was asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from service.calibration import Plan, binomial_tail, guarantee_risk, least_rows, plan_thresholds
from service.errors import CalibrationRefused, InvalidInput, InvalidOption
from tests.calibration.laws import Array

DRAWS, ROWS = 500, 1000
RISK, DELTA = 0.05, 0.1
MOST = DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / DRAWS)

# Scores are uniform; a row of score u is wrong with probability error(u), so that among rows up to t the risk is the
# mean of error over [0, t].
LAWS = {
    "flat, a little over the target": (lambda u: np.full_like(u, 0.0505), lambda t: 0.0505),
    "rising": (lambda u: 0.2 * u, lambda t: 0.1 * t),
    "worst where the score is lowest": (
        lambda u: np.where(u < 0.2, 0.08, 0.044), lambda t: 0.08 if t <= 0.2 else 0.044 + 0.2 * 0.036 / t),
    "sudden": (lambda u: np.where(u < 0.5, 0.04, 0.5), lambda t: 0.04 if t <= 0.5 else 0.5 - 0.5 * 0.46 / t),
}


def rows_of(law: str, seed: int, rows: int = ROWS, draws: int = DRAWS) -> tuple[Array, Array]:
    """Scores and errors, (draws, rows)."""
    g = np.random.default_rng(seed)
    u = g.random((draws, rows))
    return u, g.random(u.shape) < LAWS[law][0](u)


def guaranteed(plan: Plan, scores: Array, wrong: Array, delta: float = DELTA) -> float | None:
    """The threshold, None where refused."""
    try:
        return guarantee_risk(plan, scores, wrong, risk=RISK, delta=delta).threshold
    except CalibrationRefused:
        return None


def largest_that_passes(plan: Plan, scores: Array, wrong: Array) -> float | None:
    """The tempting wrong rule."""
    accepted = scores <= np.array(plan.thresholds)[:, None]
    passes = stats.binom.cdf((accepted & wrong).sum(1), accepted.sum(1), RISK) <= DELTA
    return plan.thresholds[int(np.flatnonzero(passes)[-1])] if passes.any() else None


def violations(law: str, thresholds: list[float | None]) -> float:
    """The share of draws in which the true risk is over the target; one that was refused promised nothing."""
    return float(np.mean([t is not None and LAWS[law][1](t) > RISK for t in thresholds]))


@pytest.mark.parametrize("law", LAWS)
def test_the_true_risk_is_over_the_target_no_more_often_than_delta(law) -> None:
    fit, guarantee = rows_of(law, 1), rows_of(law, 2)
    found = [guaranteed(plan_thresholds(*f, RISK), *g)
             for f, g in zip(zip(*fit, strict=True), zip(*guarantee, strict=True), strict=True)]
    assert violations(law, found) <= MOST
    if law in ("rising", "sudden"):
        reached = [t for t in found if t is not None]
        assert len(reached) > 0.1 * DRAWS  # it promises something, too


def test_the_largest_threshold_that_passes_breaks_the_promise() -> None:
    """So the test above can fail."""
    law = "flat, a little over the target"
    fit, guarantee = rows_of(law, 1), rows_of(law, 2)
    found = [largest_that_passes(plan_thresholds(*f, RISK), *g)
             for f, g in zip(zip(*fit, strict=True), zip(*guarantee, strict=True), strict=True)]
    assert violations(law, found) > MOST


def test_the_same_rows_for_plan_and_guarantee_break_the_promise() -> None:
    law = "flat, a little over the target"
    found = [guaranteed(plan_thresholds(*g, RISK), *g) for g in zip(*rows_of(law, 2), strict=True)]
    assert violations(law, found) > MOST


def test_with_many_rows_nearly_all_that_may_be_accepted_is() -> None:
    fit, guarantee = rows_of("rising", 3, 20_000, 20), rows_of("rising", 4, 20_000, 20)
    found = [guaranteed(plan_thresholds(*f, RISK), *g)
             for f, g in zip(zip(*fit, strict=True), zip(*guarantee, strict=True), strict=True)]
    assert all(t is not None and 0.4 <= t < 0.52 for t in found)  # the risk reaches its target at 1/2


@pytest.mark.parametrize(("risk", "delta", "needed"), [(0.05, 0.05, 59), (0.01, 0.001, 688)])
def test_as_many_rows_without_an_error_do_as_known_and_one_less_does_not(risk, delta, needed) -> None:
    plan = Plan((1.0,), 0)
    made = guarantee_risk(plan, np.ones(needed), np.zeros(needed), risk=risk, delta=delta)
    assert (made.accepted, made.errors, made.rows, made.steps) == (needed, 0, needed, 1)
    assert made.p_value == pytest.approx((1 - risk) ** needed)
    with pytest.raises(CalibrationRefused, match=f"at least {needed} accepted rows with 0 errors; got 0 errors among "
                                                 f"{needed - 1} accepted rows") as caught:
        guarantee_risk(plan, np.ones(needed - 1), np.zeros(needed - 1), risk=risk, delta=delta)
    assert caught.value.needed == needed


def test_the_defaults_are_a_twentieth_each() -> None:
    made = guarantee_risk(Plan((1.0,), 0), np.ones(59), np.zeros(59))
    assert (made.risk, made.delta) == (0.05, 0.05)


def test_with_errors_it_takes_more_rows_and_where_they_are_too_many_it_is_said() -> None:
    plan = Plan((1.0,), 0)
    with pytest.raises(CalibrationRefused, match="153 accepted rows with 3 errors; got 3 errors among 100") as caught:
        guarantee_risk(plan, np.ones(100), np.arange(100) < 3)
    assert caught.value.needed == least_rows(0.05, 0.05, 3) == 153
    assert "hardly" not in caught.value.detail
    with pytest.raises(CalibrationRefused, match=r"more than 0\.05 of them: more rows alone will hardly do") as caught:
        guarantee_risk(plan, np.ones(100), np.arange(100) < 6)
    assert caught.value.needed == least_rows(0.05, 0.05, 6)
    with pytest.raises(CalibrationRefused, match="59 accepted rows with 0 errors; got 0 errors among 0") as caught:
        guarantee_risk(plan, np.full(100, 2.0), np.zeros(100))
    assert caught.value.needed == 59


def test_it_loosens_step_by_step_and_stops_at_the_first_failure() -> None:
    scores = np.repeat([1.0, 2.0, 3.0, 4.0], [100, 100, 100, 4000])
    wrong = np.zeros(4300)
    wrong[200:220] = 1  # the third passes no more, the fourth would again
    plan = Plan((1.0, 2.0, 3.0, 4.0), 0)
    assert binomial_tail(20, 300, 0.05) > 0.05 >= binomial_tail(20, 4300, 0.05)
    made = guarantee_risk(plan, scores, wrong)
    assert (made.threshold, made.accepted, made.errors, made.steps) == (2.0, 200, 0, 2)
    with pytest.raises(CalibrationRefused):
        guarantee_risk(Plan(plan.thresholds, 2), scores, wrong)  # never tighter than its start
    assert guarantee_risk(Plan(plan.thresholds, 3), scores, wrong).threshold == 4.0


def test_candidates_accept_a_twentieth_each_more_of_fit_and_the_start_has_most_evidence() -> None:
    scores = np.random.default_rng(0).permutation(200).astype(float)
    wrong = (scores >= 100) & (scores % 4 == 0)
    plan = plan_thresholds(scores, wrong, 0.05)
    assert plan.thresholds == tuple(float(t) for t in range(9, 200, 10))
    evidence = [stats.binom.cdf(wrong[scores <= t].sum(), (scores <= t).sum(), 0.05) for t in plan.thresholds]
    assert plan.start == int(np.argmin(evidence)) == 9


def test_equal_scores_are_one_candidate_and_are_accepted_together() -> None:
    plan = plan_thresholds(np.repeat([1.0, 2.0], 50), np.arange(100) >= 70, 0.05)
    assert plan == Plan((1.0, 2.0), 0)
    assert plan_thresholds([3.0], [0], 0.05) == Plan((3.0,), 0)
    made = guarantee_risk(plan, np.repeat([1.0, 2.0], 70), np.zeros(140))
    assert made.accepted == 140


def test_a_score_that_is_no_number_is_not_accepted() -> None:
    made = guarantee_risk(Plan((1.0,), 0), np.ones(59), np.zeros(59))
    assert made.accepts([0.5, 1.0, np.nextafter(1, 2), np.nan, np.inf, -np.inf]).tolist() == [
        True, True, False, False, False, True]
    assert made.accepts(np.zeros((2, 3))).shape == (2, 3)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_only_the_order_of_scores_matters_and_the_order_of_rows_does_not(seed) -> None:
    g = np.random.default_rng(seed)
    scores, wrong = np.round(g.random((2, 300)), 2), g.random((2, 300)) < 0.02
    order = g.permutation(300)
    plan = plan_thresholds(scores[0], wrong[0], RISK)
    assert plan_thresholds(scores[0][order], wrong[0][order], RISK) == plan
    threshold = guaranteed(plan, scores[1], wrong[1])
    assert guaranteed(plan, scores[1][order], wrong[1][order]) == threshold
    stretched = guaranteed(plan_thresholds(np.exp(scores[0]), wrong[0], RISK), np.exp(scores[1]), wrong[1])
    assert stretched == (None if threshold is None else np.exp(threshold))


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_who_asks_for_less_confidence_or_has_fewer_errors_accepts_as_much_or_more(seed) -> None:
    g = np.random.default_rng(seed)
    scores, wrong = g.random((2, 400)), g.random((2, 400)) < 0.02
    plan = plan_thresholds(scores[0], wrong[0], RISK)
    strict, loose = (guaranteed(plan, scores[1], wrong[1], delta) or 0 for delta in (0.02, 0.2))
    fewer = guaranteed(plan, scores[1], wrong[1] & (g.random(400) < 0.5), 0.02) or 0
    assert strict <= loose
    assert strict <= fewer


def test_what_is_no_score_no_error_and_no_share_is_refused() -> None:
    ones, none = np.ones(59), np.zeros(59)
    with pytest.raises(InvalidInput, match=r"scores\[0\]: a finite number expected, got nan"):
        plan_thresholds([np.nan, 1.0], [0, 0], 0.05)
    with pytest.raises(InvalidInput, match=r"wrong\[1\]: 0 or 1 expected, got 2"):
        plan_thresholds([1.0, 1.0], [0, 2], 0.05)
    with pytest.raises(InvalidInput, match="scores: at least one row"):
        plan_thresholds([], [], 0.05)
    with pytest.raises(InvalidInput, match=r"wrong: the shape \[59\] expected"):
        guarantee_risk(Plan((1.0,), 0), ones, none[:58])
    for risk, delta in ((0.0, 0.05), (1.0, 0.05), (0.05, 0.0), (0.05, math.nan)):
        with pytest.raises(InvalidOption, match=r"(risk|delta): a number over 0"):
            guarantee_risk(Plan((1.0,), 0), ones, none, risk=risk, delta=delta)
