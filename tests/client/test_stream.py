"""Answers on the way, from both clients."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import httpx
import numpy as np
import pytest

from service.client import AsyncClient, Uncertain
from service.errors import ConnectionFailed, ErrorbarError, InvalidOption, ModelFailed
from tests.client.conftest import ROWS, refused, scripted

EVENTS = {"Content-Type": "text/event-stream"}


@pytest.mark.parametrize("rows", [ROWS, ROWS.tolist(), {"x": ROWS}])
def test_a_stream_ends_with_the_answer(client, rows) -> None:
    *so_far, last = client.stream("flowers", rows, samples=100, seed=2)
    assert [answer.final for answer in so_far] == [False] * 9
    assert [int(answer.samples[0]) for answer in so_far] == list(range(10, 100, 10))
    assert [answer.stopped for answer in (so_far[0], last)] == [[None, None], ["samples", "samples"]]
    assert last.final
    assert np.array_equal(last.std, client.uncertainty("flowers", ROWS.tolist(), samples=100, seed=2).std)


def test_who_has_seen_enough_leaves(client) -> None:
    for answer in client.stream("flowers", ROWS, samples=10_000):
        if answer.mean_se is not None and answer.mean_se.max() < 0.05:
            break
    assert not answer.final
    assert client.ready()


def test_a_stream_that_is_refused_says_why(client) -> None:
    with pytest.raises(InvalidOption) as caught:
        list(client.stream("flowers", ROWS, samples=1))
    assert caught.value.faults[0].path == "samples"


def test_a_stream_that_was_not_begun_is_tried_again(client) -> None:
    whole = client._http.post("/v1/models/flowers:uncertainty", json={"instances": ROWS.tolist()},
                              headers={"Accept": "text/event-stream"})
    other, seen = scripted(refused(429, "overloaded", **{"Retry-After": "0"}),
                           httpx.Response(200, content=whole.content, headers=EVENTS))
    assert [answer.final for answer in other.stream("flowers", ROWS)][-1]
    assert len(seen) == 2


@pytest.mark.parametrize(("content", "error", "words"), [
    (b'event: error\ndata: {"code": "model_failed", "detail": "it raised"}\n\n', ModelFailed, "it raised"),
    (b"", ErrorbarError, "ended before"), (b"event: result\ndata: {}\n\n", ErrorbarError, "contract"),
    (b"event: result\ndata: {}\n", ErrorbarError, "ended before"), (b": nothing\n\n", ErrorbarError, "ended before"),
    (b"event: rubbish\ndata: {\n\n", ErrorbarError, "not as an Errorbar server"),
])
def test_a_stream_that_breaks_off_is_an_error(content, error, words) -> None:
    other, _ = scripted(httpx.Response(200, content=content, headers=EVENTS))
    with pytest.raises(error, match=words):
        list(other.stream("flowers", ROWS))


def test_no_stream_is_a_failed_connection() -> None:
    other, _ = scripted(httpx.ReadError("gone"))
    with pytest.raises(ConnectionFailed, match="gone"):
        list(other.stream("flowers", ROWS))


def test_the_async_client_streams_the_same(client, application) -> None:
    async def follow() -> list[Uncertain]:
        async with AsyncClient(transport=httpx.ASGITransport(application.app)) as other:
            async with aclosing(other.stream("flowers", ROWS, samples=60)) as answers:
                found = [answer async for answer in answers]
            with pytest.raises(InvalidOption):
                async for _ in other.stream("flowers", ROWS, samples=1):
                    pass
            return found

    found = asyncio.run(follow())
    assert [int(answer.samples[0]) for answer in found] == [10, 20, 30, 40, 50, 60]
    assert np.array_equal(found[-1].mean, list(client.stream("flowers", ROWS, samples=60))[-1].mean)


def test_a_label_may_have_what_unicode_calls_the_end_of_a_line(client) -> None:
    plain = client._http.post("/v1/models/flowers:uncertainty", json={"instances": ROWS.tolist()}).json()
    plain["predictions"][0]["label"] = "a\u2028b\u0085c"
    event = f"event: result\ndata: {json.dumps(plain, ensure_ascii=False)}\n\n".encode()
    other, _ = scripted(httpx.Response(200, content=event, headers={"Content-Type": "text/event-stream"}))
    (answer,) = other.stream("flowers", ROWS)
    assert answer.labels[0] == "a\u2028b\u0085c"
