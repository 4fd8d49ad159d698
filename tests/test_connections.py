"""How much patience a connection gets, as plain rules, and what its protocol tells the application."""

from __future__ import annotations

import asyncio
import resource
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.api.quick import Quick
from service.connection_limits import ConnectionLimits, overdue, too_slow
from service.connections import Connection, Port, allow_files

LIMITS = ConnectionLimits(connections=10, header_bytes=1000, headers=10, head_s=5.0, body_s=20.0, unread_s=8.0)
SECONDS = st.floats(0, 1000)


@given(SECONDS, SECONDS, st.sampled_from(["idle", "head", "body", "nothing"]))
def test_who_was_late_stays_late(first, more, reading) -> None:
    assert overdue(reading, first, LIMITS) <= overdue(reading, first + more, LIMITS)


def test_each_thing_that_is_read_has_its_own_time() -> None:
    assert [overdue("head", s, LIMITS) for s in (5.0, 5.1)] == [False, True]
    assert [overdue("body", s, LIMITS) for s in (20.0, 20.1)] == [False, True]
    assert not overdue("idle", 1e9, LIMITS)  # between requests uvicorn's own timer ends it


@given(st.integers(0, 10**7), SECONDS)
def test_who_reads_a_kilobyte_a_second_is_never_too_slow(read_bytes, waited_s) -> None:
    assert not too_slow(max(read_bytes, int(1024 * waited_s) + 1), waited_s, LIMITS)
    assert too_slow(0, waited_s, LIMITS) == (waited_s > LIMITS.unread_s)


@given(st.floats(0.01, 3600), st.floats(0.01, 3600), st.floats(0.01, 3600))
def test_looks_are_often_enough_for_the_shortest_deadline_and_no_busy_loop(head_s, body_s, unread_s) -> None:
    limits = ConnectionLimits(10, 1000, 10, head_s, body_s, unread_s)
    assert 0.05 <= limits.sweep_s <= 1.0
    assert limits.sweep_s <= max(0.05, min(head_s, body_s, unread_s) / 4)


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closing = b"", False

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

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def test_every_request_of_a_connection_hears_that_its_client_left() -> None:
    heard: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        heard.append(message["type"])

    async def leave() -> None:
        loop, wire = asyncio.get_running_loop(), Wire()
        port = Port("127.0.0.1", 0, LIMITS, lambda error: None, Mock(spec=Quick))
        config = Config(application, log_config=None, ws="none", interface="asgi3")
        connection = Connection(port, config, ServerState(), {}, loop)
        connection.connection_made(wire)
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
