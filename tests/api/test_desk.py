"""Between the event loop and the engine: who leaves, who runs out of time, and how much is in memory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.api.app import Server, create_app
from service.api.bodies import Bodies, Held
from service.errors import Disconnected, Overloaded
from service.scheduling.admission import Admission
from service.settings import Settings
from tests.conftest import loaded

UNCERTAIN = "/v1/models/flowers:uncertainty"
LONG: dict[str, Any] = {"instances": [[1.0, 12.0, 2.0]] * 400, "samples": 10_000}  # about a second


@pytest.fixture
def server(small_models: Path) -> Server:
    return loaded(small_models, rows_by_samples=100_000_000, queue_s=1e6)


async def exchange(app: Any, body: bytes, left: asyncio.Event | None = None) -> tuple[int, dict[str, Any]]:
    """One request. left: set when its client leaves."""
    said, sent = [{"type": "http.request", "body": body, "more_body": False}], []

    async def receive() -> dict[str, Any]:
        if said:
            return said.pop()
        await (left or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": UNCERTAIN, "query_string": b"", "headers": [
        (b"content-length", str(len(body)).encode())]}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_client_that_leaves_gives_its_job_up(server) -> None:
    async def main() -> tuple[int, dict[str, Any]]:
        left = asyncio.Event()
        app = create_app(server.settings, state=server)
        asking = asyncio.create_task(exchange(app, json.dumps(LONG).encode(), left))
        asyncio.get_running_loop().call_later(0.001, left.set)
        return await asking

    status, problem = asyncio.run(main())
    assert (status, problem["code"]) == (400, "client_disconnected")
    server.engine.drain()
    assert server.engine.rows["flowers"] == 0


def test_a_deadline_that_passes_is_told_when_it_passes(server, monkeypatch) -> None:
    monkeypatch.setattr(Admission, "check_deadline", lambda *given: None)  # as if it had looked possible
    body = json.dumps({**LONG, "timeout_ms": 60}).encode()
    status, problem = asyncio.run(exchange(create_app(server.settings, state=server), body))
    assert (status, problem["code"]) == (504, "deadline_exceeded")
    server.engine.drain()


def test_nobody_waits_for_longer_than_work_may_wait(server, monkeypatch) -> None:
    monkeypatch.setattr(Admission, "check_room", lambda *given: None)  # as if it had looked short
    server.engine._limits = replace(server.engine._limits, queue_s=0.1)

    async def main() -> tuple[int, dict[str, Any]]:
        app = create_app(server.settings, state=server)
        left = asyncio.Event()
        first = asyncio.create_task(exchange(app, json.dumps({**LONG, "priority": 9}).encode(), left))
        second = asyncio.create_task(exchange(app, json.dumps(LONG).encode()))
        told = await second
        left.set()
        await first
        return told

    status, problem = asyncio.run(main())
    assert (status, problem["code"]) == (429, "overloaded")
    assert "waited for longer" in problem["detail"]
    server.engine.drain()
    assert server.engine.rows["flowers"] == 0


def test_a_partial_answer_comes_with_what_there_is(server) -> None:
    rows = LONG["instances"][:1] * 1600  # some seconds, so that half a second cuts it on any machine
    body = json.dumps({**LONG, "instances": rows, "timeout_ms": 500, "on_deadline": "partial"}).encode()
    status, answer = asyncio.run(exchange(create_app(server.settings, state=server), body))
    assert status == 200
    for row in answer["predictions"]:
        assert row["stopped"] == "deadline"
        assert 20 <= row["samples"] < 10_000
        assert row["samples"] % 10 == 0
        assert row["se_df"] == row["samples"] // 10 - 1
        assert max(row["mean_se"]) > 0
    server.engine.drain()


def test_more_bodies_than_memory_is_meant_to_hold_are_refused() -> None:
    bodies = Bodies(limit=100, together=150)
    first, second = Held(bodies), Held(bodies)
    first.take(100)
    with pytest.raises(Overloaded) as refused:
        second.take(60)
    assert refused.value.retry_after_s == 1.0
    first.let_go()
    second.take(60)
    second.let_go()
    second.let_go()
    assert bodies.held == 0


def test_where_the_queue_is_full_a_body_is_not_even_read(server) -> None:
    server.engine._admission.backlog_s = 1e9
    status, problem = asyncio.run(exchange(create_app(server.settings, state=server), b"not even JSON"))
    assert (status, problem["code"]) == (429, "overloaded")
    server.engine._admission.backlog_s = 0.0
    status, problem = asyncio.run(exchange(create_app(server.settings, state=server), b"not even JSON"))
    assert (status, problem["code"]) == (400, "malformed_body")
    server.engine.drain()


def test_a_refused_body_holds_nothing(server) -> None:
    limited = Settings(models=server.settings.models, device="cpu", waiting_bytes=10)
    server.settings = limited
    app = create_app(limited, state=server)
    for _ in range(3):
        status, problem = asyncio.run(exchange(app, b'{"instances": [[1, 2, 3]]}'))
        assert (status, problem["code"]) == (429, "overloaded")
    server.engine.drain()


def test_a_client_that_leaves_before_it_is_told_to_go_on_has_left() -> None:
    async def receive() -> Any:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    bodies = Bodies(limit=100, together=150)
    held = Held(bodies)
    with pytest.raises(Disconnected, match="before its request was whole"):
        asyncio.run(bodies.read(receive, {b"expect": b"100-continue", b"content-length": b"60"}, held))
    held.let_go()
    assert bodies.held == 0
