"""A line in the log for each request: what was asked, how it ended and where the time went. Never what came in."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.context import context_of
from service.api.note import note_of
from service.clock import Clock
from service.logs import ModelName, fields

log = logging.getLogger("errorbar.requests")
_NAMES = re.compile(r"(?<=/models/)[^/:]+|(?<=/versions/)[^/:]+|(?<=/audit/)[^/:]+")
_VARIABLES = re.compile(r"\{[^{}]*\}")


def shape(path: str) -> str:
    """A path with * for the names in it."""
    return _NAMES.sub("*", path)


class RequestLog:
    """routes: the paths that the application has, as `/v1/models/{name}`; any other path is the client's own words and
    not logged. only: "errors" leaves out what was answered with a status below 400."""

    def __init__(self, routes: Iterable[str], clock: Clock, only: Literal["all", "errors"]) -> None:
        self._clock, self._only = clock, only
        self._routes = {_VARIABLES.sub("*", route) for route in routes}

    def say(self, scope: Scope, status: int | None) -> None:
        """How a request ended; None: without an answer."""
        if self._only == "errors" and status is not None and status < 400:
            return
        context, note = context_of(scope), note_of(scope)
        route, model = shape(scope["path"]), note.model
        timings = {f"{stage}_ms": round(s * 1e3, 3) for stage, s in context.timings_s.items()}
        log.info("request", extra=fields(
            request_id=context.request_id, method=scope["method"],
            route=route if route in self._routes else "(none)", status=status,
            code=note.code if status is not None else "internal_error",
            model=None if model is None else ModelName(model.name),
            version=None if model is None else model.version, digest=None if model is None else model.digest,
            key=None if note.key is None else note.key.name,
            total_ms=round((self._clock.now() - context.arrived) * 1e3, 3), **timings,
        ))


class Logged:
    """Stands before an application, and writes how each of its requests ended."""

    def __init__(self, app: ASGIApp, requests: RequestLog) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: int | None = None

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._requests.say(scope, status)
