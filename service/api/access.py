"""Who may ask for what: keys, rates, and the routes that only administrators reach."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service import events
from service.api.context import context_of
from service.api.note import note_of
from service.api.refusals import refusal
from service.clock import Clock
from service.errors import ErrorbarError, Forbidden, Overloaded, Unauthenticated, cut
from service.keys import Key, Keys
from service.rates import Bucket, take

Access = Literal["open", "key", "admin"]
Listener = Literal["main", "admin"]
LISTENER = "errorbar.listener"  # in the state of an ASGI scope: which port the request came to
_OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
_ADMIN = re.compile(r"/metrics|/v2/repository(/.*)?|/v1/audit(/.*)?", re.DOTALL)
_MODEL = re.compile(r"/v[12]/models/([^/:]+)")


class NoRoute(ErrorbarError):
    """The port that was asked does not serve this path."""

    code = "not_found"


def access(path: str) -> Access:
    """Who may ask for a path: everyone, holders of a key, or of an admin key. A path that is not known needs a key."""
    if path in _OPEN:
        return "open"
    return "admin" if _ADMIN.fullmatch(path) else "key"


def named_model(path: str) -> str | None:
    """The model that a path asks for; None where it asks for none."""
    found = _MODEL.match(path)
    return found[1] if found else None


def check_port(listener: Listener, path: str, admin_elsewhere: bool) -> None:
    """NoRoute where administrators have a port of their own, and a path is asked for at the wrong one."""
    wanted = access(path)
    if (listener == "admin" and wanted == "key") or (listener == "main" and wanted == "admin" and admin_elsewhere):
        raise NoRoute(f"no route {cut(path)} at this port")


def given_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key that a request brings in `Authorization: Bearer` or `X-API-Key`. Unauthenticated: none, or several."""
    found = []
    for name, value in headers:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            found.append(value[7:].strip())
    if len(found) != 1:
        came = "none came" if not found else "several came"
        raise Unauthenticated(f"a key expected, as Authorization: Bearer KEY or X-API-Key: KEY; {came}")
    return found[0]


def check_key(key: Key, path: str) -> None:
    """Forbidden where the key may not ask for the path."""
    if access(path) == "admin" and not key.admin:
        raise Forbidden("an admin key expected for this route")
    model = named_model(path)
    if model is not None and not key.may_ask(model):
        raise Forbidden(f"this key may not ask model {cut(model)!r}")


class Gate:
    """Lets requests in, or not. keys: those in force now; None where everyone may ask."""

    def __init__(self, keys: Callable[[], Keys] | None, admin_elsewhere: bool, clock: Clock) -> None:
        self._keys, self._admin_elsewhere, self._clock = keys, admin_elsewhere, clock
        self._buckets: dict[str, Bucket] = {}

    def admit(self, scope: Scope) -> None:
        """NoRoute, Unauthenticated, Overloaded, Forbidden. Notes whose request it is, and that it was let in, which it
        is once."""
        note = note_of(scope)
        if note.admitted:
            return
        path: str = scope["path"]
        listener: Listener = scope.get("state", {}).get(LISTENER, "main")
        check_port(listener, path, self._admin_elsewhere)
        # the port of administrators keeps others from metrics, but who loads and unloads models says who they are
        if self._keys is None or access(path) == "open" or (listener == "admin" and path == "/metrics"):
            note.admitted = True
            return
        key = self._keys().find(given_key(scope["headers"]))
        if key is None:
            raise Unauthenticated("not a key of this server")
        note.key = key
        self._spend(key)
        check_key(key, path)
        note.admitted = True

    def _spend(self, key: Key) -> None:
        if key.rate is None:
            return
        self._buckets[key.sha256], wait_s = take(self._buckets.get(key.sha256), self._clock.now(), key.rate)
        if wait_s:
            raise Overloaded(
                f"this key may make {key.rate:g} requests a second; nothing was computed, a retry is safe",
                retry_after_s=wait_s)


class Guard:
    """Stands before an application, which sees only what the gate lets in."""

    def __init__(self, app: ASGIApp, gate: Gate, observer: events.Observer) -> None:
        self._app, self._gate, self._observe = app, gate, observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._gate.admit(scope)
            except ErrorbarError as e:
                await turned_away(scope, e, self._observe)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def turned_away(scope: Scope, error: ErrorbarError, observer: events.Observer) -> Response:
    """The answer to a request that the gate did not let in, which is counted."""
    context = context_of(scope)
    observer(events.RequestAnswered(None, None, "", error.code, context.clock.now() - context.arrived, {}))
    response = refusal(scope, error)
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = 'Bearer realm="errorbar"'
    return response
