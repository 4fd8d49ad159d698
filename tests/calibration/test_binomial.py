"""Binomial tails are exact, and say how many rows a guarantee takes."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from service.calibration import binomial_tail, least_rows, log_binomial_tail
from service.errors import InvalidInput, InvalidOption

RISKS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 0.999)


def plain_tail(errors: int, rows: int, risk: float) -> Decimal:
    """The sum as it is written, to 40 digits."""
    with localcontext() as context:
        context.prec = 50
        p, q = Decimal(risk), 1 - Decimal(risk)
        term = math.comb(rows, errors) * p**errors * q ** (rows - errors)
        total = term
        for i in range(errors, 0, -1):
            term = term * i * q / ((rows - i + 1) * p)
            total += term
            if i < rows * risk and term < total * Decimal(10) ** -40:
                break
        return +total


def far_and_near(rows: int, risk: float) -> list[int]:
    """Counts of errors up to 8 deviations under and 4 over the mean, both ends too."""
    deviation = math.sqrt(rows * risk * (1 - risk))
    counts = {0, 1, rows, *(round(rows * risk + z * deviation) for z in np.linspace(-8, 4, 25))}
    return sorted(k for k in counts if 0 <= k <= rows)


@pytest.mark.parametrize("risk", RISKS)
def test_tails_are_scipys_to_a_trillionth_up_to_a_million_rows(risk) -> None:
    checked = 0
    for rows in (1, 2, 15, 16, 17, 59, 500, 10_000, 123_456, 1_000_000):
        counts = far_and_near(rows, risk)
        known = stats.binom.cdf(counts, rows, risk)
        for errors, tail in zip(counts, known, strict=True):
            if tail > 1e-290:
                assert binomial_tail(errors, rows, risk) == pytest.approx(tail, rel=1e-12, abs=0), (errors, rows)
                checked += 1
    assert checked > 50


@pytest.mark.parametrize(("errors", "rows", "risk"), [
    (47_500, 1_000_000, 0.05), (49_999, 1_000_000, 0.05), (50_400, 1_000_000, 0.05), (9_300, 1_000_000, 0.01),
    (29_300, 100_000, 0.3), (3, 200, 0.05), (0, 59, 0.05), (17, 30, 0.5),
])
def test_tails_are_those_of_forty_digits_where_scipys_own_error_is_a_trillionth(errors, rows, risk) -> None:
    ratio = Decimal(binomial_tail(errors, rows, risk)) / plain_tail(errors, rows, risk)
    assert abs(float(ratio - 1)) < 2e-13


def test_tails_of_a_few_rows_are_good_to_the_fourteenth_digit() -> None:
    for rows in (1, 3, 15, 16, 17, 32, 33, 60, 150):
        for errors in range(0, rows, max(1, rows // 9)):
            for risk in (0.05, 0.3, 0.75):
                ratio = Decimal(binomial_tail(errors, rows, risk)) / plain_tail(errors, rows, risk)
                assert abs(float(ratio - 1)) < 5e-14, (errors, rows, risk)


def test_evidence_that_no_float_can_hold_still_has_an_order() -> None:
    assert binomial_tail(0, 1_000_000, 0.05) == 0
    logs = [log_binomial_tail(k, 1_000_000, 0.05) for k in (0, 1, 100, 10_000)]
    assert logs == sorted(logs)
    assert logs[0] == pytest.approx(1e6 * math.log1p(-0.05), rel=1e-14)


@given(rows=st.integers(1, 3000), share=st.floats(0, 1), risk=st.floats(0.001, 0.998))
def test_more_errors_are_likelier_and_a_higher_risk_makes_few_rarer(rows, share, risk) -> None:
    errors = int(share * (rows - 1))
    tail = log_binomial_tail(errors, rows, risk)
    assert tail <= log_binomial_tail(errors + 1, rows, risk) <= 0
    assert log_binomial_tail(errors, rows, risk + 0.001) <= tail + 1e-12
    assert log_binomial_tail(errors, rows + 1, risk) <= tail + 1e-12


@given(rows=st.integers(1, 3000), share=st.floats(0, 1), risk=st.floats(0.001, 0.999))
def test_few_errors_are_many_that_went_right(rows, share, risk) -> None:
    errors = int(share * (rows - 1))
    other = binomial_tail(rows - errors - 1, rows, 1 - risk)
    assert binomial_tail(errors, rows, risk) + other == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("risk", "delta", "needed"), [(0.05, 0.05, 59), (0.01, 0.001, 688), (0.5, 0.5, 1)])
def test_a_guarantee_takes_as_many_rows_without_an_error_as_known(risk, delta, needed) -> None:
    assert least_rows(risk, delta) == needed
    assert (1 - risk) ** needed <= delta < (1 - risk) ** (needed - 1)


@pytest.mark.parametrize("errors", [0, 1, 7, 100])
def test_one_row_less_than_the_least_would_not_do(errors) -> None:
    n = least_rows(0.05, 0.01, errors)
    assert binomial_tail(errors, n, 0.05) <= 0.01 < binomial_tail(errors, n - 1, 0.05)


def test_what_is_no_count_and_no_risk_is_refused() -> None:
    with pytest.raises(InvalidInput, match="0 to 3"):
        binomial_tail(4, 3, 0.5)
    with pytest.raises(InvalidInput):
        binomial_tail(-1, 3, 0.5)
    for risk in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(InvalidOption, match="risk: a number over 0 and under 1"):
            binomial_tail(1, 3, risk)
    with pytest.raises(InvalidOption, match="delta"):
        least_rows(0.05, 0.0)
