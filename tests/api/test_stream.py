"""Answers as a stream of events: those so far, then the answer."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

STREAM = {"Accept": "text/event-stream"}
ROWS = [[1.0, 12.0, 2.0], [3.0, 12.0, 2.0]]
FLOWERS = "/v1/models/flowers:uncertainty"


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for event in text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def streamed(application, path: str = FLOWERS, **request: Any) -> list[tuple[str, dict[str, Any]]]:
    answer = application.post(path, json=request, headers=STREAM)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-request-id"]
    return events_of(answer.text)


def without_id(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "request_id"}


OPTIONS = [
    {}, {"samples": 200, "seed": 3}, {"samples": 47, "design": "iid"}, {"masks": "independent", "samples": 60},
    {"quantiles": [0.1, 0.9]}, {"include_samples": True}, {"tolerance": 0.05}, {"decide": {"above": 0.6, "error": 0.1}},
    {"samples": 3000},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_last_event_is_the_plain_answer_bit_for_bit(application, options) -> None:
    *so_far, (name, last) = streamed(application, instances=ROWS, **options)
    plain = application.post(FLOWERS, json={"instances": ROWS, **options}).json()
    assert name == "result"
    assert without_id(last) == without_id(plain)
    assert so_far
    assert {name for name, _ in so_far} == {"progress"}


def test_there_is_an_event_after_each_block_of_samples(application) -> None:
    *so_far, (_, last) = streamed(application, instances=ROWS, samples=50)
    assert [body["predictions"][0]["samples"] for _, body in so_far] == [10, 20, 30, 40]
    assert last["predictions"][0]["samples"] == 50


def test_there_is_news_in_every_event_of_a_long_request(application) -> None:
    counts = [body["predictions"][0]["samples"] for _, body in streamed(application, instances=ROWS, samples=5000)]
    assert (counts[0], counts[-1]) == (10, 5000)
    assert counts == sorted(set(counts))
    assert all(after <= before + max(10, before / 8) for before, after in pairwise(counts))
    assert len(counts) < 60


@pytest.mark.parametrize("options", [{}, {"masks": "independent"}, {"design": "iid", "samples": 60}])
def test_an_answer_so_far_is_the_mean_and_std_of_the_samples_so_far(application, options) -> None:
    *so_far, (_, last) = streamed(application, instances=ROWS, include_samples=True, **options)
    assert len(so_far) >= 4
    for _, body in so_far:
        for row, whole in zip(body["predictions"], last["predictions"], strict=True):
            drawn = [sample[row["index"]] for sample in whole["sample_values"][: row["samples"]]]
            assert row["mean"][row["index"]] == pytest.approx(sum(drawn) / len(drawn), abs=1e-6)
            assert row["std"][row["index"]] > 0


def test_an_answer_so_far_says_that_it_is_none_yet(application) -> None:
    (name, first), *_ = streamed(application, instances=ROWS)
    assert name == "progress"
    for row in first["predictions"]:
        assert row["stopped"] is row["decision"] is row["mean_se"] is None
        assert row["calibration_reason"] == "the row is still sampled"
    assert first["sampling"]["samples"] == 10
    assert first["digest"]


def test_rows_that_settled_keep_their_numbers_while_others_are_sampled(application) -> None:
    *so_far, (_, last) = streamed(application, instances=[[-3.0, 1.0, 0.1], *ROWS], tolerance=0.1, samples=2000)
    stopped = [(place, row) for _, body in so_far for place, row in enumerate(body["predictions"]) if row["stopped"]]
    assert stopped
    for place, row in stopped:
        whole = last["predictions"][place]
        assert (row["samples"], row["stopped"], row["after_stopping"]) == (whole["samples"], "tolerance", True)
        assert row["mean"] == pytest.approx(whole["mean"])


def test_what_is_known_exactly_has_a_result_only(application) -> None:
    (event,) = streamed(application, "/v1/models/height:uncertainty", instances=[[1.0, 2.0, 3.0, 4.0]])
    assert event[0] == "result"
    assert event[1]["sampling"]["method"] == "closed_form"


@pytest.mark.parametrize(("path", "body", "status", "code"), [
    (FLOWERS, {"instances": [[1.0]]}, 400, "invalid_input"),
    (FLOWERS, {"instances": ROWS, "samples": 1}, 422, "invalid_option"),
    ("/v1/models/weeds:uncertainty", {"instances": ROWS}, 404, "model_not_found"),
    ("/v1/models/flowers:predict", {"instances": ROWS}, 422, "invalid_option"),
])
def test_what_is_refused_before_the_first_event_has_its_own_status(application, path, body, status, code) -> None:
    answer = application.post(path, json=body, headers=STREAM)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("accept", "kind"), [
    ("text/event-stream", "text/event-stream"), ("text/event-stream, */*", "text/event-stream"),
    ("TEXT/Event-Stream;q=1", "text/event-stream"), ("application/json, text/event-stream", "application/json"),
    ("text/event-stream, application/x-npz", "application/x-npz"), ("*/*", "application/json"),
    ("text/event-stream;q=0, */*", "application/json"), ("text/event-stream, application/json; q=0.0",
                                                         "text/event-stream"),
])
def test_a_stream_is_for_those_who_ask_for_nothing_else(application, accept, kind) -> None:
    answer = application.post(FLOWERS, json={"instances": ROWS}, headers={"Accept": accept})
    assert answer.headers["content-type"] == kind


def test_a_prediction_is_json_for_those_who_take_that_too(application) -> None:
    answer = application.post("/v1/models/flowers:predict", json={"instances": ROWS},
                              headers={"Accept": "text/event-stream, */*"})
    assert answer.headers["content-type"] == "application/json"
