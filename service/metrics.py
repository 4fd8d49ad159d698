"""Prometheus, as a listener to events: every metric's name, unit and buckets stand in one place."""

from __future__ import annotations

from functools import singledispatchmethod

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

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_SAMPLES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_NATS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
_RATIO = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_ERROR = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, 10.0, 100.0)
NO_MODEL = ""  # the label of requests that named no model there is


class Metrics:
    """The observer that counts. One registry each, so that servers in one process do not mix."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            r.register(collector)
        self.requests = Counter(
            "errorbar_requests", "Requests answered, by outcome; code is ok or the error's.",
            ["model", "version", "mode", "code"], registry=r)
        self.request_seconds = Histogram(
            "errorbar_request_seconds", "From the request's arrival to its answer.", ["model", "mode"],
            buckets=_SECONDS, registry=r)
        self.stage_seconds = Histogram(
            "errorbar_stage_seconds", "Where the time went: decode, queue, device, summary, encode.",
            ["model", "stage"], buckets=_STAGE_SECONDS, registry=r)
        self.queue_rows = Gauge("errorbar_queue_rows", "Rows that wait or run.", ["model"], registry=r)
        self.batch_rows = Histogram(
            "errorbar_batch_rows", "Rows that ran together.", ["model", "mode"], buckets=_ROWS, registry=r)
        self.samples = Counter(
            "errorbar_samples", "Samples that answers rest on, summed over rows.", ["model"], registry=r)
        self.samples_per_request = Histogram(
            "errorbar_samples_per_request", "Samples of an answer, of the row that has most.", ["model"],
            buckets=_SAMPLES, registry=r)
        self.stopped = Counter(
            "errorbar_stopped", "Rows by why their sampling ended.", ["model", "reason"], registry=r)
        self.entropy = Histogram(
            "errorbar_predictive_entropy_nats", "Entropy of a row's mean prediction.", ["model"],
            buckets=_NATS, registry=r)
        self.information = Histogram(
            "errorbar_mutual_information_nats", "What a row's samples disagree about.", ["model"],
            buckets=_NATS, registry=r)
        self.relative_std = Histogram(
            "errorbar_relative_std", "Dropout std over |mean| of a row's predicted class or first target.", ["model"],
            buckets=_RATIO, registry=r)
        self.zero_variance = Counter(
            "errorbar_zero_variance_rows", "Rows whose std is exactly 0: a site may be off.", ["model"], registry=r)
        self.standard_error = Histogram(
            "errorbar_mean_standard_error", "Largest Monte-Carlo standard error of a row's means.", ["model"],
            buckets=_ERROR, registry=r)
        self.out_of_range = Counter(
            "errorbar_out_of_range_rows", "Rows with a feature outside its training range.", ["model"], registry=r)
        self.out_of_memory = Counter(
            "errorbar_out_of_memory_retries", "Times that memory ran out and less was run at once.", ["model"],
            registry=r)
        self.model_ready = Gauge(
            "errorbar_model_ready", "1 when the version answers.", ["model", "version"], registry=r)
        self.model_info = Gauge(
            "errorbar_model_info", "What is served; always 1.", ["model", "version", "digest", "device", "engine"],
            registry=r)
        self.device_memory = Gauge(
            "errorbar_device_memory_bytes", "Weights that the engine holds.", ["device"], registry=r)
        Info("errorbar_build", "The running program.", registry=r).info({"version": service.__version__})

    def __call__(self, event: events.Event) -> None:
        self._on(event)

    @singledispatchmethod
    def _on(self, event: object) -> None:
        raise TypeError(f"no metric listens to {type(event).__name__}")

    @_on.register
    def _(self, e: events.RequestAnswered) -> None:
        model = e.model or NO_MODEL
        self.requests.labels(model, e.version or "", e.mode, e.code).inc()
        self.request_seconds.labels(model, e.mode).observe(e.seconds)

    @_on.register
    def _(self, e: events.StageTimed) -> None:
        self.stage_seconds.labels(e.model, e.stage).observe(e.seconds)

    @_on.register
    def _(self, e: events.QueueChanged) -> None:
        self.queue_rows.labels(e.model).set(e.rows)

    @_on.register
    def _(self, e: events.BatchRan) -> None:
        self.batch_rows.labels(e.model, e.mode).observe(e.rows)

    @_on.register
    def _(self, e: events.RowsSampled) -> None:
        self.samples.labels(e.model).inc(e.drawn)
        self.samples_per_request.labels(e.model).observe(e.samples)
        for reason, rows in e.stopped.items():
            self.stopped.labels(e.model, reason).inc(rows)
        self.zero_variance.labels(e.model).inc(e.zero_variance)
        for metric, values in (
            (self.entropy, e.entropy), (self.information, e.mutual_information),
            (self.relative_std, e.relative_std), (self.standard_error, e.standard_error),
        ):
            child = metric.labels(e.model)
            for value in values:
                child.observe(value)

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
