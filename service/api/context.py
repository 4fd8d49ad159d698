"""What belongs to one request: its id, its stage timings, and the headers made of them."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.event_stream import STREAM, event
from service.clock import Clock

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_KEY = "errorbar"
_ids = random.Random()  # to be different, not secret


class Context:
    """headers: of the request; of one that stands twice, the last. timings_s: by stage, filled as it goes."""

    __slots__ = ("arrived", "clock", "headers", "request_id", "timings_s")

    def __init__(self, request_id: str, clock: Clock, arrived: float, headers: dict[bytes, bytes]) -> None:
        self.request_id, self.clock, self.arrived, self.headers = request_id, clock, arrived, headers
        self.timings_s: dict[str, float] = {}

    def told(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that every response has: `X-Request-Id` and `Server-Timing`, milliseconds by stage."""
        stages = [f"{stage};dur={s * 1e3:.3f}" for stage, s in self.timings_s.items()]
        total = f"total;dur={(self.clock.now() - self.arrived) * 1e3:.3f}"
        return (b"x-request-id", self.request_id.encode()), (b"server-timing", ", ".join([*stages, total]).encode())


def context_of(scope: MutableMapping[str, object]) -> Context:
    found = scope[_KEY]
    assert isinstance(found, Context)
    return found


def begun(scope: MutableMapping[str, Any], clock: Clock) -> Context:
    """The context of a request that has just come, or the one it has already: its id is the caller's, if that is 1 to
    128 visible ASCII characters."""
    found = scope.get(_KEY)
    if isinstance(found, Context):
        return found
    headers = dict(scope["headers"])
    given = headers.get(b"x-request-id")
    request_id = given.decode() if given and _SANE_ID.fullmatch(given) else f"{_ids.getrandbits(128):032x}"
    context = scope[_KEY] = Context(request_id, clock, clock.now(), headers)
    return context


class ContextMiddleware:
    """Gives every request its context and every response its headers. `last_resort` answers what no route or handler
    did: an error that nobody foresaw, or the end of the server's patience, which cancels the request."""

    def __init__(self, app: ASGIApp, clock: Clock, last_resort: Callable[[Request, BaseException], Response]) -> None:
        self._app, self._clock, self._last_resort = app, clock, last_resort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = begun(scope, self._clock)
        started, streams = False, False

        async def send_with_headers(message: Message) -> None:
            nonlocal started, streams
            if message["type"] == "http.response.start":
                started, streams = True, STREAM in message["headers"]
                message["headers"] = [*message["headers"], *context.told()]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except (Exception, asyncio.CancelledError) as e:
            response = self._last_resort(Request(scope), e)
            if not started:
                await response(scope, receive, send_with_headers)
            elif streams:
                body = event("error", bytes(response.body))
                await send({"type": "http.response.body", "body": body, "more_body": False})
            else:
                raise
