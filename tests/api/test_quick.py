"""Small requests that are answered without ASGI get what ASGI would have given them, and end as they should."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.api.app import Server, create_app
from service.api.door import hot_route
from tests.conftest import loaded

ROW = [1.0, 12.0, 2.0]
LONG = {"instances": [ROW] * 400, "samples": 10_000}


@pytest.fixture
def server(small_models: Path) -> Server:
    return loaded(small_models, rows_by_samples=100_000_000)


@dataclass
class Sent:
    """What a request was told, and whether it was taken at all."""

    taken: bool = True
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def status(self) -> int:
        ((status, _, _),) = self.answers
        return status

    @property
    def json(self) -> Any:
        ((_, _, content),) = self.answers
        return json.loads(content)


def ask(server: Server, mode: str, content: Any, model: str = "flowers", leaves: bool = False, abandons: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = ()) -> Sent:
    """One request. leaves: its client does, at once. abandons: the engine gives up all that it has."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    sent = Sent()

    async def main() -> None:
        answered = asyncio.Event()

        def reply(status: int, given: Any, content: bytes) -> None:
            sent.answers.append((status, {k.decode().lower(): v.decode() for k, v in given}, content))
            answered.set()

        scope = {"type": "http", "method": "POST", "path": f"/v1/models/{model}:{mode}", "query_string": b"",
                 "headers": list(headers)}
        route = hot_route(scope)
        assert route is not None
        leave = create_app(server.settings, state=server).quick.answer(scope, route, body, reply)
        if leave is None:
            sent.taken = False
            return
        if leaves:
            leave()
        if abandons:
            await asyncio.to_thread(server.engine.drain, abandon=True)
        await asyncio.wait_for(answered.wait(), 60)

    asyncio.run(main())
    return sent


def rounded(value: Any) -> Any:
    """Two requests may differ in the last bits of their numbers."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def counted(server: Server, code: str, mode: str) -> float | None:
    server.metrics.count()
    labels = {"model": "flowers", "version": "1", "mode": mode, "code": code}
    return server.metrics.registry.get_sample_value("errorbar_requests_total", labels)


@pytest.mark.parametrize(("mode", "options"), [
    ("predict", {}), ("uncertainty", {"samples": 30, "seed": 4}),
    ("uncertainty", {"decide": {"above": 0.6, "error": 0.05}}), ("predict", {"samples": 30}),
    ("uncertainty", {"samples": 1}), ("predict", {"instances": [[1.0]]}),
])
def test_the_answer_is_that_of_asgi(server, application, mode, options) -> None:
    body = {"instances": [ROW, [0.1, 3.0, 1.5]], **options}
    headers = {"X-Request-Id": "same"}
    expected = application.post(f"/v1/models/flowers:{mode}", json=body, headers=headers)
    found = ask(server, mode, body, headers=((b"x-request-id", b"same"),))
    assert found.status == expected.status_code
    ((_, told, content),) = found.answers
    assert told.keys() == expected.headers.keys()
    for name in ("content-type", "x-request-id"):
        assert told[name] == expected.headers[name]
    assert int(told["content-length"]) == len(content)
    assert rounded(found.json) == rounded(expected.json())


@pytest.mark.parametrize("content", [
    {"instances": [ROW] * 300, "samples": 50}, {"instances": [ROW], "samples": 2000, "include_samples": True},
    b'{"instances": [' + b"[1.0, 12.0, 2.0]," * 2000 + b"[1.0, 12.0, 2.0]]}",
], ids=["many rows", "all samples", "many bytes"])
def test_what_takes_long_to_decode_or_encode_is_left_to_asgi_and_holds_nothing(server, content) -> None:
    app = create_app(server.settings, state=server)
    found = ask(server, "uncertainty", content)
    assert not found.taken
    assert found.answers == []
    assert app.quick.inference.bodies.held == 0
    assert server.engine.rows["flowers"] == 0


def test_a_client_that_leaves_gives_its_job_up_and_is_counted(server) -> None:
    found = ask(server, "uncertainty", {"instances": [ROW] * 40, "samples": 10_000}, leaves=True)
    assert found.json["code"] == "client_disconnected"
    server.engine.drain()
    assert server.engine.rows["flowers"] == 0
    assert counted(server, "client_disconnected", "uncertainty") == 1


def test_what_the_servers_end_cuts_short_is_told_so_and_counted(server) -> None:
    found = ask(server, "uncertainty", {"instances": [ROW] * 40, "samples": 10_000}, abandons=True)
    assert (found.status, found.json["code"]) == (503, "draining")
    assert server.cut_requests == 1


def test_an_error_that_nobody_foresaw_is_answered_and_logged(server, monkeypatch, caplog) -> None:
    monkeypatch.setattr("service.api.inference.encode.answer_body", lambda *given: 1 / 0)
    with caplog.at_level(logging.ERROR):
        found = ask(server, "predict", {"instances": [ROW]})
    assert (found.status, found.json["code"]) == (500, "internal_error")
    assert "ZeroDivisionError" in caplog.text
    assert counted(server, "internal_error", "predict") == 1


def test_a_model_that_there_is_not_is_told_as_everywhere(server, application) -> None:
    found = ask(server, "predict", {"instances": [ROW]}, model="trees")
    expected = application.post("/v1/models/trees:predict", json={"instances": [ROW]})
    assert found.status == expected.status_code == 404
    assert found.json["detail"] == expected.json()["detail"]


def test_a_long_request_is_refused_by_its_head_and_counted_once(server) -> None:
    scope = {"type": "http", "method": "POST", "path": "/v1/models/flowers:predict", "query_string": b"",
             "headers": [(b"content-length", b"1000000")]}
    quick = create_app(server.settings, state=server).quick
    route = hot_route(scope)
    assert route is not None
    told: list[int] = []

    def reply(status: int, headers: Any, content: bytes) -> None:
        told.append(status)

    assert not quick.refuse(dict(scope), route, reply)
    assert told == []
    server.engine._admission.backlog_s = 1e9
    assert quick.refuse(dict(scope), route, reply)
    assert told == [429]
    assert counted(server, "overloaded", "predict") == 1
    server.engine._admission.backlog_s = 0.0
    server.engine.drain()
