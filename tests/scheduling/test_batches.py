"""Jobs that run together, part by part, and what becomes of those that fail, leave or run out of time."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service import events
from service.clock import ManualClock
from service.errors import DeadlineExceeded, ErrorbarError, ModelFailed, NotReady
from service.repository import ReadyModel, load_model
from service.scheduling import Answer, Engine, Job, Limits, Options
from service.scheduling.policy import STEP_S
from tests.scheduling.jobs import FOREVER, blocked, job, scripted


@pytest.fixture(scope="module")
def model(small_models: Path) -> ReadyModel:
    return load_model(small_models / "flowers" / "1")


def twice(rows: torch.Tensor) -> torch.Tensor:
    return 2 * rows[:, :2]


def asked(generator: random.Random) -> tuple[int, Options | None]:
    """Rows and options of a random request."""
    kind = generator.randrange(5)
    if kind == 0:
        return generator.randint(1, 9), None
    if kind == 1:
        return generator.randint(1, 4), Options(1000, generator.randint(0, 3), "shared", "iid", tolerance=0.08)
    return generator.randint(1, 9), Options(
        generator.choice([20, 50, 500]), generator.randint(0, 2), generator.choice(["shared", "independent"]),
        generator.choice(["balanced", "iid"]), include_samples=kind == 2)


def test_five_hundred_requests_at_random_loads_answer_as_each_does_alone(small_models) -> None:
    generator = random.Random(0)
    models = [load_model(small_models / name / "1") for name in ("flowers", "height")]
    engine = Engine(Limits(queue_s=1e9))
    told: list[tuple[Job, Future[Answer]]] = []
    for _ in range(500):
        loaded = generator.choice(models)
        rows, options = asked(generator)
        if options is not None and options.tolerance is not None and loaded.manifest.task != "classification":
            options = None
        shape = loaded.manifest.inputs[0].shape
        x = torch.from_numpy(np.random.default_rng(generator.randint(0, 9)).normal(size=(rows, *shape))).float()
        request = Job(loaded, "uncertainty" if options else "predict", {"x": x}, FOREVER, options,
                      priority=generator.randint(0, 9))
        told.append((request, engine.submit(request)))
    answers = [future.result(120) for _, future in told]
    engine.drain()
    lone = Engine(Limits(queue_s=1e9))
    for (request, _), answer in zip(told, answers, strict=True):
        alone = lone.submit(request).result(120)
        assert answer.arrays.keys() == alone.arrays.keys()
        for name, values in alone.arrays.items():
            if values is None:
                assert answer.arrays[name] is None
            else:
                np.testing.assert_allclose(answer.arrays[name], values, atol=2e-6, rtol=1e-5, err_msg=name)
        assert (answer.samples, answer.se_df, answer.method, answer.stops) == (
            alone.samples, alone.se_df, alone.method, alone.stops)
    lone.drain()


def test_jobs_that_wait_run_together(model) -> None:
    seen: list[events.Event] = []
    engine = Engine(clock=ManualClock(), observer=seen.append)  # no time passes, so nothing looks too long to share
    release, _first = blocked(engine, model)
    together = scripted(model, twice)
    futures = [engine.submit(job(together, rows=rows)) for rows in (1, 3, 2)]
    release.set()
    assert [len(f.result(30).arrays["values"]) for f in futures] == [1, 3, 2]
    engine.drain()
    assert [e.rows for e in seen if isinstance(e, events.BatchRan)] == [1, 6]


def test_only_the_job_that_is_to_blame_fails(model) -> None:
    def act(rows: torch.Tensor) -> torch.Tensor:
        if (rows == 13).any():
            raise RuntimeError("unlucky")
        return twice(rows)

    engine = Engine()
    release, _first = blocked(engine, model)
    shared = scripted(model, act)
    jobs = [Job(shared, "predict", {"x": torch.full((1, 3), float(n))}, FOREVER) for n in range(10, 17)]
    futures = [engine.submit(one) for one in jobs]
    release.set()
    for n, future in zip(range(10, 17), futures, strict=True):
        if n == 13:
            with pytest.raises(ModelFailed, match="unlucky"):
                future.result(30)
        else:
            assert future.result(30).arrays["values"].tolist() == [[2 * n, 2 * n]]
    assert engine.rows == {"flowers": 0}
    engine.drain()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_model_that_kills_its_thread_fails_and_the_engine_goes_on(model, error) -> None:
    def act(rows: torch.Tensor) -> torch.Tensor:
        raise error

    seen: list[events.Event] = []
    engine = Engine(observer=seen.append)
    before = engine._thread
    with pytest.raises(ModelFailed, match=error.__name__):
        engine.submit(job(model, act=act)).result(30)
    before.join(30)
    assert events.WorkerDied() in seen
    assert engine.works
    assert engine.submit(job(model)).result(30).arrays["values"].shape == (1, 2)
    engine.drain()


def test_a_part_that_does_not_return_is_told_to_everybody_and_nothing_is_admitted_any_more(model) -> None:
    hung, seen = threading.Event(), []
    engine = Engine(Limits(hang_s=0.05), observer=seen.append)
    engine.on_hang = hung.set
    release, stuck = blocked(engine, model)
    try:
        waiting = engine.submit(job(model))
        assert hung.wait(30)
        assert not engine.works
        with pytest.raises(ModelFailed, match="did not return"):
            stuck.result(30)
        with pytest.raises(NotReady):
            waiting.result(30)
        with pytest.raises(NotReady):
            engine.submit(job(model))
        assert events.WorkerHung("flowers") in seen
        engine.drain()
    finally:
        release.set()


def test_a_job_that_nobody_waits_for_leaves_the_batch_under_way(model) -> None:
    reached, go_on, parts = threading.Event(), threading.Event(), []

    def work() -> Any:
        for part in range(1000):
            parts.append(part)
            if part == 2:
                reached.set()
                go_on.wait(30)
            yield

    engine = Engine()
    ticket = engine.admit(job(scripted(model, twice, work), samples=20), lambda outcome: parts.append(-1))
    assert reached.wait(30)
    engine.withdraw(ticket)
    go_on.set()
    assert engine.submit(job(model)).result(30)
    engine.drain()
    assert parts == [0, 1, 2]
    assert engine.rows == {"flowers": 0}


def test_short_work_runs_between_the_parts_of_long_work(model) -> None:
    order: list[str] = []
    engine = Engine()

    def work() -> Any:
        order.append("long")
        answered.append(engine.submit(job(scripted(model, lambda rows: (order.append("short"), twice(rows))[1]))))
        yield
        order.append("long")
        raise RuntimeError("done")
        yield

    answered: list[Future[Any]] = []
    long = engine.submit(job(scripted(model, twice, work, name="other"), samples=20))
    with pytest.raises(ModelFailed, match="done"):
        long.result(30)
    answered[0].result(30)
    engine.drain()
    assert order == ["long", "short", "long"]


def test_with_little_time_an_answer_comes_with_fewer_samples_and_wider_errors(small_models) -> None:
    loaded = load_model(small_models / "flowers" / "1")

    class Slow(ManualClock):
        """Every look at the clock takes a hundredth of a second."""

        def now(self) -> float:
            self.advance(0.01)
            return super().now()

    clock = Slow()
    engine = Engine(clock=clock)
    x = {"x": torch.randn(4, 3, generator=torch.Generator().manual_seed(0))}
    options = Options(2000, 0, "shared", "balanced")
    engine._costs.learn(Job(loaded, "uncertainty", x, 0, options).kind, 8000, 1000 * STEP_S)
    whole = engine.submit(Job(loaded, "uncertainty", x, FOREVER, options)).result(60)
    cut = engine.submit(Job(loaded, "uncertainty", x, clock.now() + 1.0, options, partial=True)).result(60)
    engine.drain()
    assert whole.stops is None
    assert cut.stops is not None
    assert set(cut.stops.stopped) == {"deadline"}
    n = cut.stops.samples[0]
    assert 20 <= n < 2000
    expected = Engine().submit(Job(loaded, "uncertainty", x, FOREVER, Options(n, 0, "shared", "balanced"))).result(60)
    np.testing.assert_allclose(cut.arrays["mean"], expected.arrays["mean"], atol=1e-6)
    np.testing.assert_allclose(cut.arrays["mean_se"], expected.arrays["mean_se"], atol=1e-6)
    assert cut.stops.se_df == [expected.se_df] * 4
    assert (np.asarray(cut.arrays["mean_se"]).mean() > np.asarray(whole.arrays["mean_se"]).mean())


def test_a_partial_answer_for_which_there_is_no_time_at_all_is_refused(model) -> None:
    engine = Engine(clock=ManualClock())
    asked = job(model, samples=1000, deadline=0.1, partial=True)
    engine._costs.learn(asked.kind, 1000, 100.0)
    with pytest.raises(DeadlineExceeded, match=r"about 2\.000 s"):
        engine.submit(asked)
    engine.drain()


def test_small_work_runs_on_the_callers_thread_and_other_work_does_not(model) -> None:
    ran_on: list[int] = []
    engine = Engine(clock=ManualClock())

    def act(rows: torch.Tensor) -> torch.Tensor:
        ran_on.append(threading.get_ident())
        return twice(rows)

    small = scripted(model, act)
    done = threading.Event()
    engine._busy.learn(job(small).kind, 1, 1e-6)
    engine.admit(job(small), lambda outcome: done.set(), wake=False)
    assert engine.run_small(1e-3)
    assert done.is_set()
    assert not engine.run_small(1e-3)
    large = job(small, rows=64)
    engine._busy.learn(large.kind, large.passes, 1.0)
    done.clear()
    engine.admit(large, lambda outcome: done.set(), wake=False)
    assert not engine.run_small(1e-3)
    assert done.wait(30)
    assert ran_on[0] == threading.get_ident() != ran_on[1]
    engine.drain()


def test_work_of_which_nobody_knows_how_long_it_takes_is_not_small(model) -> None:
    engine, done = Engine(clock=ManualClock()), threading.Event()
    engine.admit(job(model), lambda outcome: done.set(), wake=False)
    assert not engine.run_small(1e-3)
    assert done.wait(30)
    engine.drain()


def test_the_thread_hands_small_work_back_once_it_has_done_what_is_not_small(model) -> None:
    """Else it would keep it for as long as requests come."""
    ran_on: list[int] = []

    def act(rows: torch.Tensor) -> torch.Tensor:
        ran_on.append(threading.get_ident())
        return twice(rows)

    engine, called, done = Engine(clock=ManualClock()), threading.Event(), threading.Event()
    small = job(scripted(model, act))
    engine._busy.learn(small.kind, 1, 1e-6)
    engine.hand_back(1e-3, called.set)
    release, first = blocked(engine, scripted(model, act, name="other"))
    engine.admit(small, lambda outcome: done.set(), wake=False)
    assert not engine.run_small(1e-3)  # the device is not free
    release.set()
    first.result(30)
    assert called.wait(30)
    assert engine.run_small(1e-3)
    assert done.is_set()
    assert ran_on == [threading.get_ident()]
    engine.drain()


def test_small_work_that_nobody_can_take_back_is_done_by_the_thread(model) -> None:
    def ended() -> None:
        raise RuntimeError("the loop is closed")

    engine, done = Engine(clock=ManualClock()), threading.Event()
    small = job(model)
    engine._busy.learn(small.kind, 1, 1e-6)
    engine.hand_back(1e-3, ended)
    engine.admit(small, lambda outcome: done.set(), wake=False)
    assert not engine.run_small(0.0)
    assert done.wait(30)
    engine.drain()


def test_the_thread_keeps_small_work_of_those_who_only_wait(model) -> None:
    engine, called = Engine(clock=ManualClock()), []
    small = job(model)
    engine._busy.learn(small.kind, 1, 1e-6)
    engine.hand_back(1e-3, lambda: called.append(True))
    assert engine.submit(small).result(30)
    assert not called
    engine.drain()


def test_what_fails_on_the_callers_thread_is_told_and_not_raised_there(model) -> None:
    def act(rows: torch.Tensor) -> torch.Tensor:
        raise SystemExit

    engine, outcomes = Engine(clock=ManualClock()), []
    fails = job(model, act=act)
    engine._busy.learn(fails.kind, 1, 1e-6)
    engine.admit(fails, outcomes.append, wake=False)
    assert engine.run_small(1e-3)
    assert isinstance(outcomes[0], ModelFailed)
    engine.drain()


def test_an_engine_that_cannot_choose_tells_everybody_and_goes_on(model, monkeypatch, caplog) -> None:
    engine = Engine()
    with monkeypatch.context() as broken:
        broken.setattr(engine._queue, "first_of_each_model", lambda: 1 / 0)
        with pytest.raises(ErrorbarError, match="the engine failed"):
            engine.submit(job(model)).result(30)
    assert "ZeroDivisionError" in caplog.text
    assert engine.submit(job(model)).result(30)
    engine.drain()


def test_an_observer_that_fails_fails_no_job(model, caplog) -> None:
    def observe(event: events.Event) -> None:
        raise ZeroDivisionError

    engine = Engine(observer=observe)
    assert engine.submit(job(model, samples=20)).result(30).samples == 20
    engine.drain()
    assert "an observer failed on BatchRan" in caplog.text
