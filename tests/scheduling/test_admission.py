"""Whether more work may wait, and how fast it is done."""

from __future__ import annotations

import pytest

from service.errors import Overloaded
from service.scheduling.admission import Admission, Drain


def worked(drain: Drain, expected_s: float, seconds: float, times: int = 50, now_s: float = 0.0) -> float:
    """Batches without a pause; when the last one ended."""
    drain.begins(now_s)
    for _ in range(times):
        now_s += seconds
        drain.done(expected_s, now_s)
    return now_s


@pytest.mark.parametrize(("expected_s", "rate"), [(8.0, 4.0), (1.0, 0.5)])
def test_the_drain_rate_is_what_is_done_in_the_time_that_passes(expected_s, rate) -> None:
    drain = Drain()
    assert drain.rate == 1.0
    worked(drain, expected_s, 2.0)
    assert drain.rate == pytest.approx(rate, rel=0.01)


def test_neither_idle_time_nor_work_that_nobody_knew_changes_the_drain_rate() -> None:
    drain = Drain()
    now_s = worked(drain, 8.0, 2.0)
    before = drain.rate
    drain.begins(now_s + 1000)
    drain.done(0.0, now_s + 1007)
    drain.begins(now_s + 2000)
    drain.done(8.0, now_s + 2002)
    assert drain.rate == pytest.approx(before, rel=0.01)


def test_one_short_batch_hardly_moves_the_drain_rate() -> None:
    drain = Drain()
    now_s = worked(drain, 0.02, 0.02, times=500)
    drain.done(0.02, now_s + 0.04)
    assert drain.rate == pytest.approx(1.0, rel=0.02)


def test_where_the_machine_has_more_to_do_less_may_wait() -> None:
    admission, now_s = Admission(most_s=5.0), 0.0
    admission.joined(1.0, now_s)
    admission.check_room(3.9)
    for _ in range(20):
        now_s += 2.0
        admission.joined(1.0, now_s)
        admission.done(1.0, now_s)  # a second of work takes two
        admission.left(1.0)
    assert admission.backlog_s == pytest.approx(1.0)
    admission.check_room(1.4)
    with pytest.raises(Overloaded, match=r"about 2\.0 s of work wait") as refused:
        admission.check_room(1.7)
    assert refused.value.retry_after_s == 1.0


def test_no_more_is_promised_than_a_slow_time_of_late_allows() -> None:
    drain = Drain()
    now_s = worked(drain, 1.0, 1.0)
    now_s = worked(drain, 1.0, 4.0, times=5, now_s=now_s)
    assert drain.low == drain.rate == pytest.approx(0.25, rel=0.1)
    now_s = worked(drain, 1.0, 1.0, times=8, now_s=now_s)
    assert drain.rate == pytest.approx(1.0, rel=0.1)
    assert drain.low < 0.6
    worked(drain, 1.0, 1.0, times=100, now_s=now_s)
    assert drain.low == pytest.approx(1.0, rel=0.02)


def test_what_nobody_waits_for_any_more_leaves_no_crumbs() -> None:
    admission = Admission(most_s=5.0)
    for _ in range(10):
        admission.joined(0.1, 0.0)
    for _ in range(10):
        admission.left(0.1)
    assert admission.backlog_s == 0.0
    admission.check_room(1e6)
