"""One thread owns the device; what waits for it is bounded by work."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from concurrent.futures import Future
from dataclasses import replace
from math import inf
from queue import SimpleQueue

import numpy as np
import torch

from service import events
from service.clock import Clock, MonotonicClock
from service.errors import DeadlineExceeded, Draining, ErrorbarError, ModelFailed, Overloaded, reason
from service.repository import ReadyModel
from service.sampling.copies import to_host
from service.sampling.options import METHODS
from service.scheduling.job import Answer, Array, Job, Mode, Options, Stops
from service.scheduling.limits import Limits
from service.statistics import Method, Uncertainty

_Kind = tuple[str, str, Mode, Method | None]  # of jobs whose passes cost alike: model, version, mode, method
_LEARNING_RATE = 0.2  # of the cost of one pass: follows a machine whose speed drifts, not one slow request


class Engine:
    """Jobs in, futures out. `submit` is safe from any thread; jobs run one at a time in the order they came."""

    def __init__(
        self, limits: Limits | None = None, clock: Clock | None = None, observer: events.Observer = events.ignore
    ) -> None:
        self._limits, self._clock, self._observe = limits or Limits(), clock or MonotonicClock(), observer
        self._waiting: SimpleQueue[tuple[Job, Future[Answer], float, float] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._backlog_s = 0.0
        self._queued_rows: defaultdict[str, int] = defaultdict(int)
        self._pass_s: dict[_Kind, float] = {}
        self._draining = self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="errorbar-engine", daemon=True)
        self._thread.start()

    @property
    def clock(self) -> Clock:
        return self._clock

    def submit(self, job: Job) -> Future[Answer]:
        """Queues a job. Overloaded (the queue holds its limit of work), DeadlineExceeded (it cannot be met) and
        Draining are raised at once, and nothing is computed. The future raises DeadlineExceeded or ModelFailed."""
        cost_s = self._estimate_s(job)
        future: Future[Answer] = Future()
        with self._lock:
            now = self._clock.now()
            self._refuse_if_draining()
            if self._backlog_s and self._backlog_s + cost_s > self._limits.queue_s:
                raise Overloaded(
                    f"about {self._backlog_s:.1f} s of work wait, at most {self._limits.queue_s:g} s may; nothing was "
                    "computed, a retry is safe", retry_after_s=max(1.0, self._backlog_s / 2),
                )
            if now + self._backlog_s + cost_s > job.deadline:
                raise DeadlineExceeded(
                    f"the answer would take about {self._backlog_s + cost_s:.3f} s, the deadline leaves "
                    f"{max(job.deadline - now, 0):.3f} s"
                )
            self._queue(job, future, now, cost_s)
        return future

    def _queue(self, job: Job, future: Future[Answer], now: float, cost_s: float) -> None:
        self._count(job, job.rows, cost_s)
        self._waiting.put((job, future, now, cost_s))

    def warm(self, model: ReadyModel) -> None:
        """Runs a row and a small batch in both modes, so that the first request is as fast as the next and the cost
        of a pass is known. It waits its turn, but no limit or deadline refuses it: a server with traffic on its other
        models must be able to load one more. ModelFailed; Draining."""
        for rows in (1, 8):
            inputs = {
                i.name: torch.full((rows, *i.shape), i.range[0] if i.range else 0, dtype=getattr(torch, i.dtype))
                for i in model.manifest.inputs
            }
            default = model.manifest.sampling
            options = Options(default.samples, default.seed, default.masks, default.design)
            jobs = [Job(model, "predict", inputs, inf)]
            if model.sampler.samples_something:
                ways = [Job(model, "uncertainty", inputs, inf, replace(options, method=m)) for m in METHODS]
                jobs += {job.method: job for job in ways}.values()
            for job in jobs:
                for _ in range(2):
                    self._submit_unbounded(job).result()

    def _submit_unbounded(self, job: Job) -> Future[Answer]:
        future: Future[Answer] = Future()
        with self._lock:
            self._refuse_if_draining()
            self._queue(job, future, self._clock.now(), self._estimate_s(job))
        return future

    def drain(self, abandon: bool = False) -> None:
        """Refuses new work, finishes what was admitted, and ends the thread. abandon: nobody waits for what was
        admitted; the job that runs ends after its current chunk, and this and every later one raises Draining."""
        with self._lock:
            self._abandoned = self._abandoned or abandon
            if not self._draining:
                self._draining = True
                self._waiting.put(None)
        self._thread.join()

    def _refuse_if_draining(self) -> None:
        if self._draining:
            raise Draining("the server is going down and takes no new work", retry_after_s=5.0)

    def _count(self, job: Job, rows: int, cost_s: float) -> None:
        self._backlog_s = max(0.0, self._backlog_s + cost_s)
        self._queued_rows[job.model.name] += rows
        self._observe(events.QueueChanged(job.model.name, self._queued_rows[job.model.name]))

    def _estimate_s(self, job: Job) -> float:
        return job.passes * self._pass_s.get(_kind(job), 0.0)

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            job, future, queued_at, cost_s = item
            if future.set_running_or_notify_cancel():
                self._finish(job, future, queued_at)
            with self._lock:
                self._count(job, -job.rows, -cost_s)

    def _finish(self, job: Job, future: Future[Answer], queued_at: float) -> None:
        try:
            future.set_result(self._counting_retries(job, queued_at))
        except ErrorbarError as e:
            future.set_exception(e)
        except Exception as e:
            future.set_exception(ModelFailed(f"model {job.model.name!r} raised {reason(e)}"))

    def _counting_retries(self, job: Job, queued_at: float) -> Answer:
        before = job.model.sampler.out_of_memory_retries
        try:
            return self._run(job, queued_at)
        finally:
            if times := job.model.sampler.out_of_memory_retries - before:
                self._observe(events.OutOfMemoryRetried(job.model.name, times))

    def _run(self, job: Job, queued_at: float) -> Answer:
        started = self._clock.now()
        self._keep_deadline(job)
        name = job.model.name
        if job.options is None:
            values = job.model.sampler.predict(job.tensors).cpu().numpy()
            ran = self._clock.now()
            answer = Answer({"values": values})
        else:
            o = job.options
            result = job.model.sampler.uncertainty(
                job.tensors, o.samples, o.seed, o.masks, o.design, include_samples=o.keeps_samples,
                first_row=o.first_row, checkpoint=lambda: self._keep_deadline(job), method=o.method,
                tolerance=o.tolerance, decide=o.decide,
            )
            ran = self._clock.now()
            answer = Answer(_arrays(job, o, result), result.se_df, result.samples, result.method, _stops(o, result))
        ended = self._clock.now()
        self._learn(job, ended - started, job.passes if answer.stops is None else sum(answer.stops.samples))
        timings = {"queue": started - queued_at, "device": ran - started, "summary": ended - ran}
        self._observe(events.BatchRan(name, job.mode, job.rows))
        for stage, seconds in timings.items():
            self._observe(events.StageTimed(name, stage, seconds))
        if job.options is not None:
            self._observe(_sampled(job, answer))
        return replace(answer, timings_s=timings)

    def _keep_deadline(self, job: Job) -> None:
        """Ends a job that nobody waits for any more."""
        if self._abandoned:
            raise Draining("the server went down before the answer was ready", retry_after_s=5.0)
        if self._clock.now() > job.deadline:
            raise DeadlineExceeded("the deadline passed before the answer was ready; what was computed is thrown away")

    def _learn(self, job: Job, seconds: float, passes: int) -> None:
        key = _kind(job)
        seen = seconds / passes
        before = self._pass_s.get(key, seen)
        # the cheapest pass seen so far counts most: small requests carry their fixed cost
        self._pass_s[key] = min(seen, before) if seen < before else before + _LEARNING_RATE * (seen - before)


def _kind(job: Job) -> _Kind:
    return job.model.name, job.model.version, job.mode, job.method


def _arrays(job: Job, options: Options, result: Uncertainty) -> dict[str, Array | None]:
    names = ["mean", "std", "mean_se", "std_se"]
    if job.model.manifest.task in ("classification", "multilabel"):
        names += ["entropy", "entropy_se", "expected_entropy", "mutual_information", "mutual_information_se",
                  "variation_ratio"]
    found = {name: getattr(result, name) for name in names}
    if result.noise_std is not None:
        found["noise_std"] = result.noise_std
    if options.quantiles:
        found["quantiles"] = result.quantiles(options.quantiles)
    if options.include_samples:
        found["sample_values"] = result.draws
    here = to_host({name: value for name, value in found.items() if value is not None})
    return {name: here[name].numpy() if name in here else None for name in found}


def _stops(options: Options, result: Uncertainty) -> Stops | None:
    if options.tolerance is None and options.decide is None:
        return None
    return Stops(result.samples_per_row.tolist(), result.stopped, result.settled, result.after_stopping)


def _sampled(job: Job, answer: Answer) -> events.RowsSampled:
    arrays = {name: value for name, value in answer.arrays.items() if value is not None}
    mean, std = (arrays[name].reshape(job.rows, -1) for name in ("mean", "std"))
    column = mean.argmax(1) if "entropy" in arrays else np.zeros(job.rows, int)
    at = (np.arange(job.rows), column)
    relative = std[at] / np.maximum(np.abs(mean[at]), np.finfo(np.float64).tiny)
    per_row = {
        name: arrays[name].reshape(job.rows, -1).sum(1).tolist() if name in arrays else []
        for name in ("entropy", "mutual_information")
    }
    error = arrays["mean_se"].reshape(job.rows, -1).max(1).tolist() if "mean_se" in arrays else []
    counts = [answer.samples] * job.rows if answer.stops is None else answer.stops.samples
    reasons = Counter(["samples"] * job.rows if answer.stops is None else answer.stops.stopped)
    return events.RowsSampled(
        job.model.name, max(counts), sum(counts), dict(reasons), per_row["entropy"], per_row["mutual_information"],
        relative.tolist(), error, int((std.max(1) == 0).sum()),
    )
