"""The two hot routes: what they answer, and what they refuse."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from service.api.decode import is_plain, names_in, parse_body

FLOWER = [1.0, 12.0, 2.0]


def predict(client, instances, model="flowers", **fields):
    return client.post(f"/v1/models/{model}:predict", json={"instances": instances, **fields})


def uncertain(client, instances, model="flowers", **fields):
    return client.post(f"/v1/models/{model}:uncertainty", json={"instances": instances, **fields})


def test_a_prediction_has_label_probabilities_and_digest(client) -> None:
    body = predict(client, [FLOWER, [3.0, 12.0, 2.0]]).json()
    assert (body["model"], body["version"]) == ("flowers", "1")
    assert body["digest"].startswith("sha256:")
    first, second = body["predictions"]
    assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-6)
    assert first["label"] == ["daisy", "rose"][first["index"]]
    assert (first["out_of_range"], second["out_of_range"]) == ([], ["petal"])


def test_rows_may_be_objects_by_feature_name_in_any_order(client) -> None:
    by_name = predict(client, [{"stem": 12.0, "leaf": 2.0, "petal": 1.0}]).json()["predictions"]
    assert by_name == predict(client, [FLOWER]).json()["predictions"]


def test_rows_may_be_objects_by_input_name(client) -> None:
    assert predict(client, [{"x": FLOWER}]).json() == predict(client, [FLOWER]).json()


def test_an_uncertainty_equals_the_engines(client, state) -> None:
    body = uncertain(client, [FLOWER], samples=50, seed=3).json()
    row = body["predictions"][0]
    engine = state.repository.get("flowers").sampler.uncertainty(torch.tensor([FLOWER]), 50, 3)
    for name in ("mean", "std", "mean_se", "std_se"):
        assert row[name] == pytest.approx(getattr(engine, name)[0].tolist(), abs=1e-6)
    for name in ("entropy", "entropy_se", "expected_entropy", "mutual_information", "mutual_information_se",
                 "variation_ratio"):
        assert row[name] == pytest.approx(float(getattr(engine, name)[0]), abs=1e-6)
    assert row["se_df"] == 4
    assert body["sampling"] == {
        "method": "sampled", "samples": 50, "seed": 3, "masks": "shared", "design": "balanced", "dtype": "float32",
        "sites_active": 2, "sites_total": 2,
    }


def test_what_comes_with_a_later_capability_is_null_and_says_why(client) -> None:
    row = uncertain(client, [FLOWER]).json()["predictions"][0]
    for name in ("settled", "decision", "prediction_set", "calibrated_probabilities", "ood_score"):
        assert row[name] is None
    assert row["calibration_reason"] == "the model has no calibration"
    assert (row["samples"], row["stopped"]) == (50, "samples")


def test_the_same_request_and_seed_give_the_same_bytes(client) -> None:
    headers = {"X-Request-Id": "same"}
    bodies = [
        client.post("/v1/models/flowers:uncertainty", json={"instances": [FLOWER], "seed": 1}, headers=headers).content
        for _ in range(2)
    ]
    assert bodies[0] == bodies[1]


def test_a_regression_answers_in_the_targets_units_with_its_noise(client) -> None:
    row = uncertain(client, [[0.1, 0.2, 0.3, 0.4]], model="height").json()["predictions"][0]
    assert row["noise_std"] == 0.5
    assert row["total_std"] == pytest.approx(math.hypot(row["std"], 0.5))
    assert isinstance(row["mean"], float)
    assert "entropy" not in row
    assert isinstance(predict(client, [[0.0] * 4], model="height").json()["predictions"][0]["value"], float)


HEIGHT = [[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, -1.0, 2.0]]


def test_a_closed_form_has_drawn_no_samples_and_has_no_standard_error(client) -> None:
    body = uncertain(client, HEIGHT, model="height").json()
    assert (body["sampling"]["method"], body["sampling"]["samples"]) == ("closed_form", 0)
    for row in body["predictions"]:
        assert (row["samples"], row["mean_se"], row["std_se"], row["se_df"]) == (0, 0, 0, None)
        assert row["std"] > 0
        assert row["total_std"] == pytest.approx(math.hypot(row["std"], 0.5))
    values = [row["value"] for row in predict(client, HEIGHT, model="height").json()["predictions"]]
    assert [row["mean"] for row in body["predictions"]] == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("fields", [{"method": "sampled"}, {"quantiles": [0.5]}, {"include_samples": True}])
def test_whoever_asks_for_sampling_or_for_the_samples_is_sampled(client, fields) -> None:
    body = uncertain(client, HEIGHT, model="height", samples=1000, **fields).json()
    assert (body["sampling"]["method"], body["sampling"]["samples"]) == ("sampled", 1000)
    exact = uncertain(client, HEIGHT, model="height").json()["predictions"]
    for row, other in zip(body["predictions"], exact, strict=True):
        assert (row["samples"], row["se_df"]) == (1000, 99)
        assert row["std_se"] > 0
        assert abs(row["std"] - other["std"]) < 5 * row["std_se"]


def test_a_card_says_whether_the_answer_has_a_closed_form(client) -> None:
    cards = {name: client.get(f"/v1/models/{name}").json()["sampling"]["closed_form"]
             for name in ("flowers", "height", "plain")}
    assert cards == {"flowers": False, "height": True, "plain": False}


def test_quantiles_and_samples_come_when_asked_for(client) -> None:
    row = uncertain(client, [FLOWER], samples=20, quantiles=[0.05, 0.5], include_samples=True).json()["predictions"][0]
    draws = np.array(row["sample_values"])
    assert draws.shape == (20, 2)
    assert row["mean"] == pytest.approx(draws.mean(0).tolist(), abs=1e-6)
    assert np.array(row["quantiles"]) == pytest.approx(np.quantile(draws, [0.05, 0.5], axis=0), abs=1e-6)


def test_one_block_has_no_standard_errors(client) -> None:
    row = uncertain(client, [FLOWER], samples=10).json()["predictions"][0]
    assert [row[name] for name in ("mean_se", "std_se", "se_df", "entropy_se")] == [None] * 4


def test_a_model_without_dropout_has_no_uncertainty(client) -> None:
    assert predict(client, [[1, 2]], model="plain").status_code == 200
    answer = uncertain(client, [[1, 2]], model="plain")
    assert (answer.status_code, answer.json()["code"]) == (422, "uncertainty_unavailable")


@pytest.mark.parametrize(("instances", "path", "words"), [
    ([], "instances", "at least one row"),
    ("abc", "instances", "a list of rows"),
    ([1.0], "instances[0]", "a list of shape [3]"),
    ([FLOWER, [1, 2]], "instances[1]", "3 values expected, got 2"),
    ([[1, 2, "3"]], "instances[0][2]", "a number expected, got a string"),
    ([FLOWER, [1, False, 3]], "instances[1][1]", "got false"),
    ([[1, None, 3]], "instances[0][1]", "got null"),
    ([[1, [2], 3]], "instances[0][1]", "got a list"),
    ([[[1, 2, 3]]], "instances[0]", "3 values expected, got 1"),
    ([[1, 1e300, 3]], "instances[0][1]", "float32"),
    ([FLOWER, {"x": FLOWER}], "instances[0]", "an object"),
    ([{"petal": 1, "stem": 2}], "instances[0].leaf", "missing"),
    ([{"petall": 1, "stem": 2, "leaf": 3}], "instances[0].petall", "did you mean 'petal'"),
    ([{"petal": 1, "stem": "tall", "leaf": 3}], "instances[0].stem", "a number expected"),
])
def test_bad_input_is_named_by_its_path(client, instances, path, words) -> None:
    answer = predict(client, instances)
    body = answer.json()
    assert (answer.status_code, body["code"], answer.headers["content-type"]) == (
        400, "invalid_input", "application/problem+json")
    assert body["errors"][0]["path"] == path
    assert words in body["detail"]


def test_one_long_string_does_not_take_its_length_for_every_number(client) -> None:
    """numpy would: 3,000 numbers beside a string of a million characters, 12 GB."""
    tracemalloc.start()
    answer = predict(client, [FLOWER] * 1000 + [[1.0, "1" * 1_000_000, 2.0]])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["path"] == "instances[1000][1]"
    assert most < 100e6


@pytest.mark.parametrize(("body", "plain"), [
    (b'{"instances": [[1, 2.5], [3, -4e3]]}', True), (b'{"instances": [[1, true]]}', False),
    (b'{"instances": [[1, null]]}', False), (b'{"instances": [[1, "2"]]}', False),
    (b'{"instances": [{"a": 1, "b": 2}], "masks": "shared", "decide": {"above": 0.9, "error": 0.1}}', True),
    (b'{"instances": [{"a": 1, "b": "2"}], "seed": 1}', False), (b'{"instances": ["a"]}', False),
    (b'{"instances": [{"x": {"b64": "AAAA"}}]}', False),
])
def test_rows_are_plain_where_they_hold_numbers_and_nothing_else(body, plain) -> None:
    assert is_plain(body, names_in(parse_body(body))) is plain


def test_an_input_that_there_is_not_is_named(client) -> None:
    answer = predict(client, [{"xx": [1, 2, 3, 4]}], model="height")
    assert "instances[0].xx: not an input of this model" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"instances": [[NaN, 1, 2]]}', b"\xff\xfe", b'"x"'])
def test_a_body_that_is_no_request_is_malformed(client, body) -> None:
    answer = client.post("/v1/models/flowers:predict", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")


def test_a_body_without_instances_says_so(client) -> None:
    answer = client.post("/v1/models/flowers:predict", json={})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "instances")


@pytest.mark.parametrize(("fields", "words"), [
    ({"sample": 50}, "did you mean 'samples'"),
    ({"samples": 1}, "an integer from 2"),
    ({"samples": 10_001}, "an integer from 2"),
    ({"samples": 50.0}, "an integer from 2"),
    ({"samples": True}, "an integer from 2"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**53}, "seed"),
    ({"masks": "own"}, '"shared" or "independent"'),
    ({"design": None}, "design"),
    ({"method": "closed_form"}, 'method: "auto" or "sampled" expected, got "closed_form"'),
    ({"samples": "50"}, 'got "50"'),
    ({"quantiles": [0.5, 1.0]}, "quantiles[1]"),
    ({"quantiles": []}, "quantiles"),
    ({"include_samples": 1}, "true or false"),
    ({"timeout_ms": 0}, "timeout_ms"),
    ({"on_deadline": "never"}, '"fail" or "partial" expected'),
    ({"priority": 10}, "an integer from 0 to 9 expected"),
    ({"priority": True}, "an integer from 0 to 9 expected"),
])
def test_a_wrong_option_is_refused_by_name(client, fields, words) -> None:
    answer = uncertain(client, [FLOWER], **fields)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "invalid_option")
    assert words in body["detail"]
    assert body["errors"][0]["path"].split("[")[0] == next(iter(fields))


@pytest.mark.parametrize(("option", "words"), [
    ("samples", "an option of :uncertainty"), ("on_deadline", "an option of :uncertainty"),
    ("sampels", "not a field"),
])
def test_an_option_of_uncertainty_is_refused_by_predict(client, option, words) -> None:
    body = predict(client, [FLOWER], **{option: 50}).json()
    assert body["code"] == "invalid_option"
    assert words in body["detail"]


@pytest.mark.parametrize(("query", "words"), [
    ("samples=1000", "samples: to be a field of the JSON body"), ("sampels=7", "did you mean 'samples'"),
    ("trace", "trace: not a parameter"),
])
def test_a_parameter_of_the_query_string_is_refused_not_ignored(client, query, words) -> None:
    answer = client.post(f"/v1/models/flowers:uncertainty?{query}", json={"instances": [FLOWER]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_option")
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(("accept", "status"), [
    ("text/event-stream", 422), ("text/event-stream; q=1, text/html", 422), ("text/html", 200),
    ("text/event-stream, application/json", 200), ("text/event-stream, */*;q=0.1", 200),
])
def test_who_takes_only_a_stream_of_events_gets_no_prediction(client, accept, status) -> None:
    headers = {"Accept": accept}
    answer = client.post("/v1/models/flowers:predict", json={"instances": [FLOWER]}, headers=headers)
    assert answer.status_code == status
    assert status == 200 or answer.json()["code"] == "invalid_option"


def test_no_error_says_a_long_name_back(client) -> None:
    long = "x" * 1_000_000
    for answer in (
        uncertain(client, [FLOWER], **{long: 1}), uncertain(client, [FLOWER], method=long),
        uncertain(client, [FLOWER], decide={long: 1}),
        predict(client, [{long: 1}]), predict(client, [FLOWER], model=long[:10_000]), client.get(f"/{long[:10_000]}"),
        client.post("/v1/models/flowers:predict", content=b"x", headers={"Content-Type": long[:10_000]}),
    ):
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 1000


def test_a_length_of_thousands_of_digits_is_too_large(client) -> None:
    answer = client.post("/v1/models/flowers:predict", content=b"{}", headers={"Content-Length": "9" * 5000})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_an_unknown_model_or_version_lists_what_there_is(client) -> None:
    missing = predict(client, [FLOWER], model="flower")
    assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")
    assert "flowers, height, plain" in missing.json()["detail"]
    version = client.post("/v1/models/flowers/versions/7:predict", json={"instances": [FLOWER]})
    assert (version.status_code, version.json()["code"]) == (404, "version_not_found")


def test_a_version_may_be_named(client) -> None:
    assert client.post("/v1/models/flowers/versions/1:predict", json={"instances": [FLOWER]}).status_code == 200


def test_a_body_over_the_limit_is_refused_before_it_is_parsed(client) -> None:
    answer = client.post("/v1/models/flowers:predict", content=b"x" * 2_000_001)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_body_of_unknown_length_is_refused_at_the_limit(client) -> None:
    chunks = (b"x" * 100_000 for _ in range(30))
    answer = client.post("/v1/models/flowers:predict", content=chunks)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(("rows", "fields"), [
    (4097, {}), (1000, {"samples": 2000}), (4000, {"samples": 200, "include_samples": True}),
])
def test_too_much_work_is_refused(client, rows, fields) -> None:
    answer = uncertain(client, [FLOWER] * rows, **fields)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_another_media_type_is_refused(client) -> None:
    answer = client.post("/v1/models/flowers:predict", content=b"x", headers={"Content-Type": "application/xml"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("charset", "status"), [
    ("utf-8", 200), ('"UTF-8"', 200), ("latin-1", 415), ("utf-16", 415),
])
def test_a_body_that_is_not_utf_8_is_refused(client, charset, status) -> None:
    headers = {"Content-Type": f"application/json; charset={charset}"}
    body = b'{"instances": [[1.0, 12.0, 2.0]]}'
    assert client.post("/v1/models/flowers:predict", content=body, headers=headers).status_code == status


def test_of_a_key_that_stands_twice_the_last_counts(client) -> None:
    body = b'{"instances": [[1.0, 12.0, 2.0]], "samples": 1, "samples": 20}'
    answer = client.post("/v1/models/flowers:uncertainty", content=body)
    assert answer.json()["sampling"]["samples"] == 20


def test_a_deadline_that_cannot_be_met_is_refused(client) -> None:
    answer = uncertain(client, [FLOWER] * 4000, samples=250, timeout_ms=1)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_every_response_carries_the_request_id_and_where_the_time_went(client) -> None:
    answer = client.post(
        "/v1/models/flowers:uncertainty", json={"instances": [FLOWER]}, headers={"X-Request-Id": "abc-1"})
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"] == "abc-1"
    for stage in ("decode", "queue", "device", "summary", "encode"):
        assert f"{stage};dur=" in answer.headers["Server-Timing"]


def test_an_insane_request_id_is_replaced(client) -> None:
    answer = client.get("/healthz", headers={"X-Request-Id": "a b\tc"})
    assert answer.headers["X-Request-Id"] != "a b\tc"
    assert len(answer.headers["X-Request-Id"]) == 32
