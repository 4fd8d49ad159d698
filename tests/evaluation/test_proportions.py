"""Exact intervals of shares are scipy's and hold the truth as often as they say, with however few rows."""

from __future__ import annotations

import pytest
from scipy.stats import binom, binomtest

from service.evaluation.proportions import proportion_interval


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (1, 1), (0, 100), (100, 100), (3, 7), (57, 60), (1, 5000),
                                            (4999, 5000), (12_345, 20_000)])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_interval_is_scipys(hits, rows, level) -> None:
    found = proportion_interval(hits, rows, level)
    exact = binomtest(hits, rows).proportion_ci(level, "exact")
    assert found.estimate == hits / rows
    expected = pytest.approx((exact.low, exact.high), rel=1e-8, abs=1e-12)  # scipy bisects to 1e-12
    assert (found.low, found.high) == expected


def test_no_error_in_100_rows_leaves_an_error_rate_of_3_percent_possible() -> None:
    found = proportion_interval(0, 100, 0.9)
    assert (found.estimate, found.low) == (0, 0)
    assert found.high == pytest.approx(0.03, abs=0.001)


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.97])
def test_it_holds_the_true_share_at_least_as_often_as_it_says(rows, share) -> None:
    intervals = [proportion_interval(h, rows, 0.9) for h in range(rows + 1)]
    assert sum(binom.pmf(h, rows, share) for h, i in enumerate(intervals) if i.low <= share <= i.high) >= 0.9


@pytest.mark.parametrize(("call", "message"), [
    (lambda: proportion_interval(0, 0), "rows: an integer of at least 1 expected, got 0"),
    (lambda: proportion_interval(-1, 5), "hits: an integer of at least 0 expected, got -1"),
    (lambda: proportion_interval(6, 5), "hits: an integer from 0 to 5 expected, got 6"),
    (lambda: proportion_interval(0.5, 5), "hits: an integer of at least 0 expected, got 0.5"),
    (lambda: proportion_interval(1, 5, 1.0), "level: a number between 0 and 1 expected, got 1.0"),
])
def test_what_is_no_share_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
