"""The server before its models are ready, when they cannot be, when a client leaves, and at its end."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import Server, _load, create_app
from service.clock import MonotonicClock
from service.scheduling import Engine
from service.settings import Settings

PREDICT = "/v1/models/flowers:predict"
BODY = b'{"instances": [[1.0, 12.0, 2.0]]}'


@pytest.fixture
def server(small_models: Path) -> Server:
    return Server(Settings(models=small_models, device="cpu"), MonotonicClock())


def call(server: Server, *messages: dict[str, Any], path: str = PREDICT,
         then: Callable[[asyncio.Task[None]], None] | None = None) -> list[dict[str, Any]]:
    """What the application sends to one request, whose client says these messages. then: what happens to the request's
    task while it waits for more."""
    app, said, sent = create_app(server.settings, state=server), list(messages), []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [], "root_path": "",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }

    async def exchange() -> None:
        waits = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if said:
                return said.pop(0)
            waits.set()
            return await asyncio.get_running_loop().create_future()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        task = asyncio.ensure_future(app(scope, receive, send))
        if then is not None:
            await waits.wait()
            then(task)
        await asyncio.wait_for(task, 60)

    asyncio.run(exchange())
    return sent


def headers_of(sent: list[dict[str, Any]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_a_model_answers_nobody_before_it_is_warm(server, monkeypatch) -> None:
    warmed = []

    def warm(engine: Engine, model: Any) -> None:
        assert not server.repository.is_ready(model.name, model.version)
        assert not server.ready
        warmed.append(model.name)

    monkeypatch.setattr(Engine, "warm", warm)
    server.load()
    assert warmed == ["flowers", "height", "plain"]
    assert server.ready


def test_an_error_that_nobody_foresaw_while_loading_is_logged_and_told(server, monkeypatch, caplog) -> None:
    def load() -> None:
        raise ZeroDivisionError("by zero\nand more")

    monkeypatch.setattr(server, "load", load)
    asyncio.run(_load(server))
    answer = TestClient(create_app(server.settings, state=server)).get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.json()["detail"].endswith("ZeroDivisionError: by zero")
    assert int(answer.headers["Retry-After"]) > 10  # longer than a client waits: it is for people to mend
    assert "not ready" in caplog.text
    assert "Traceback" in caplog.text


def test_the_end_of_the_server_while_it_loads_is_no_failure(server) -> None:
    server.engine.drain()
    asyncio.run(_load(server))
    assert server.failure is None
    assert not server.ready


def test_a_client_that_leaves_is_counted_as_that_and_leaves_no_traceback(server, caplog) -> None:
    server.load()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        call(server, {"type": "http.request", "body": BODY[:9], "more_body": True}, {"type": "http.disconnect"})
    assert caplog.records == []
    page = TestClient(create_app(server.settings, state=server)).get("/metrics").text
    assert 'code="client_disconnected",mode="predict",model="flowers"' in page
    assert 'code="internal_error"' not in page


def test_a_request_that_the_servers_end_cuts_is_told_so_and_counted(server) -> None:
    server.load()
    sent = call(server, {"type": "http.request", "body": BODY[:9], "more_body": True}, then=lambda task: task.cancel())
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (503, "draining")
    assert {"x-request-id", "server-timing", "retry-after"} <= headers_of(sent).keys()
    assert server.cut_requests == 1
    page = TestClient(create_app(server.settings, state=server)).get("/metrics").text
    assert 'code="draining",mode="predict",model="flowers"' in page


def test_an_error_that_nobody_foresaw_has_the_headers_of_every_answer(state, monkeypatch, caplog) -> None:
    def admit(self: Engine, *given: Any, **named: Any) -> Any:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(Engine, "admit", admit)
    sent = call(state, {"type": "http.request", "body": BODY, "more_body": False})
    body = json.loads(sent[1]["body"])
    assert (sent[0]["status"], body["code"]) == (500, "internal_error")
    assert headers_of(sent)["x-request-id"] == body["request_id"]
    assert "total;dur=" in headers_of(sent)["server-timing"]
    assert caplog.text.count("Traceback") == 1
    assert "by zero" not in sent[1]["body"].decode()
