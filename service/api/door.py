"""The way in: requests for an answer go straight to it, all others through FastAPI, whose layers cost as much again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.inference import Inference
from service.api.open_inference import infer_route
from service.api.refusals import refusal
from service.errors import ErrorbarError
from service.scheduling.job import Mode

if TYPE_CHECKING:
    from service.api.quick import Quick

_HOT = re.compile(r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?:(predict|uncertainty)")


def hot_route(scope: Scope) -> re.Match[str] | None:
    """Model, version and mode, where a request is for an answer."""
    return _HOT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None


class Door:
    """hot: what answers the paths of `:predict` and `:uncertainty`; infer: those of the Open Inference Protocol; app:
    everything else, and other methods of these; quick: what answers small requests of the hot paths for a server that
    can do without ASGI."""

    def __init__(self, app: ASGIApp, hot: ASGIApp, infer: ASGIApp, quick: Quick) -> None:
        self.app, self._hot, self._infer, self.quick = app, hot, infer, quick

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if hot_route(scope) is not None:
            app = self._hot
        elif infer_route(scope) is not None:
            app = self._infer
        await app(scope, receive, send)


class Hot:
    """The paths of `:predict` and `:uncertainty`, as an ASGI application."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = hot_route(scope)
        assert found is not None  # whoever calls has looked
        name, version = found[1], found[2]
        mode: Mode = "predict" if found[3] == "predict" else "uncertainty"
        try:
            await self._inference.answer(scope, receive, send, name, version, mode)
        except ErrorbarError as e:
            await refusal(scope, e)(scope, receive, send)
