"""Counts stand for repeated rows, resamples are paired, and intervals cover what they say."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from service.evaluation import bootstrap as module
from service.evaluation.bootstrap import (
    Statistic,
    bootstrap,
    drawn,
    mean_of,
    one_minus,
    percentile_interval,
    root_mean_of,
)
from service.evaluation.reliability import calibration_error, top_label
from service.evaluation.scores import class_errors, log_losses
from service.evaluation.selection import excess_risk_coverage_area, risk_coverage_area, separation
from tests.evaluation.made import classified

ROWS = 60
RANDOM = np.random.default_rng(0)
LOSSES, SCORES = RANDOM.integers(2, size=ROWS).astype(float), RANDOM.integers(9, size=ROWS) / 8
CELLS = RANDOM.integers(9, size=(ROWS, 3)) / 8
TRUTH = RANDOM.random((ROWS, 3)) < CELLS
STATISTICS = {
    "mean": lambda rows: mean_of(SCORES[rows]),
    "one minus mean": lambda rows: one_minus(mean_of(SCORES[rows])),
    "root mean": lambda rows: root_mean_of(SCORES[rows] ** 2),
    "calibration error": lambda rows: calibration_error(SCORES[rows], LOSSES[rows], 5),
    "multilabel calibration error": lambda rows: calibration_error(CELLS[rows], TRUTH[rows], 5),
    "area": lambda rows: risk_coverage_area(LOSSES[rows], SCORES[rows]),
    "excess area": lambda rows: excess_risk_coverage_area(LOSSES[rows], SCORES[rows]),
}


@pytest.mark.parametrize("make", STATISTICS.values(), ids=STATISTICS)
def test_a_statistic_of_counts_is_that_of_rows_repeated_as_often(make) -> None:
    counts = np.concatenate(list(drawn((ROWS,), 20, 3)))
    repeated = [make(np.repeat(np.arange(ROWS), c.astype(int))).once() for c in counts]
    np.testing.assert_allclose(make(np.arange(ROWS)).value(counts), repeated, rtol=1e-10, atol=1e-14)
    rest = np.zeros((3, ROWS))
    rest[:, LOSSES.argsort()[[0, 1, -2, -1]]] = [[1, 0, 7, 0], [0, 0, 0, 4], [2, 1, 1, 0]]  # fewer than there are rows
    repeated = [make(np.repeat(np.arange(ROWS), c.astype(int))).once() for c in rest]
    np.testing.assert_allclose(make(np.arange(ROWS)).value(rest), repeated, rtol=1e-10, atol=1e-14)


def test_two_sets_are_resampled_each_by_itself() -> None:
    statistic = separation(SCORES[:20], SCORES[20:])
    counts = np.concatenate(list(drawn(statistic.sets, 50, 1)))
    assert (counts[:, :20].sum(1) == 20).all()
    assert (counts[:, 20:].sum(1) == 40).all()
    often = counts.astype(int)
    repeated = [separation(np.repeat(SCORES[:20], c[:20]), np.repeat(SCORES[20:], c[20:])).once() for c in often]
    np.testing.assert_allclose(statistic.value(counts), repeated, rtol=1e-12)


def test_two_sets_of_as_many_rows_are_not_resampled_alike() -> None:
    counts = np.concatenate(list(drawn((20, 20), 50, 1)))
    assert abs(np.corrcoef(counts[:, :20].ravel(), counts[:, 20:].ravel())[0, 1]) < 0.2


def test_every_row_is_as_likely_in_a_resample_as_any_other() -> None:
    counts = np.concatenate(list(drawn((10,), 20_000, 0)))
    assert (counts.sum(1) == 10).all()
    assert counts.mean(0) == pytest.approx(np.ones(10), abs=0.04)
    assert counts.var(0) == pytest.approx(np.full(10, 0.9), abs=0.04)


@pytest.mark.parametrize("sets", [(7,), (1,), (300, 3)])
@pytest.mark.parametrize("cells", [1, 100, 1000])
def test_resamples_depend_on_the_seed_and_not_on_how_many_are_drawn_at_a_time(monkeypatch, sets, cells) -> None:
    whole = np.concatenate(list(drawn(sets, 101, 5)))
    assert whole.shape == (101, sum(sets))
    monkeypatch.setattr(module, "CELLS", cells)
    np.testing.assert_array_equal(np.concatenate(list(drawn(sets, 101, 5))), whole)
    assert sets == (1,) or (np.concatenate(list(drawn(sets, 101, 6))) != whole).any()


def test_methods_that_err_alike_differ_by_nothing_and_the_interval_of_their_difference_says_so() -> None:
    both = bootstrap({"eval": mean_of(LOSSES), "mc": mean_of(LOSSES + 0.25), "other": mean_of(LOSSES[::-1])})
    gain = both.difference("mc", "eval")
    assert (gain.estimate, gain.low, gain.high) == pytest.approx((0.25, 0.25, 0.25))
    assert both.interval("eval").high - both.interval("eval").low > 0.2
    other = both.difference("other", "eval")
    assert other.low < 0 < other.high
    reverse = both.difference("eval", "other")
    assert (reverse.estimate, reverse.low, reverse.high) == (-other.estimate, -other.high, -other.low)


def test_an_interval_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    values = np.random.default_rng(2).normal(size=1000)
    found = bootstrap({"mean": mean_of(values)}, 20_000).interval("mean")
    assert found.estimate == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(1000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)


def covered(make, truth: float, runs: int) -> float:
    """Share of intervals at 90 %, of rows that are made from a seed, that hold the truth."""
    found = [bootstrap({"": make(seed)}, 400, seed, 0.9).interval("") for seed in range(runs)]
    return float(np.mean([i.low <= truth <= i.high for i in found]))


def test_intervals_hold_the_true_mean_and_the_true_auroc_about_as_often_as_they_say() -> None:
    def mean(seed):
        return mean_of(np.random.default_rng(seed).exponential(size=100))

    def auroc(seed):
        random = np.random.default_rng(seed)
        return separation(random.random(80), random.random(80) + 0.2)

    assert covered(mean, 1.0, 400) == pytest.approx(0.88, abs=0.045)
    assert covered(auroc, 1 - 0.8**2 / 2, 400) == pytest.approx(0.89, abs=0.045)


def test_the_calibration_error_of_a_calibrated_predictor_is_0_and_no_interval_says_so_as_its_docstring_warns() -> None:
    lows = [bootstrap({"": calibration_error(*top_label(*classified(500, seed=seed)))}, 200).interval("").low
            for seed in range(20)]
    assert min(lows) > 0.03


def test_an_infinite_loss_makes_infinite_what_has_it_and_nothing_else() -> None:
    losses = log_losses([[1.0, 0.0]] + [[0.5, 0.5]] * 9, [1] * 10)
    found = bootstrap({"clipped": mean_of(np.minimum(losses, 9)), "loss": mean_of(losses)}, 1000)
    interval = found.interval("loss")
    assert (interval.estimate, interval.high) == (math.inf, math.inf)
    assert interval.low == pytest.approx(math.log(2))  # a resample without that row, as 35 % are
    undefined = found.difference("loss", "loss")
    assert all(math.isnan(v) for v in (undefined.estimate, undefined.low, undefined.high))


def test_where_all_rows_are_alike_the_interval_has_no_width_as_the_docstring_warns() -> None:
    interval = bootstrap({"errors": mean_of(np.zeros(100))}, 100).interval("errors")
    assert (interval.low, interval.high) == (0, 0)


def test_the_interval_leaves_out_equally_many_resamples_on_either_side() -> None:
    found = percentile_interval(3.0, np.random.default_rng(0).permutation(2000.0 * np.arange(2000)), 0.95)
    assert (found.low, found.high) == (2000.0 * 50, 2000.0 * 1949)
    assert percentile_interval(0.0, np.arange(1.0), 0.5).low == 0


def test_resamples_and_estimates_do_not_depend_on_what_else_is_asked_for() -> None:
    p, y = classified()
    accuracy = one_minus(mean_of(class_errors(p, y)))
    alone = bootstrap({"accuracy": accuracy}, 200, seed=4)
    among = bootstrap({"loss": mean_of(log_losses(p, y)), "accuracy": accuracy}, 200, seed=4)
    assert alone.interval("accuracy") == among.interval("accuracy")


def test_memory_stays_bounded_however_many_resamples_there_are() -> None:
    statistics = {"mean": mean_of(np.ones(20_000)), "area": risk_coverage_area(np.ones(20_000), np.arange(20_000))}
    bootstrap(statistics, 60)

    def peak(resamples: int) -> int:
        tracemalloc.start()
        bootstrap(statistics, resamples)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(600) < 1.1 * peak(150) < 200 * 2**20


@pytest.mark.parametrize(("call", "message"), [
    (lambda: bootstrap({}), "statistics: at least one expected, got none"),
    (lambda: bootstrap({"a": mean_of([1.0]), "b": mean_of([1.0, 2.0])}),
     r"the rows of 'a', \[1\], expected, got \[2\] of 'b'"),
    (lambda: bootstrap({"a": mean_of([1.0])}, 39), "resamples: at least 40 expected at level 0.95, got 39"),
    (lambda: bootstrap({"a": mean_of([1.0])}, 0), "resamples: an integer of at least 1 expected, got 0"),
    (lambda: bootstrap({"a": mean_of([1.0])}, seed=-1), "seed: an integer of at least 0 expected, got -1"),
    (lambda: bootstrap({"a": mean_of([1.0])}, level=95), "level: a number between 0 and 1 expected, got 95"),
    (lambda: mean_of([]), "values: at least one row expected"),
    (lambda: mean_of([1.0, math.nan]), "values: numbers expected, got nan at row 1"),
    (lambda: mean_of([math.inf, -math.inf]), "infinities of one sign expected, got both"),
    (lambda: root_mean_of([-1.0]), "squares: numbers not below 0 expected, got -1"),
])
def test_what_has_no_interval_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_statistic_of_ones_own_is_a_function_of_counts() -> None:
    most = Statistic((3,), lambda counts: np.where(counts > 0, [1.0, 2.0, 3.0], 0).max(1))
    found = bootstrap({"most": most}, 100)
    assert found.estimates["most"] == 3
    assert found.interval("most").low < 3
