"""The engine's queue: bounds, deadlines, faults and the end."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service import events
from service.clock import ManualClock
from service.errors import DeadlineExceeded, Draining, InvalidOption, ModelFailed, Overloaded, TooLarge
from service.repository import ReadyModel, load_model
from service.sampling.steps import Steps, Work
from service.scheduling import Engine, Job, Limits, Options
from service.scheduling.limits import check_size
from tests.scheduling.jobs import FOREVER, Scripted, blocked, job


@pytest.fixture(scope="module")
def model(small_models: Path) -> ReadyModel:
    return load_model(small_models / "flowers" / "1")


def test_both_modes_answer_with_their_arrays(model) -> None:
    engine = Engine()
    assert engine.submit(job(model, rows=3)).result().arrays["values"].shape == (3, 2)
    answer = engine.submit(job(model, rows=3, samples=20)).result()
    assert answer.arrays["mean"].shape == (3, 2)
    assert answer.arrays["std_se"] is None
    assert set(answer.timings_s) == {"queue", "device", "summary"}
    engine.drain()


def test_a_model_that_raises_fails_its_own_job_and_the_next_is_answered(model) -> None:
    def act(_: Any) -> torch.Tensor:
        raise RuntimeError("boom\nwith a long traceback")

    engine = Engine()
    with pytest.raises(ModelFailed, match=r"RuntimeError: boom$"):
        engine.submit(job(model, act=act)).result()
    assert engine.submit(job(model)).result().arrays["values"].shape == (1, 2)
    engine.drain()


def test_a_full_queue_refuses_with_a_time_to_come_back(model) -> None:
    clock = ManualClock()
    engine = Engine(Limits(queue_s=2.0), clock)
    engine.submit(job(model, act=lambda _: (clock.advance(1.0), torch.ones(1, 2))[1])).result()  # a pass costs 1 s
    release, first = blocked(engine, model)
    second = engine.submit(job(model))
    with pytest.raises(Overloaded) as caught:
        engine.submit(job(model))
    assert caught.value.retry_after_s >= 1
    with pytest.raises(Overloaded):
        engine.check_room()
    release.set()
    first.result(), second.result()
    engine.check_room()
    engine.drain()


def test_a_deadline_that_the_queue_cannot_meet_is_refused_at_once(model) -> None:
    clock = ManualClock()
    engine = Engine(clock=clock)
    engine.submit(job(model, act=lambda _: (clock.advance(1.0), torch.ones(1, 2))[1])).result()
    with pytest.raises(DeadlineExceeded, match="would take about"):
        engine.submit(job(model, deadline=clock.now() + 0.5))
    engine.drain()


def test_a_deadline_that_passes_while_waiting_is_not_computed(model) -> None:
    clock = ManualClock()
    engine = Engine(clock=clock)
    release, first = blocked(engine, model)
    ran: list[Any] = []
    late = engine.submit(job(model, deadline=clock.now() + 5, act=ran.append))
    clock.advance(10)
    release.set()
    first.result()
    with pytest.raises(DeadlineExceeded):
        late.result()
    assert ran == []
    engine.drain()


def test_a_deadline_that_passes_while_sampling_ends_the_work(model) -> None:
    class Hasty(ManualClock):
        def now(self) -> float:
            self.advance(1)
            return super().now()

    engine = Engine(clock=Hasty())
    with pytest.raises(DeadlineExceeded):
        engine.submit(job(model, rows=8, samples=10_000, deadline=3.5)).result()
    engine.drain()


def test_draining_answers_what_was_admitted_and_refuses_the_rest(model) -> None:
    engine = Engine()
    release, first = blocked(engine, model)
    second = engine.submit(job(model))
    draining = threading.Thread(target=engine.drain)
    draining.start()
    release.set()
    draining.join(30)
    assert first.done()
    assert second.result().arrays["values"].shape == (1, 2)
    with pytest.raises(Draining):
        engine.submit(job(model))


def test_warming_a_model_is_not_refused_while_the_queue_is_full(model, monkeypatch) -> None:
    clock = ManualClock()
    engine = Engine(Limits(queue_s=2.0), clock)
    engine.submit(job(model, act=lambda _: (clock.advance(1.0), torch.ones(1, 2))[1])).result()
    release, first = blocked(engine, model)
    engine.submit(job(model))
    with pytest.raises(Overloaded):
        engine.submit(job(model))
    submit = engine._submit_unbounded

    def submitted(job: Job) -> Future[Any]:
        future = submit(job)
        release.set()  # the first job of the warming waits now; it must also outlive a long wait
        clock.advance(10_000)
        return future

    monkeypatch.setattr(engine, "_submit_unbounded", submitted)
    engine.warm(model)
    first.result()
    assert engine.submit(job(model, rows=2, samples=20)).result().arrays["mean"].shape == (2, 2)
    engine.drain()


def test_a_model_that_fails_while_it_is_warmed_says_so(model) -> None:
    def act(_: Any) -> torch.Tensor:
        raise RuntimeError("boom")

    engine = Engine()
    with pytest.raises(ModelFailed, match="boom"):
        engine.warm(replace(model, sampler=Scripted(act)))  # type: ignore[arg-type]
    engine.drain()


def test_what_nobody_waits_for_any_more_ends_at_its_next_checkpoint(model, monkeypatch) -> None:
    engine = Engine()
    release, first = blocked(engine, model)
    sampled, plain = engine.submit(job(model, rows=100, samples=10_000)), engine.submit(job(model))
    join = engine._thread.join
    monkeypatch.setattr(engine._thread, "join", lambda: (release.set(), join(30)))  # what runs ends once drain waits
    engine.drain(abandon=True)
    assert not engine._thread.is_alive()
    assert first.done()
    for abandoned in (sampled, plain):
        with pytest.raises(Draining):
            abandoned.result()


def test_a_job_that_runs_when_the_server_gives_up_ends_early(model) -> None:
    chunks: list[int] = []
    engine = Engine()

    class Interrupted(Scripted):
        def sampling(self, *arguments: Any, **options: Any) -> Any:
            def work() -> Any:
                for chunk in range(1000):
                    chunks.append(chunk)
                    if chunk == 3:
                        engine._abandoned = True
                    yield

            return Steps(work(), nullcontext)

    stopped = job(model, samples=20).but(model=replace(model, sampler=Interrupted(None)))  # type: ignore[arg-type]
    with pytest.raises(Draining):
        engine.submit(stopped).result()
    assert chunks == [0, 1, 2, 3]
    engine.drain()


def test_a_job_whose_caller_gave_up_is_not_run(model) -> None:
    engine = Engine()
    release, first = blocked(engine, model)
    ran: list[Any] = []
    given_up = engine.submit(job(model, act=ran.append))
    assert given_up.cancel()
    release.set()
    first.result()
    engine.drain()
    assert ran == []


def test_the_core_tells_what_happened(model) -> None:
    seen: list[events.Event] = []
    engine = Engine(observer=seen.append)
    engine.submit(job(model, rows=3, samples=20)).result()
    engine.drain()
    assert events.BatchRan("flowers", "uncertainty", 1, 3) in seen
    assert engine.rows == {"flowers": 0}
    sampled = next(e for e in seen if isinstance(e, events.RowsSampled))
    assert (sampled.samples, len(sampled.entropy), sampled.zero_variance) == ([20], 3, 0)


def test_memory_that_ran_out_is_told_even_where_the_job_failed(model) -> None:
    class Cramped(Scripted):
        def predicting(self, inputs: Any) -> Steps[torch.Tensor]:
            def work() -> Work[torch.Tensor]:
                yield from ()
                self.out_of_memory_retries += 2
                return self._act(inputs)

            return Steps(work(), nullcontext)

    def never(_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("not one row fits")

    seen: list[events.Event] = []
    engine = Engine(observer=seen.append)
    for act in (lambda _: torch.ones(1, 2), never):
        job_ = job(model).but(model=replace(model, sampler=Cramped(act)))  # type: ignore[arg-type]
        future = engine.submit(job_)
        assert (future.exception() is None) == (act is not never)
    engine.drain()
    told = [e for e in seen if isinstance(e, events.OutOfMemoryRetried)]
    assert told == [events.OutOfMemoryRetried("flowers", 2)] * 2


def test_a_closed_form_costs_a_row_once_and_teaches_nothing_about_samples(small_models) -> None:
    height = load_model(small_models / "height" / "1")
    seen: list[events.Event] = []
    clock = ManualClock()
    engine = Engine(clock=clock, observer=seen.append)
    inputs = {"x": torch.ones(3, 4)}
    exact = Job(height, "uncertainty", inputs, 0.5, Options(50, 0, "shared", "balanced"))
    sampled = exact.but(options=Options(50, 0, "shared", "balanced", method="sampled"))
    assert (exact.method, exact.passes, sampled.method, sampled.passes) == ("closed_form", 3, "sampled", 150)

    class Slow:
        """Costs 1 s."""

        method_for = height.sampler.method_for
        out_of_memory_retries = 0

        def sampling(self, *given: Any, **named: Any) -> Any:
            def work() -> Work[Any]:
                clock.advance(1.0)
                return (yield from height.sampler.sampling(*given, **named)._work)

            return Steps(work(), nullcontext)

    slow = exact.but(model=replace(height, sampler=Slow()), deadline=FOREVER)  # type: ignore[arg-type]
    assert engine.submit(slow).result().samples == 0
    with pytest.raises(DeadlineExceeded, match=r"about 1\.000 s"):
        engine.submit(exact.but(deadline=clock.now() + 0.5))
    assert engine.submit(sampled.but(deadline=clock.now() + 0.5)).result().samples == 50
    engine.drain()
    drawn = [(e.samples, list(e.standard_error), e.zero_variance) for e in seen if isinstance(e, events.RowsSampled)]
    assert drawn[0] == ([0], [0.0] * 3, 0)
    assert drawn[1][0] == [50]


@pytest.mark.parametrize(("rows", "samples", "kept", "error"), [
    (4097, 1, 0, TooLarge), (101, 10_000, 0, TooLarge), (1, 10_001, 0, InvalidOption), (10, 10, 1_000_001, TooLarge),
])
def test_what_is_over_a_limit_is_refused_before_the_queue(rows, samples, kept, error) -> None:
    with pytest.raises(error):
        check_size(Limits(), rows, samples, kept)
    check_size(Limits(), 4096, 200, 1_000_000)
