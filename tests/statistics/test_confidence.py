"""The confidence sequences: the recipe, its promise at any time, and how many samples it needs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from service.statistics.confidence import SHARES, STAKES, least_samples, log_wealth, log_wealth_bounds
from service.statistics.settling import (
    ABOVE,
    BELOW,
    DecisionWatch,
    ToleranceWatch,
    Watch,
    least_for_decision,
    look_every,
)

RUNS, T = 1000, 1000
LIMIT = math.log(2 / 0.05)


def bernoulli(mean: float, seed: int, runs: int = RUNS, samples: int = T) -> Tensor:
    """(samples, runs)"""
    return (torch.rand(samples, runs, generator=torch.Generator().manual_seed(seed)) < mean).float()


def u_shaped(seed: int, runs: int = RUNS, samples: int = T) -> Tensor:
    """An arcsine law: most samples near 0 or 1, mean 1/2."""
    u = torch.rand(samples, runs, generator=torch.Generator().manual_seed(seed))
    return (torch.pi * u / 2).sin().square()


def classes(first: Tensor) -> Tensor:
    """(samples, rows) to (samples, rows, two classes)."""
    return torch.stack([first, 1 - first], 2)


def softmax_like(seed: int, runs: int, samples: int, columns: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    centre = 2 * torch.randn(1, runs, columns, generator=g)
    return (1.5 * torch.randn(samples, runs, columns, generator=g) + centre).softmax(-1)


def watched(watch: Watch, values: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Where each row settled (0: nowhere) and on which side, looked at in steps; settled rows leave."""
    samples, rows, _ = values.shape
    counts, sides = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
    active = torch.arange(rows)
    for start in range(0, samples, step):
        at, side = watch.look(values, start, min(start + step, samples), active)
        counts[active], sides[active] = at, side
        active = active[at == 0]
        if not len(active):
            break
    return counts, sides


def tolerance_watch(tolerance: float, values: Tensor) -> ToleranceWatch:
    samples, rows, columns = values.shape
    return ToleranceWatch(tolerance, rows, columns, samples, values.device)


def plain_wealth(values: list[float], m: float, against_above: bool) -> float:
    """The recipe as it is written, without logarithms."""
    wealth = 0.0
    for stake, share in zip(STAKES, SHARES, strict=True):
        bet = share
        for x in values:
            bet *= 1 - stake * (x - m) / (1 - m) if against_above else 1 + stake * (x / m - 1)
        wealth += bet
    return wealth


def plain_tolerance_rule(values: Tensor, tolerance: float) -> Tensor:
    """At each 10th sample, everything anew: where each row settles, 0 where nowhere."""
    x = values.double()
    settled = torch.zeros(x.shape[1], dtype=torch.int64)
    for n in range(10, len(x) + 1, 10):
        mean = x[:n].mean(0)
        low, high = mean - tolerance, mean + tolerance
        up = (low <= 0) | (log_wealth(x[:n], low.clamp_min(1e-300)) >= LIMIT)
        down = (high >= 1) | (log_wealth(1 - x[:n], (1 - high).clamp_min(1e-300)) >= LIMIT)
        settled[(up & down).all(1) & (settled == 0)] = n
    return settled


def test_wealth_is_the_recipes() -> None:
    values = [0.2, 0.0, 1.0, 0.7, 0.3]
    x = torch.tensor(values, dtype=torch.float64)
    for m in (0.1, 0.5, 0.9):
        at = torch.tensor(m, dtype=torch.float64)
        assert float(log_wealth(x, at).exp()) == pytest.approx(plain_wealth(values, m, against_above=False))
        assert float(log_wealth(1 - x, 1 - at).exp()) == pytest.approx(plain_wealth(values, m, against_above=True))


def test_a_bettor_who_lost_everything_costs_only_his_share() -> None:
    x = torch.cat([torch.ones(200), torch.zeros(1)]).double()
    assert float(log_wealth(x, torch.tensor(0.5).double())) > 50


@pytest.mark.parametrize(("error", "needed"), [(0.01, 52), (0.001, 74)])
def test_a_row_that_always_says_1_settles_above_090_after_as_many_samples_as_known(error, needed) -> None:
    assert least_for_decision(0.9, error) == needed
    watch = DecisionWatch(0.9, error, torch.zeros(3, dtype=torch.int64))
    counts, sides = watched(watch, torch.ones(200, 3, 1), 10)
    assert counts.tolist() == [needed] * 3
    assert sides.tolist() == [ABOVE] * 3


def test_the_fewest_samples_are_found_where_they_are_countless_too() -> None:
    assert least_for_decision(0.5, 0.5) == 2
    assert least_for_decision(math.nextafter(1, 0), 0.01) > 10**16
    for growth in (0.01, 0.1, 1.0, 20.0):
        n = least_samples(growth, LIMIT)
        at, one = torch.tensor(1 / (1 + growth)).double(), torch.ones(n).double()
        assert float(log_wealth(one, at)) >= LIMIT > float(log_wealth(one[1:], at))


@pytest.mark.parametrize(("name", "mean", "values"), [
    ("minority of 3 %", 0.97, bernoulli(0.97, 1, samples=500)),
    ("minority of 3 %, the other class", 0.03, bernoulli(0.03, 2, samples=500)),
    ("constant", 0.3, torch.full((500, 20), 0.3)),
    ("U-shape", 0.5, u_shaped(3, samples=500)),
    ("coin", 0.5, bernoulli(0.5, 4, samples=500)),
])
def test_the_true_mean_is_left_out_at_any_time_with_at_most_the_stated_probability(name, mean, values) -> None:
    for error in (0.025, 0.1):
        watch = DecisionWatch(mean, error, torch.zeros(values.shape[1], dtype=torch.int64))
        _, sides = watched(watch, values.unsqueeze(2), 50)
        for side in (ABOVE, BELOW):
            assert float((sides == side).float().mean()) <= error, name


@pytest.mark.parametrize(("mean", "values"), [(0.97, bernoulli(0.97, 5, 500, 500)), (0.5, u_shaped(6, 120)),
                                              (0.5, torch.rand(T, 150, generator=torch.Generator().manual_seed(7)))])
def test_a_row_that_stopped_is_within_its_tolerance(mean, values) -> None:
    counts, _ = watched(tolerance_watch(0.05, classes(values)), classes(values), 50)
    stopped = (counts > 0).nonzero().flatten()
    found = torch.stack([values[: counts[i], i].double().mean() for i in stopped])
    assert len(stopped) > 100
    assert float(((found - mean).abs() > 0.05).float().mean()) <= 0.05


@pytest.mark.parametrize(("values", "low", "high"), [
    (torch.ones(T, 4), 90, 90), (bernoulli(0.97, 8, 100), 90, 350), (u_shaped(9, 50), 400, 800),
    (bernoulli(0.5, 10, 20), T, T),
])
def test_a_tolerance_of_005_needs_as_many_samples_as_known(values, low, high) -> None:
    counts, _ = watched(tolerance_watch(0.05, classes(values)), classes(values), 10)
    counts[counts == 0] = T
    assert low <= int(counts.min())
    assert int(counts.max()) <= high


@pytest.mark.parametrize("values", [classes(bernoulli(0.97, 11, 20, 300)), classes(u_shaped(12, 5)),
                                    softmax_like(13, 10, 400, 5), torch.full((200, 2, 3), 1 / 3)])
@pytest.mark.parametrize("step", [10, 70])
def test_bounds_and_cutting_into_blocks_do_not_change_where_a_row_stops(values, step) -> None:
    for tolerance in (0.05, 0.1):
        counts, _ = watched(tolerance_watch(tolerance, values), values, step)
        assert torch.equal(counts, plain_tolerance_rule(values, tolerance))


@pytest.mark.parametrize("step", [10, 70, 500])
def test_a_decision_falls_after_the_first_sample_that_allows_it_however_samples_are_cut(step) -> None:
    values = bernoulli(0.97, 14, 30, 500).unsqueeze(2)
    counts, _ = watched(DecisionWatch(0.9, 0.01, torch.zeros(30, dtype=torch.int64)), values, step)
    at = torch.tensor(0.9, dtype=torch.float64)
    for row in range(30):
        n = int(counts[row])
        x = values[:, row, 0].double()
        assert float(log_wealth(x[:n], at)) >= math.log(100) > float(log_wealth(x[: n - 1], at))


@pytest.mark.parametrize(("error", "low", "high"), [(0.01, 130, 180), (0.001, 190, 250)])
def test_a_minority_of_3_percent_takes_some_hundred_samples_to_be_settled_above_090(error, low, high) -> None:
    values = bernoulli(0.97, 15, 200, 600).unsqueeze(2)
    counts, sides = watched(DecisionWatch(0.9, error, torch.zeros(200, dtype=torch.int64)), values, 50)
    assert (sides == ABOVE).all()
    assert low <= int(counts.median()) <= high


def test_a_minority_of_3_percent_is_not_overlooked_more_often_than_allowed() -> None:
    values = bernoulli(0.97, 16, samples=600).unsqueeze(2)  # above 0.975 is wrong
    for error in (0.01, 0.05):
        _, sides = watched(DecisionWatch(0.975, error, torch.zeros(RUNS, dtype=torch.int64)), values, 50)
        assert float((sides == ABOVE).float().mean()) <= error


def test_no_decision_falls_before_there_is_a_standard_deviation() -> None:
    counts, sides = watched(DecisionWatch(0.99, 0.5, torch.zeros(1, dtype=torch.int64)), torch.zeros(20, 1, 1), 10)
    assert (counts.tolist(), sides.tolist()) == ([2], [BELOW])


def test_the_last_sample_is_looked_at_though_it_ends_no_block() -> None:
    tolerance = 0.048
    n = least_samples(tolerance / (1 - tolerance), LIMIT)
    assert n % 10 not in (0, 1)
    for samples, expected in ((n, n), (n - 1, 0), (n + 20, -(-n // 10) * 10)):
        values = torch.ones(samples, 1, 1)
        assert watched(tolerance_watch(tolerance, values), values, 10)[0].tolist() == [expected]


def test_looks_are_further_apart_where_there_are_many_samples() -> None:
    assert [look_every(n) for n in (10, 1000, 1010, 2000, 9999, 10_000)] == [10, 10, 20, 20, 100, 100]
    tolerance = 0.0036
    n = least_samples(tolerance / (1 - tolerance), LIMIT)
    assert 1200 < n < 1300
    assert 0 < n % 20 < 10  # the next 10th sample is no 20th
    values = torch.ones(1500, 1, 1)
    assert watched(tolerance_watch(tolerance, values), values, 10)[0].tolist() == [-(-n // 20) * 20]


def test_the_class_that_is_watched_is_each_rows_own() -> None:
    values = torch.stack([torch.ones(100, 2), torch.zeros(100, 2)], 2)
    counts, sides = watched(DecisionWatch(0.9, 0.01, torch.tensor([0, 1])), values, 10)
    assert sides.tolist() == [ABOVE, BELOW]
    assert counts[0] == 52


@pytest.mark.parametrize("values", [bernoulli(0.2, 17, 50, 60), u_shaped(18, 50, 60), torch.full((60, 50), 0.4)])
def test_wealth_lies_between_its_bounds(values) -> None:
    x = values.double()
    mean, variance = x.mean(0), x.var(0, correction=0)
    for at in (0.05, 0.3, 0.6, 0.95):
        m = torch.full_like(mean, at)
        least, most = log_wealth_bounds(torch.tensor(60.0), mean, variance, x.amin(0), x.amax(0), m)
        exact = log_wealth(x, m)
        assert (least <= exact + 1e-9).all()
        assert (exact <= most + 1e-9).all()


def test_a_tolerance_that_nobody_reaches_wants_a_number_of_samples_all_the_same() -> None:
    wanted = [least_samples(growth, LIMIT) for growth in (5e-324, 1e-300, 1e-100, 1e-9)]
    assert wanted == sorted(wanted, reverse=True)
    assert min(wanted) > 1_000_000
