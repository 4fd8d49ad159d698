"""Whose turn it is: pure functions of what waits, time and limits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.repository import ReadyModel, load_model
from service.scheduling.costs import Costs
from service.scheduling.policy import Shares, most_urgent
from service.scheduling.queue import STRETCH, Queue, Ticket, due
from tests.scheduling.jobs import job


@pytest.fixture(scope="module")
def model(small_models: Path) -> ReadyModel:
    return load_model(small_models / "flowers" / "1")


def named(model: ReadyModel, name: str) -> ReadyModel:
    return replace(model, manifest=replace(model.manifest, name=name))


def queued(
    queue: Queue, model: ReadyModel, now: float = 0.0, cost_s: float = 1.0, backlog_s: float = 0.0, **options: Any
) -> Ticket:
    one = job(model, **options)
    ticket = queue.ticket(one, now, cost_s, due(one, now, cost_s, backlog_s), lambda outcome: None)
    queue.add(ticket)
    return ticket


def everything(queue: Queue, shares: Shares | None = None, most: int = 1) -> list[list[Ticket]]:
    """Batches in the order in which they would run, of at most so many rows."""
    batches = []
    while (first := most_urgent(queue.first_of_each_model(), shares or Shares())) is not None:
        batches.append(queue.take(first, lambda rows, passes: rows <= most))
        if shares is not None:
            shares.spent(first.model.name, sum(t.cost_s for t in batches[-1]))
    return batches


def test_higher_priority_first_then_what_is_due_first_then_what_came_first(model) -> None:
    queue = Queue()
    late, soon = queued(queue, model, deadline=9.0), queued(queue, model, deadline=3.0)
    also_soon, urgent = queued(queue, model, deadline=3.0), queued(queue, model, priority=7)
    assert [t for batch in everything(queue) for t in batch] == [urgent, soon, also_soon, late]


def test_short_jobs_pass_long_ones_but_none_waits_for_ever(model) -> None:
    queue = Queue()
    long = queued(queue, model, now=0.0, cost_s=1.0)
    before = queued(queue, model, now=STRETCH - 0.5, cost_s=0.01)
    after = queued(queue, model, now=STRETCH, cost_s=0.01)
    assert [t for batch in everything(queue) for t in batch] == [before, long, after]


def test_short_jobs_pass_long_ones_that_have_waited_behind_many_of_their_kind(model) -> None:
    queue = Queue()
    long = [queued(queue, model, cost_s=0.2, backlog_s=0.2 * i) for i in range(40)]
    for _ in range(20):
        queue.take(long.pop(0), lambda rows, passes: False)
    short = queued(queue, model, now=4.0, cost_s=0.001, backlog_s=4.0)
    assert [t for batch in everything(queue) for t in batch] == [short, *long]


def test_what_has_one_key_runs_together_and_nothing_else(model) -> None:
    queue = Queue()
    first, mate = queued(queue, model, samples=50), queued(queue, model, samples=50, rows=2)
    others = ({"samples": 60}, {"samples": 50, "seed": 1, "rows": 9}, {"samples": 50, "masks": "independent"}, {})
    for other in others:
        queued(queue, model, **other)
    failed = queue.ticket(job(model, samples=50), 0.0, 1.0, 10.0, lambda outcome: None)
    failed.set_apart()
    queue.add(failed)
    cut = queued(queue, model, samples=50, partial=True)
    batches = everything(queue, most=100)
    assert batches[0] == [first, mate]
    assert [len(batch) for batch in batches] == [2, 1, 1, 1, 1, 1, 1]
    assert [failed] in batches
    assert [cut] in batches


def test_small_jobs_of_other_seeds_run_together_where_each_row_is_computed_by_itself(model, monkeypatch) -> None:
    queue = Queue()
    monkeypatch.setattr(type(model.sampler), "mixes_seeds", True)
    mates = [queued(queue, model, samples=50, seed=seed, rows=1 + seed) for seed in range(3)]
    apart = ({"rows": 9}, {"masks": "independent"}, {"tolerance": 0.1, "design": "iid"})
    for other in apart:
        queued(queue, model, samples=50, seed=7, **other)
    assert [len(batch) for batch in everything(queue, most=100)] == [3, 1, 1, 1]
    monkeypatch.setattr(type(model.sampler), "mixes_seeds", False)
    for ticket in mates:
        queue.add(queue.ticket(ticket.job.but(), 0.0, 1.0, 10.0, lambda outcome: None))
    assert [len(batch) for batch in everything(queue, most=100)] == [1, 1, 1]


def test_no_more_than_eight_seeds_run_together(model, monkeypatch) -> None:
    queue = Queue()
    monkeypatch.setattr(type(model.sampler), "mixes_seeds", True)
    for seed in (0, 1, 2, 3, 4, 5, 6, 7, 7, 0, 8, 9, 0):
        queued(queue, model, samples=50, seed=seed)
    assert [[t.job.seed for t in batch] for batch in everything(queue, most=100)] == [
        [0, 1, 2, 3, 4, 5, 6, 7, 7, 0], [8, 9, 0]]


def test_a_batch_takes_jobs_in_order_until_it_is_full(model) -> None:
    queue = Queue()
    tickets = [queued(queue, model, rows=rows, deadline=float(place))
               for place, rows in enumerate((3, 4, 2, 5, 1), start=1)]
    assert everything(queue, most=9) == [tickets[:3], tickets[3:]]
    assert len(queue) == 0


def test_a_job_that_is_too_much_for_any_batch_runs_by_itself(model) -> None:
    queue = Queue()
    big, small = queued(queue, model, rows=50, deadline=1.0), queued(queue, model)
    assert everything(queue, most=8) == [[big], [small]]


def test_models_with_work_get_equal_parts_of_the_device(model) -> None:
    queue, shares = Queue(), Shares()
    shares.joins("flood")
    shares.spent("flood", 100.0)
    shares.joins("quiet")
    for _ in range(20):
        queued(queue, named(model, "flood"), cost_s=0.1)
    for _ in range(4):
        queued(queue, named(model, "quiet"), cost_s=0.1)
    order = [batch[0].model.name for batch in everything(queue, shares)]
    assert order[:8].count("quiet") == 4


def test_a_model_that_was_idle_has_saved_nothing_up(model) -> None:
    shares = Shares()
    shares.joins("idle")
    shares.spent("busy", 100.0)
    shares.joins("idle")
    assert shares.of("idle") == shares.of("busy") == 100.0


def test_a_ticket_that_left_is_not_taken_and_leaves_nothing_behind(model) -> None:
    queue = Queue()
    kept, gone = queued(queue, model, deadline=5.0), queued(queue, model, deadline=1.0)
    lone = queued(queue, model, samples=70)
    queue.remove(gone)
    queue.remove(lone)
    assert everything(queue, most=10) == [[kept]]
    assert not list(queue.first_of_each_model())
    assert not queue._groups
    assert not queue._leaders
    assert not queue._leading
    assert queue.ahead_s(0, 99) == 0


def test_a_queue_that_is_filled_and_emptied_again_and_again_does_not_grow(model) -> None:
    queue = Queue()
    for turn in range(50):
        for _ in range(5):
            queued(queue, model, now=float(turn))
        queued(queue, model, now=float(turn), priority=turn % 10)
        next(iter(queue.first_of_each_model()))
        while (first := next(queue.first_of_each_model(), None)) is not None:
            queue.take(first, lambda rows, passes: rows <= 4)
            assert len(queue._leaders["flowers"]) <= 3
    assert not queue._leaders


def test_work_ahead_is_that_of_higher_priority_and_of_jobs_no_longer(model) -> None:
    queue = Queue()
    for rows, priority in ((1, 5), (100, 5), (10, 7), (10, 3)):
        queued(queue, model, cost_s=float(rows), rows=rows, priority=priority)
    one, hundred = job(model).size, job(model, rows=100).size
    assert queue.ahead_s(5, one) == pytest.approx(11.0)
    assert queue.ahead_s(5, hundred) == pytest.approx(111.0)
    assert queue.ahead_s(8, one) == 0
    assert queue.ahead_s(0, one) == pytest.approx(121.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100), st.floats(0, 10), st.integers(1, 9), st.booleans()),
                max_size=30))
def test_every_job_runs_once_in_its_order_whatever_came(model, jobs) -> None:
    queue = Queue()
    tickets = [
        queued(queue, model, now, cost_s, priority=priority, rows=rows, **({"samples": 20} if sampled else {}))
        for priority, now, cost_s, rows, sampled in jobs
    ]
    batches = everything(queue, most=12)
    assert sorted(map(id, (t for batch in batches for t in batch))) == sorted(map(id, tickets))
    leaders = [batch[0].order for batch in batches]
    assert all(a <= b for a, b in pairwise(leaders))
    assert all(t.order <= u.order for batch in batches for t, u in pairwise(batch))
    assert all(sum(t.job.rows for t in batch) <= 12 for batch in batches if len(batch) > 1)


def test_costs_are_what_was_seen_and_between_sizes_they_are_between() -> None:
    costs = Costs()
    assert costs.estimate_s("new", 50) == 0.0
    costs.learn("a", 50, 100e-6)
    costs.learn("a", 400, 200e-6)
    assert costs.estimate_s("a", 50) == pytest.approx(100e-6)
    assert costs.estimate_s("a", 400) == pytest.approx(200e-6)
    assert 100e-6 < costs.estimate_s("a", 150) < 200e-6
    assert costs.estimate_s("a", 40_000) == pytest.approx(20e-3)
    assert costs.estimate_s("a", 1) == pytest.approx(costs.estimate_s("a", 10)) == pytest.approx(64e-6)
    assert costs.estimate_s("b", 50) == 0.0


def test_one_slow_batch_hardly_moves_a_cost_and_a_slower_machine_does() -> None:
    costs = Costs()
    costs.learn("a", 8, 8.0)
    costs.learn("a", 8, 8000.0)
    assert costs.estimate_s("a", 8) < 16
    for _ in range(40):
        costs.learn("a", 8, 80.0)
    assert costs.estimate_s("a", 8) == pytest.approx(80, rel=0.05)
