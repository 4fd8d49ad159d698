"""Prometheus, as a listener to events: every metric's name, unit and buckets stand in one place.

Events are collected and counted some hundreds at a time: one by one, a request's would cost more than its network.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, singledispatchmethod
from typing import TypeVar, cast

import numpy as np
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
)

import service
from service import events
from service.all_workers import registry_of_all

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_SAMPLES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_NATS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
_RATIO = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_ERROR = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, 10.0, 100.0)
_COUNTED_TOGETHER = 256  # events: about a fifth of a millisecond
NO_MODEL = ""  # the label of requests that named no model there is

_Alike = tuple[str | None, str | None, str, str]  # model, version, mode and code
M = TypeVar("M", bound="Counter | _Histogram")


class _Histogram(Histogram):
    """A histogram that takes many observations at once."""

    def observe_all(self, values: Sequence[float] | np.ndarray) -> None:
        """As `observe` of each."""
        found = np.asarray(values, np.float64)
        self._sum.inc(float(found.sum()))
        counts = np.bincount(np.searchsorted(self._upper_bounds, found), minlength=len(self._upper_bounds))
        for place in np.flatnonzero(counts):
            self._buckets[place].inc(float(counts[place]))


class Metrics:
    """The observer that counts. One registry each, so that servers in one process do not mix."""

    def __init__(self, queued_rows: Callable[[], Mapping[str, int]] = dict) -> None:
        """queued_rows: that wait or run now, by model."""
        self.queued_rows = queued_rows
        self.on_first: Callable[[], object] = lambda: None
        """Called when something is to be counted after all was: whoever keeps time has it counted soon."""
        self._pending: deque[events.Event] = deque()
        self._counting = threading.Lock()
        self._answered: defaultdict[_Alike, list[events.RequestAnswered]] = defaultdict(list)
        self._sums: defaultdict[Counter, float] = defaultdict(float)
        self._values: defaultdict[_Histogram, list[float]] = defaultdict(list)
        r = self.registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            r.register(collector)
        self.requests = Counter(
            "errorbar_requests", "Requests answered, by outcome; code is ok or the error's.",
            ["model", "version", "mode", "code"], registry=r)
        self.request_seconds = _Histogram(
            "errorbar_request_seconds", "From the request's arrival to its answer.", ["model", "mode"],
            buckets=_SECONDS, registry=r)
        self.stage_seconds = _Histogram(
            "errorbar_stage_seconds", "Where the time went: decode, queue, device, summary, encode.",
            ["model", "stage"], buckets=_STAGE_SECONDS, registry=r)
        self.queue_rows = Gauge(
            "errorbar_queue_rows", "Rows that wait or run.", ["model"], registry=r, multiprocess_mode="livesum")
        self.batch_rows = _Histogram(
            "errorbar_batch_rows", "Rows that ran together.", ["model", "mode"], buckets=_ROWS, registry=r)
        self.samples = Counter(
            "errorbar_samples", "Samples that answers rest on, summed over rows.", ["model"], registry=r)
        self.samples_per_request = _Histogram(
            "errorbar_samples_per_request", "Samples of an answer, of the row that has most.", ["model"],
            buckets=_SAMPLES, registry=r)
        self.stopped = Counter(
            "errorbar_stopped", "Rows by why their sampling ended.", ["model", "reason"], registry=r)
        self.entropy = _Histogram(
            "errorbar_predictive_entropy_nats", "Entropy of a row's mean prediction.", ["model"],
            buckets=_NATS, registry=r)
        self.information = _Histogram(
            "errorbar_mutual_information_nats", "What a row's samples disagree about.", ["model"],
            buckets=_NATS, registry=r)
        self.relative_std = _Histogram(
            "errorbar_relative_std", "Dropout std over |mean| of a row's predicted class or first target.", ["model"],
            buckets=_RATIO, registry=r)
        self.zero_variance = Counter(
            "errorbar_zero_variance_rows", "Rows whose std is exactly 0: a site may be off.", ["model"], registry=r)
        self.standard_error = _Histogram(
            "errorbar_mean_standard_error", "Largest Monte-Carlo standard error of a row's means.", ["model"],
            buckets=_ERROR, registry=r)
        self.out_of_range = Counter(
            "errorbar_out_of_range_rows", "Rows with a feature outside its training range.", ["model"], registry=r)
        self.out_of_memory = Counter(
            "errorbar_out_of_memory_retries", "Times that memory ran out and less was run at once.", ["model"],
            registry=r)
        self.model_ready = Gauge(
            "errorbar_model_ready", "1 when the version answers, in every process.", ["model", "version"], registry=r,
            multiprocess_mode="livemin")
        self.model_info = Gauge(
            "errorbar_model_info", "What is served; always 1.", ["model", "version", "digest", "device", "engine"],
            registry=r, multiprocess_mode="livemax")
        self.worker_restarts = Counter(
            "errorbar_worker_restarts", "Times that the engine's thread died and was replaced.", registry=r)
        self.hangs = Counter(
            "errorbar_hangs", "Times that a model did not return; the process ends.", ["model"], registry=r)
        self.device_memory = Gauge(
            "errorbar_device_memory_bytes", "Weights that the engine holds.", ["device"], registry=r,
            multiprocess_mode="livesum")
        self.processes = Gauge(
            "errorbar_processes", "Processes that have all models loaded.", registry=r, multiprocess_mode="livesum")
        self.loads = Counter(
            "errorbar_model_loads", "Versions loaded (ok) and refused (failed); version is empty for serving.toml.",
            ["model", "version", "outcome"], registry=r)
        self.shadow_rows = Counter(
            "errorbar_shadow_rows", "Rows of answers beside a shadow's: agrees, differs, failed, skipped.",
            ["model", "version", "outcome"], registry=r)
        self.shadow_difference = _Histogram(
            "errorbar_shadow_difference", "How far a shadow's row was from the served: probability, or relative.",
            ["model", "version"], buckets=_RATIO, registry=r)
        build = Info("errorbar_build", "The running program.", registry=r)
        build.info({"version": service.__version__})
        self._shown = registry_of_all(build) or r

    def __call__(self, event: events.Event) -> None:
        pending = self._pending
        pending.append(event)
        if len(pending) == 1:
            self.on_first()
        if len(pending) >= _COUNTED_TOGETHER:
            self.count()

    def exposed(self) -> CollectorRegistry:
        """The registry with everything counted; of all processes, where several serve."""
        self.count()
        return self._shown

    def count(self) -> None:
        """Counts what has been collected."""
        with self._counting:
            for _ in range(len(self._pending)):
                event = self._pending.popleft()
                if type(event) is events.RequestAnswered:  # nearly all of them
                    self._answered[event.model, event.version, event.mode, event.code].append(event)
                else:
                    self._on(event)
            for (model, version, mode, code), answered in self._answered.items():
                self._count_answered(model or NO_MODEL, version or "", mode, code, answered)
            self._answered.clear()
            for counter, amount in self._sums.items():
                counter.inc(amount)
            for histogram, values in self._values.items():
                histogram.observe_all(values)
            self._sums.clear()
            self._values.clear()
            for model, rows in self.queued_rows().items():
                self.queue_rows.labels(model).set(rows)

    @singledispatchmethod
    def _on(self, event: object) -> None:
        raise TypeError(f"no metric listens to {type(event).__name__}")

    def _count_answered(
        self, model: str, version: str, mode: str, code: str, answered: Sequence[events.RequestAnswered]
    ) -> None:
        self.requests.labels(model, version, mode, code).inc(len(answered))
        _labelled(self.request_seconds, model, mode).observe_all([e.seconds for e in answered])
        for stage in {stage for e in answered for stage in e.stages}:
            seconds = [e.stages[stage] for e in answered if stage in e.stages]
            _labelled(self.stage_seconds, model, stage).observe_all(seconds)

    @_on.register
    def _(self, e: events.BatchRan) -> None:
        self._values[_labelled(self.batch_rows, e.model, e.mode)].append(e.rows)

    @_on.register
    def _(self, e: events.RowsSampled) -> None:
        self._sums[_labelled(self.samples, e.model)] += e.drawn
        for reason, rows in e.stopped.items():
            self._sums[_labelled(self.stopped, e.model, reason)] += rows
        self._sums[_labelled(self.zero_variance, e.model)] += e.zero_variance
        for metric, values in (
            (self.samples_per_request, e.samples), (self.entropy, e.entropy),
            (self.information, e.mutual_information), (self.relative_std, e.relative_std),
            (self.standard_error, e.standard_error),
        ):
            self._values[_labelled(metric, e.model)].extend(values)

    @_on.register
    def _(self, e: events.RowsOutOfRange) -> None:
        self.out_of_range.labels(e.model).inc(e.rows)

    @_on.register
    def _(self, e: events.OutOfMemoryRetried) -> None:
        self.out_of_memory.labels(e.model).inc(e.times)

    @_on.register
    def _(self, e: events.ModelLoaded) -> None:
        self.model_ready.labels(e.model, e.version).set(1)
        self.model_info.labels(e.model, e.version, e.digest, e.device, e.engine).set(1)
        self.device_memory.labels(e.device).inc(e.memory_bytes)
        self.loads.labels(e.model, e.version, "ok").inc()

    @_on.register
    def _(self, e: events.ModelUnloaded) -> None:
        self.model_ready.labels(e.model, e.version).set(0)
        self.model_info.labels(e.model, e.version, e.digest, e.device, e.engine).set(0)
        self.model_info.remove(e.model, e.version, e.digest, e.device, e.engine)
        self.device_memory.labels(e.device).dec(e.memory_bytes)

    @_on.register
    def _(self, e: events.ModelLoadFailed) -> None:
        self.loads.labels(e.model, e.version, "failed").inc()

    @_on.register
    def _(self, e: events.ShadowCompared) -> None:
        for outcome, rows in e.outcomes.items():
            self.shadow_rows.labels(e.model, e.version, outcome).inc(rows)
        self.shadow_difference.labels(e.model, e.version).observe_all(e.differences)

    @_on.register
    def _(self, e: events.WorkerDied) -> None:
        self.worker_restarts.inc()

    @_on.register
    def _(self, e: events.WorkerHung) -> None:
        self.hangs.labels(e.model).inc()


@lru_cache(maxsize=4096)
def _labelled(metric: M, *labels: str) -> M:
    return cast(M, metric.labels(*labels))
