"""The way in: requests for an answer go straight to it, all others through FastAPI, whose layers cost as much again."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.inference import Inference
from service.api.refusals import refusal
from service.errors import ErrorbarError
from service.scheduling.job import Mode

_HOT = re.compile(r"/v1/models/([^/:]+)(?:/versions/([^/:]+))?:(predict|uncertainty)")


class Door:
    """hot: what answers the paths of `:predict` and `:uncertainty`; app: everything else, and other methods of these.
    """

    def __init__(self, app: ASGIApp, hot: ASGIApp) -> None:
        self.app, self._hot = app, hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = scope["type"] == "http" and scope["method"] == "POST" and _HOT.fullmatch(scope["path"]) is not None
        await (self._hot if hot else self.app)(scope, receive, send)


class Hot:
    """The paths of `:predict` and `:uncertainty`, as an ASGI application."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _HOT.fullmatch(scope["path"])
        assert found is not None  # whoever calls has looked
        name, version = found[1], found[2]
        mode: Mode = "predict" if found[3] == "predict" else "uncertainty"
        try:
            await self._inference.answer(scope, receive, send, name, version, mode)
        except ErrorbarError as e:
            await refusal(scope, e)(scope, receive, send)
