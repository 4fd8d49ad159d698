"""Every metric moves when what it counts happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Gauge, generate_latest

from service import events
from service.metrics import Metrics

SAMPLED = events.RowsSampled(
    "m", [50], 70, {"samples": 1, "tolerance": 1}, [0.2, 0.4], [0.1, 0.0], [0.3, 0.0], [0.01, 0.02], 1)
ANSWERED = events.RequestAnswered("m", "1", "predict", "ok", 0.02, {"device": 0.5})
MOVES = [
    (ANSWERED, 'errorbar_requests_total{code="ok"', 1),
    (ANSWERED, 'errorbar_request_seconds_sum{mode="predict"', 0.02),
    (ANSWERED, 'errorbar_stage_seconds_sum{model="m",stage="device"', 0.5),
    (events.BatchRan("m", "predict", 2, 3), 'errorbar_batch_rows_sum{mode="predict"', 3),
    (SAMPLED, 'errorbar_samples_total{model="m"', 70),
    (SAMPLED, 'errorbar_samples_per_request_sum{model="m"', 50),
    (SAMPLED, 'errorbar_stopped_total{model="m",reason="samples"', 1),
    (SAMPLED, 'errorbar_stopped_total{model="m",reason="tolerance"', 1),
    (SAMPLED, 'errorbar_predictive_entropy_nats_sum{model="m"', 0.6),
    (SAMPLED, 'errorbar_mutual_information_nats_sum{model="m"', 0.1),
    (SAMPLED, 'errorbar_relative_std_sum{model="m"', 0.3),
    (SAMPLED, 'errorbar_zero_variance_rows_total{model="m"', 1),
    (SAMPLED, 'errorbar_mean_standard_error_sum{model="m"', 0.03),
    (events.RowsOutOfRange("m", 4), 'errorbar_out_of_range_rows_total{model="m"', 4),
    (events.OutOfMemoryRetried("m", 3), 'errorbar_out_of_memory_retries_total{model="m"', 3),
    (events.WorkerDied(), "errorbar_worker_restarts_total", 1),
    (events.WorkerHung("m"), 'errorbar_hangs_total{model="m"', 1),
    (events.ModelLoaded("m", "1", "d", "cpu", "captured", 9), 'errorbar_model_ready{model="m"', 1),
    (events.ModelLoaded("m", "1", "d", "cpu", "captured", 9), "errorbar_model_info{", 1),
    (events.ModelLoaded("m", "1", "d", "cpu", "captured", 9), 'errorbar_device_memory_bytes{device="cpu"', 9),
    (events.ModelLoaded("m", "1", "d", "cpu", "captured", 9), 'errorbar_model_loads_total{model="m",outcome="ok"', 1),
    (events.ModelLoadFailed("m", "1"), 'errorbar_model_loads_total{model="m",outcome="failed"', 1),
    (events.ShadowCompared("m", "2", {"agrees": 3}, [0.5]), 'errorbar_shadow_rows_total{model="m",outcome="agrees"', 3),
    (events.ShadowCompared("m", "2", {"agrees": 3}, [0.5]), 'errorbar_shadow_difference_sum{model="m"', 0.5),
]


def value(metrics: Metrics, start: str) -> float | None:
    lines = generate_latest(metrics.exposed()).decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start)), None)


@pytest.mark.parametrize(("event", "start", "expected"), MOVES, ids=[start.split("{")[0] for _, start, _ in MOVES])
def test_a_metric_moves(event, start, expected) -> None:
    metrics = Metrics()
    assert not value(metrics, start)
    metrics(event)
    assert value(metrics, start) == pytest.approx(expected)


def test_every_metric_of_the_service_is_moved_by_one_of_these() -> None:
    names = {line.split()[2] for line in generate_latest(Metrics().registry).decode().splitlines()
             if line.startswith("# TYPE errorbar_") and "_created" not in line}
    moved = {start.split("{")[0].removesuffix("_sum") for _, start, _ in MOVES}
    assert names - moved == {"errorbar_build_info", "errorbar_queue_rows", "errorbar_processes"}


def test_every_gauge_is_of_the_processes_that_live() -> None:
    gauges = [metric for metric in vars(Metrics()).values() if isinstance(metric, Gauge)]
    assert len(gauges) >= 5
    assert [gauge._name for gauge in gauges if not gauge._multiprocess_mode.startswith("live")] == []


def test_the_queue_is_read_when_somebody_looks() -> None:
    rows = {"m": 7}
    metrics = Metrics(lambda: rows)
    assert metrics.exposed() is metrics.registry
    assert value(metrics, 'errorbar_queue_rows{model="m"') == 7
    rows["m"] = 0
    assert value(metrics, 'errorbar_queue_rows{model="m"') == 0


@given(st.lists(st.floats(0, 100) | st.sampled_from([0.001, 0.01, 60.0]), max_size=50))
def test_many_observations_at_once_are_counted_as_one_by_one(values) -> None:
    together, single = Metrics(), Metrics()
    for v in values:
        together(ANSWERED._replace(seconds=v))
        single.request_seconds.labels("m", "predict").observe(v)
    together.count()
    for name in ["_bucket", "_count"]:
        of = [[s for s in m.request_seconds.collect()[0].samples if s.name.endswith(name)] for m in (together, single)]
        assert [(s.labels, s.value) for s in of[0]] == [(s.labels, s.value) for s in of[1]] or not values


def test_what_happened_is_counted_by_itself_once_there_is_much_and_asked_for_once_there_is_any() -> None:
    metrics, asked = Metrics(), []
    metrics.on_first = lambda: asked.append(1)
    metrics(ANSWERED)
    metrics(ANSWERED)
    assert len(asked) == 1
    for _ in range(1000):
        metrics(ANSWERED)
    assert metrics.requests.labels("m", "1", "predict", "ok")._value.get() >= 700


def test_a_version_that_answers_no_more_leaves_no_trace_but_its_readiness() -> None:
    metrics = Metrics()
    metrics(events.ModelLoaded("m", "1", "d", "cpu", "captured", 9))
    metrics(events.ModelUnloaded("m", "1", "d", "cpu", "captured", 9))
    assert value(metrics, 'errorbar_model_ready{model="m"') == 0
    assert value(metrics, "errorbar_model_info{") is None
    assert value(metrics, 'errorbar_device_memory_bytes{device="cpu"') == 0


def test_a_model_that_does_not_exist_never_becomes_a_label(application) -> None:
    application.post("/v1/models/evil-name:predict", json={"instances": [[1]]})
    page = application.get("/metrics").text
    assert "evil-name" not in page
    assert 'code="model_not_found",mode="predict",model=""' in page


def test_openmetrics_is_given_to_who_asks(application) -> None:
    answer = application.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert "python_gc_objects_collected_total" in answer.text
