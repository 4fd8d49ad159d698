"""What belongs to one request: its id, its stage timings, and the headers made of them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.clock import Clock

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_KEY = "errorbar"


@dataclass
class Context:
    request_id: str
    clock: Clock
    arrived: float
    timings_s: dict[str, float] = field(default_factory=dict)


def context_of(scope: MutableMapping[str, object]) -> Context:
    found = scope[_KEY]
    assert isinstance(found, Context)
    return found


class ContextMiddleware:
    """Gives every request its id (the caller's, if it is 1 to 128 visible ASCII characters) and every response
    `X-Request-Id` and `Server-Timing`. `last_resort` answers what no route or handler did: an error that nobody
    foresaw, or the end of the server's patience, which cancels the request."""

    def __init__(self, app: ASGIApp, clock: Clock, last_resort: Callable[[Request, BaseException], Response]) -> None:
        self._app, self._clock, self._last_resort = app, clock, last_resort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((v for k, v in scope["headers"] if k == b"x-request-id"), b"")
        request_id = given.decode() if _SANE_ID.fullmatch(given) else os.urandom(16).hex()
        context = scope[_KEY] = Context(request_id, self._clock, self._clock.now())

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                timing = ", ".join(f"{stage};dur={s * 1e3:.3f}" for stage, s in context.timings_s.items())
                total = (self._clock.now() - context.arrived) * 1e3
                message["headers"] = [
                    *message["headers"], (b"x-request-id", request_id.encode()),
                    (b"server-timing", f"{timing + ', ' if timing else ''}total;dur={total:.3f}".encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except (Exception, asyncio.CancelledError) as e:
            response = self._last_resort(Request(scope), e)
            if started:
                raise
            await response(scope, receive, send_with_headers)
