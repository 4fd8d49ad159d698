"""How much patience a connection gets, as plain rules, and what its protocol tells the application."""

from __future__ import annotations

import asyncio
import re
import resource
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.api.quick import Quick
from service.connection_limits import ConnectionLimits, overdue, too_slow
from service.connections import Connection, Port, allow_files

LIMITS = ConnectionLimits(
    connections=10, header_bytes=1000, headers=10, head_s=5.0, body_s=20.0, keep_alive_s=7.0, unread_s=8.0)
SECONDS = st.floats(0, 1000)


@given(SECONDS, SECONDS, st.sampled_from(["idle", "head", "body", "nothing"]))
def test_who_was_late_stays_late(first, more, reading) -> None:
    assert overdue(reading, first, LIMITS) <= overdue(reading, first + more, LIMITS)


def test_each_thing_that_is_read_has_its_own_time() -> None:
    assert [overdue("head", s, LIMITS) for s in (5.0, 5.1)] == [False, True]
    assert [overdue("body", s, LIMITS) for s in (20.0, 20.1)] == [False, True]
    assert [overdue("idle", s, LIMITS) for s in (7.0, 7.1)] == [False, True]


@given(st.integers(0, 10**7), SECONDS)
def test_who_reads_a_kilobyte_a_second_is_never_too_slow(read_bytes, waited_s) -> None:
    assert not too_slow(max(read_bytes, int(1024 * waited_s) + 1), waited_s, LIMITS)
    assert too_slow(0, waited_s, LIMITS) == (waited_s > LIMITS.unread_s)


@given(st.lists(st.floats(0.01, 3600), min_size=4, max_size=4))
def test_looks_are_often_enough_for_the_shortest_deadline_and_no_busy_loop(deadlines_s) -> None:
    limits = ConnectionLimits(10, 1000, 10, *deadlines_s)
    assert 0.05 <= limits.sweep_s <= 1.0
    assert limits.sweep_s <= max(0.05, min(deadlines_s) / 4)


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closing, self.reading = b"", False, True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def port_of(quick: Quick) -> Port:
    return Port("127.0.0.1", 0, LIMITS, lambda error: None, quick)


def connected(port: Port, wire: Wire, application: Any) -> Connection:
    """A connection on the running loop."""
    config = Config(application, log_config=None, ws="none", interface="asgi3")
    connection = Connection(port, config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(wire)
    return connection


def test_every_request_of_a_connection_hears_that_its_client_left() -> None:
    heard: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        heard.append(message["type"])

    async def leave() -> None:
        connection = connected(port_of(Mock(spec=Quick)), Wire(), application)
        connection.data_received(b"GET /first HTTP/1.1\r\n\r\nGET /second HTTP/1.1\r\n\r\n")
        tasks = set(connection.tasks)
        connection.connection_lost(None)
        await asyncio.wait_for(asyncio.gather(*tasks), 30)

    asyncio.run(leave())
    assert heard == ["http.disconnect"]  # the second one was never begun


@pytest.mark.parametrize(("soft", "hard", "allowed"), [
    (1024, 4096, 1256), (8192, 8192, 8192), (1024, 1100, 1100), (256, resource.RLIM_INFINITY, 1256),
])
def test_files_are_allowed_for_as_many_connections_as_there_may_be(monkeypatch, caplog, soft, hard, allowed) -> None:
    limit = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limit))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limit.__setitem__(slice(None), new))
    allow_files(1000)
    assert limit == [allowed, hard]
    assert ("too few for 1000 connections" in caplog.text) == (allowed < 1256)


PREDICT = b"POST /v1/models/digits:predict HTTP/1.1\r\n"
UNCERTAINTY = b"POST /v1/models/a%62:uncertainty?a=1 HTTP/1.1\r\n"
HEADS = st.sampled_from([
    PREDICT + b"Content-Length: %d\r\n\r\n",
    PREDICT + b"content-length:%d\r\nX-Other: 1\r\n\r\n",
    UNCERTAINTY + b"Host: x\r\nContent-Length: 00%d\r\nAccept: */*\r\n\r\n",
    PREDICT + b"X-Text: Content-Length: 3\r\nContent-Length: %d\r\n\r\n",
    PREDICT + b"X-Text: a\r\n b\r\nContent-Length: %d\r\n\r\n",
    PREDICT + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n",
    PREDICT + b"X-Lone: 1\nContent-Length: %d\r\n\r\n",
    PREDICT + b"Content-Length: %d\r\nContent-Length: 1\r\n\r\n",
    PREDICT + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n",
    PREDICT + b"Connection: close\r\nContent-Length: %d\r\n\r\n",
    PREDICT.replace(b"1.1", b"1.0") + b"Content-Length: %d\r\n\r\n",
    b"POST /v1/other HTTP/1.1\r\nContent-Length: %d\r\n\r\n",
    PREDICT + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: %d\r\n\r\n",
    PREDICT + b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"rubbish\r\n\r\n",
])
BODIES = st.sampled_from([b"", b"{}", b"1", b"\r\n\r\n", PREDICT, b"[1.5, 2]" * 3, b"x" * 20_000])


@st.composite
def streams(draw) -> list[bytes]:
    """What a connection may say, as it comes: requests of few kinds one after the other, in packets that end with one
    of them, with a head, or anywhere. The last may be missing."""
    kinds = draw(st.lists(HEADS, min_size=1, max_size=2))
    packets = [b""]
    for _ in range(draw(st.integers(2, 6))):
        head, body = draw(st.sampled_from(kinds)), draw(BODIES)
        for part in (head.replace(b"%d", b"%d" % len(body)), body):
            cut = draw(st.one_of(st.just(0), st.integers(0, len(part))))
            for piece in (part[:cut], part[cut:]):
                if draw(st.booleans()):
                    packets.append(piece)
                else:
                    packets[-1] += piece
    return packets[: len(packets) - draw(st.sampled_from([0, 0, 1]))]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def heard_of(said: list[bytes], knows: bool, replies_at_once: bool) -> tuple[list[Any], bytes]:
    """What reaches those who answer when two clients say this one after the other, and what they are told. knows:
    whether heads are kept."""
    heard: list[Any] = []

    def shown(scope: Any) -> dict[str, Any]:
        return {name: value for name, value in scope.items() if name != "seen"}

    class Answers(Mock):
        def refuse(self, scope: Any, route: Any, reply: Any) -> bool:
            heard.append(("head", shown(scope), route.groups()))
            refuses = len(scope["headers"]) == 2
            if refuses:
                reply(429, [(b"content-length", b"0")], b"")
            return refuses

        def answer(self, scope: Any, route: Any, body: bytes, reply: Any) -> Any:
            heard.append(("quick", shown(scope), route.groups(), body))
            if len(body) == 1:
                return None
            answer = partial(reply, 200, [(b"content-length", b"2")], b"ok")
            loop.call_soon(answer) if not replies_at_once else answer()
            return Mock()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        heard.append(("asgi", shown(scope), body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"asgi"})

    async def talk() -> bytes:
        nonlocal loop
        loop, told = asyncio.get_running_loop(), b""
        port = port_of(Answers(spec=Quick))
        if not knows:
            port.heads.find = lambda given: None  # type: ignore[method-assign]
        for _ in range(2):
            wire = Wire()
            connection = connected(port, wire, application)
            for some in filter(None, said):
                if not wire.closing:
                    connection.data_received(some)
                await asyncio.sleep(0)
            await turns(40)
            connection.connection_lost(None)
            await turns(3)
            told += wire.written
        return told

    loop: asyncio.AbstractEventLoop
    told = asyncio.run(talk())
    return heard, re.sub(rb"[0-9a-f]{32}", b"(id)", told)


@settings(max_examples=300, deadline=None)
@given(streams(), st.booleans())
def test_a_head_that_came_before_is_read_as_if_it_were_new(said, replies_at_once) -> None:
    assert heard_of(said, True, replies_at_once) == heard_of(said, False, replies_at_once)
