"""Jobs that somebody watches, and how work is cut so that they answer as those do that nobody watches."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from service.events import BatchRan
from service.repository import ReadyModel, load_model
from service.scheduling import Answer, Engine, Job
from service.scheduling.costs import Costs
from tests.scheduling.jobs import blocked, job


class Eye:
    """Sees so many answers on the way, then wants no more."""

    def __init__(self, most: int = 1000) -> None:
        self.most, self.seen = most, list[Answer]()

    def wants(self) -> bool:
        return len(self.seen) < self.most

    def see(self, so_far: Answer) -> None:
        self.seen.append(so_far)


@pytest.fixture(scope="module")
def model(small_models) -> ReadyModel:
    return load_model(small_models / "flowers" / "1")


def watched(model: ReadyModel, eye: Eye, **options) -> Job:
    return job(model, **options).but(watcher=eye)


def test_a_watched_job_answers_as_one_that_nobody_watches(model) -> None:
    engine, eye = Engine(), Eye()
    plain = engine.submit(job(model, rows=2, samples=70, quantiles=(0.5,))).result(30)
    answer = engine.submit(watched(model, eye, rows=2, samples=70, quantiles=(0.5,))).result(30)
    for name, array in plain.arrays.items():
        assert np.array_equal(answer.arrays[name], array)
    assert [so_far.stops.samples for so_far in eye.seen] == [[n, n] for n in range(10, 70, 10)]
    assert all(so_far.stops.stopped == [None, None] for so_far in eye.seen)
    assert "quantiles" not in eye.seen[0].arrays
    engine.drain()


def test_who_wants_no_more_is_shown_no_more(model) -> None:
    engine, eye = Engine(), Eye(most=2)
    assert engine.submit(watched(model, eye, samples=70)).result(30).samples == 70
    assert len(eye.seen) == 2
    engine.drain()


def test_watched_jobs_run_alone_and_teach_no_costs(model) -> None:
    ran: list[int] = []
    engine = Engine(observer=lambda event: ran.append(event.requests) if isinstance(event, BatchRan) else None)
    release, first = blocked(engine, model)
    waiting = [engine.submit(watched(model, Eye(), samples=20)) for _ in range(3)]
    release.set()
    first.result(30)
    for future in waiting:
        future.result(30)
    engine.drain()
    assert ran == [1, 1, 1, 1]
    assert engine._costs.estimate_s(job(model, samples=20).kind, 20) == 0


def test_a_watched_job_is_due_after_ten_times_what_watched_ones_took(model) -> None:
    engine = Engine()
    plain = job(model, samples=20)
    followed = watched(model, Eye(), samples=20)
    engine.submit(plain).result(30)
    cost_s = engine._costs.estimate_s(plain.kind, plain.passes)
    assert engine._due(plain, 7.0, cost_s) == 7 + 10 * cost_s > 7
    assert engine._due(followed, 7.0, cost_s) == 7 + 40 * cost_s
    engine.submit(followed).result(30)
    took_s = engine._watched.estimate_s(plain.kind, plain.passes)
    assert engine._due(followed, 7.0, cost_s) == 7 + 10 * took_s > 7
    engine.drain()


def test_a_short_job_goes_between_two_answers_on_the_way(model) -> None:
    engine = Engine()
    engine.submit(job(model)).result(30)
    engine.submit(watched(model, Eye(), samples=2000)).result(30)  # what both take is known from here on
    short: list[Future[Answer]] = []
    answered_at: list[int] = []

    class Asking(Eye):
        def see(self, so_far: Answer) -> None:
            super().see(so_far)
            if not short:
                short.append(engine.submit(job(model)))
            elif short[0].done() and not answered_at:
                answered_at.append(len(self.seen))

    eye = Asking()
    engine.submit(watched(model, eye, samples=2000)).result(30)
    assert answered_at
    assert answered_at[0] < len(eye.seen) / 2
    engine.drain()


def test_an_eye_that_fails_fails_its_job_only(model) -> None:
    class Blind(Eye):
        def see(self, so_far: Answer) -> None:
            raise RuntimeError("blind")

    engine = Engine()
    with pytest.raises(Exception, match="blind"):
        engine.submit(watched(model, Blind(), samples=30)).result(30)
    assert engine.submit(job(model, samples=30)).result(30).samples == 30
    engine.drain()


def test_a_cost_by_which_work_is_cut_is_steady_until_it_is_off_by_far() -> None:
    costs = Costs()
    assert costs.steady_s("kind", 64) == 0
    costs.learn("kind", 64, 0.64)
    steady = [costs.steady_s("kind", 64)]
    for seconds in (0.4, 0.9, 1.2, 0.3):
        costs.learn("kind", 64, seconds)
        steady.append(costs.steady_s("kind", 64))
    assert steady == pytest.approx([0.64] * 5)
    costs.learn("kind", 64, 0.01)
    assert costs.steady_s("kind", 64) == pytest.approx(0.01)
    assert costs.steady_s("kind", 32) == pytest.approx(costs.estimate_s("kind", 32))
