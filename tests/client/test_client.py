"""The client, against the application without a socket and against servers that misbehave."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from service.client import AsyncClient, Client
from service.errors import ConnectionFailed, ErrorbarError, InvalidInput, ModelNotFound, Overloaded
from service.settings import Settings
from tests.client.conftest import ROWS, refused, scripted


def test_an_uncertainty_comes_as_arrays_rows_first(client) -> None:
    answer = client.uncertainty("flowers", ROWS, samples=50, seed=1)
    assert answer.mean.shape == answer.std.shape == (2, 2)
    assert answer.entropy.shape == (2,)
    assert answer.std.max(1).min() > 0
    assert answer.out_of_range == [[], ["petal"]]
    assert answer.sampling.seed == 1


def test_a_prediction_comes_with_labels(client) -> None:
    answer = client.predict("flowers", ROWS)
    assert answer.values.sum(1) == pytest.approx([1, 1])
    assert answer.labels == [["daisy", "rose"][i] for i in answer.values.argmax(1)]


def test_card_models_and_readiness_are_there(client) -> None:
    assert client.ready()
    assert [m.name for m in client.models()] == ["flowers", "height", "plain"]
    assert client.card("flowers").labels == ["daisy", "rose"]


def test_an_error_comes_back_as_what_it_is_with_its_path(client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.predict("flowers", [[1, 2, "x"]])
    assert caught.value.faults[0].path == "instances[0][2]"


def test_without_calibration_every_decision_is_to_abstain(client) -> None:
    assert client.decide("flowers", ROWS) == ["abstain", "abstain"]


@pytest.mark.parametrize("answer", [
    httpx.ConnectError("refused"), httpx.ReadTimeout("late"), refused(500, "model_failed"),
    httpx.Response(200, text="<html>"), httpx.Response(200, json={"predictions": []}), httpx.Response(200, json=None),
])
def test_decide_abstains_on_every_error_and_never_raises(answer) -> None:
    client, _ = scripted(answer)
    assert client.decide("flowers", ROWS) == ["abstain", "abstain"]


class Countless:
    def __len__(self) -> int:
        raise OSError("no length")


@pytest.mark.parametrize("rows", [object(), Countless()])
def test_decide_abstains_on_rows_that_are_no_rows(rows) -> None:
    client, _ = scripted(httpx.Response(200, json={}))
    assert client.decide("flowers", rows) == ["abstain"]


@pytest.mark.parametrize(("rows", "path"), [
    (np.array([[1.0, np.nan]]), "instances[0][1]"), ([{"a": 1}, {"a": float("inf")}], "instances[1].a"),
])
def test_rows_that_are_not_finite_are_refused_before_they_are_sent(rows, path) -> None:
    client, seen = scripted()
    with pytest.raises(InvalidInput) as caught:
        client.predict("flowers", rows)
    assert caught.value.faults[0].path == path
    assert seen == []
    assert client.decide("flowers", rows) == ["abstain"] * len(rows)


def test_rows_that_are_no_numbers_are_refused_before_they_are_sent() -> None:
    client, seen = scripted()
    with pytest.raises(InvalidInput, match="object"):
        client.predict("flowers", [object()])
    assert seen == []


def test_options_may_be_numpys(client) -> None:
    answer = client.uncertainty("flowers", ROWS, samples=np.int64(20), include_samples=np.bool_(True))
    assert answer.sampling.samples == 20
    assert answer.sample_values.shape == (2, 20, 2)


@pytest.mark.parametrize("url", ["http://x:abc", "http://\x00", "http://[bad", "nowhere", "ftp://x"])
def test_an_address_that_is_none_is_a_failed_connection(url) -> None:
    with pytest.raises(ConnectionFailed):
        Client(url).models()


def test_a_closed_client_is_a_failed_connection(client) -> None:
    client.close()
    with pytest.raises(ConnectionFailed, match="closed"):
        client.models()
    assert client.decide("flowers", ROWS) == ["abstain", "abstain"]
    assert not client.ready()


@pytest.mark.parametrize("name", ["../models", "a b", "a/b", "a?b#c", "flowers:predict", "ü"])
def test_a_name_stays_one_part_of_the_address(name) -> None:
    client, seen = scripted(*[httpx.Response(404, json={"code": "model_not_found", "detail": "no"})] * 2)
    with pytest.raises(ModelNotFound):
        client.predict(name, ROWS)
    with pytest.raises(ModelNotFound):
        client.card(name, version="1/2")
    assert seen[0].url.raw_path == f"/v1/models/{quote(name, safe='')}:predict".encode()
    assert seen[1].url.raw_path == f"/v1/models/{quote(name, safe='')}/versions/1%2F2".encode()


@pytest.mark.parametrize(("status", "code"), [(429, "overloaded"), (503, "not_ready")])
def test_an_answer_that_names_its_retry_after_is_tried_again(status, code) -> None:
    good = httpx.Response(200, json={"models": []})
    client, seen = scripted(refused(status, code, **{"Retry-After": "0"}), good)
    assert client.models() == []
    assert len(seen) == 2


@pytest.mark.parametrize("answer", [
    refused(429, "overloaded"), refused(500, "model_failed", **{"Retry-After": "0"}),
    refused(504, "deadline_exceeded", **{"Retry-After": "0"}), refused(429, "overloaded", **{"Retry-After": "3600"}),
])
def test_nothing_else_is_tried_again(answer) -> None:
    client, seen = scripted(answer)
    with pytest.raises(ErrorbarError):
        client.models()
    assert len(seen) == 1


def test_retries_end() -> None:
    client, seen = scripted(*[refused(429, "overloaded", **{"Retry-After": "0"})] * 4)
    with pytest.raises(Overloaded):
        client.models()
    assert len(seen) == 4


def test_no_answer_is_a_failed_connection() -> None:
    client, _ = scripted(httpx.ConnectError("refused"))
    with pytest.raises(ConnectionFailed, match="refused"):
        client.models()


def test_the_async_client_gives_the_same_answers(client, application) -> None:
    async def ask() -> tuple[np.ndarray, list[str], bool]:
        async with AsyncClient(transport=httpx.ASGITransport(application.app)) as other:
            answer = await other.uncertainty("flowers", ROWS, seed=1)
            return answer.mean, await other.decide("nowhere", ROWS), await other.ready()

    mean, decisions, ready = asyncio.run(ask())
    assert np.array_equal(mean, client.uncertainty("flowers", ROWS, seed=1).mean)
    assert decisions == ["abstain", "abstain"]
    assert ready


@pytest.mark.parametrize(("code", "status"), [("internal_error", 500), ("not_found", 404), ("of_tomorrow", 418)])
def test_a_code_is_kept_where_there_is_no_class_for_it(code, status) -> None:
    client, _ = scripted(refused(status, code))
    with pytest.raises(ErrorbarError) as told:
        client.models()
    assert told.value.code == code


def test_an_error_says_when_to_try_again() -> None:
    client, _ = scripted(refused(503, "not_ready", **{"Retry-After": "60"}))
    with pytest.raises(ErrorbarError) as told:
        client.models()
    assert told.value.retry_after_s == 60


def test_no_tries_at_all_are_one() -> None:
    _, seen = scripted()
    transport = httpx.MockTransport(lambda request: seen.append(request) or refused(429, "overloaded"))
    with pytest.raises(ErrorbarError):
        Client(transport=transport, retries=-1).models()
    assert len(seen) == 1


def test_a_key_that_no_header_can_carry_is_told() -> None:
    with pytest.raises(InvalidInput, match="ASCII"):
        Client(key="schlüssel")


def test_a_prediction_without_values_is_no_answer() -> None:
    body = {"model": "m", "version": "1", "digest": "d", "predictions": [{"label": "a"}]}
    client, _ = scripted(httpx.Response(200, json=body))
    with pytest.raises(ErrorbarError, match="contract"):
        client.predict("m", [[1.0]])


@pytest.mark.parametrize("errors", [[{}], 5, [{"path": "x"}]])
def test_an_error_whose_faults_cannot_be_read_is_still_that_error(errors) -> None:
    body = {"code": "model_not_found", "detail": "no", "errors": errors}
    client, _ = scripted(httpx.Response(404, json=body))
    with pytest.raises(ModelNotFound):
        client.models()


def test_rows_are_no_option(client) -> None:
    for rows in (ROWS, ROWS.tolist()):
        with pytest.raises(InvalidInput, match="instances"):
            client.uncertainty("flowers", rows, instances=3)


def test_a_client_lets_go_of_a_connection_before_the_server_does() -> None:
    with Client() as client:
        assert client._http._transport._pool._keepalive_expiry < Settings.model_fields["keep_alive_s"].default
