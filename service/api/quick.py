"""Small requests of the hot routes, from a whole request to a whole answer in plain calls.

A task, and the messages of ASGI, cost as much as a small network. What takes long to decode or to encode goes through
ASGI like everything else, with the same steps of `Inference`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service import events
from service.api.access import Gate, turned_away
from service.api.bodies import Held
from service.api.context import begun, context_of
from service.api.desk import Asked
from service.api.inference import TYPE_OF, Call, Inference, Outside, answer_is_heavy
from service.api.refusals import refusal
from service.api.request_log import RequestLog
from service.clock import Clock
from service.errors import Disconnected, Draining, ErrorbarError
from service.repository import ReadyModel
from service.scheduling import Answer, Job
from service.scheduling.job import Mode
from service.scheduling.queue import Outcome

Leave = Callable[[], None]


class Reply(Protocol):
    """Writes the whole answer to a request."""

    def __call__(self, status: int, headers: Iterable[tuple[bytes, bytes]], content: bytes) -> None: ...


class Quick:
    """Answers them all on the event loop. gate, log: None where there is none. last_resort: answers what nobody
    foresaw. cut: told of each request that the server's end cut short."""

    def __init__(
        self, inference: Inference, clock: Clock, observer: events.Observer, gate: Gate | None, log: RequestLog | None,
        last_resort: Callable[[Request, BaseException], Response], cut: Callable[[], None],
    ) -> None:
        self.inference, self.clock, self.observer, self.gate, self.log = inference, clock, observer, gate, log
        self.last_resort, self.cut = last_resort, cut

    def arrived(self, scope: Scope) -> None:
        """The head of a request is here, from which its time counts; its body is to come."""
        begun(scope, self.clock)

    def answer(self, scope: Scope, route: re.Match[str], body: bytes, reply: Reply) -> Leave | None:
        """Replies, at once or later; returns what to call should the client leave before. None, and no reply, where the
        request takes long to decode or its answer to encode: it goes through ASGI, with this scope."""
        exchange = _Exchange(self, scope, route[3], reply)
        return exchange.leave if exchange.begin(route[1], route[2], body) else None


    def refuse(self, scope: Scope, route: re.Match[str], reply: Reply) -> bool:
        """Whether a request is refused by its head alone, and was told so. Else it goes on with this scope."""
        return _Exchange(self, scope, route[3], reply).head(route[1], route[2]) is None


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_asked", "_call", "_held", "_job", "_mode", "_outside", "_quick", "_reply", "_scope")

    _call: Call
    _job: Job
    _outside: Outside

    def __init__(self, quick: Quick, scope: Scope, mode: str, reply: Reply) -> None:
        self._quick, self._scope, self._reply = quick, scope, reply
        self._mode: Mode = "predict" if mode == "predict" else "uncertainty"
        self._held = Held(quick.inference.bodies)
        self._asked: Asked | None = None

    def begin(self, name: str, version: str | None, body: bytes) -> bool:
        """Whether it is answered here."""
        if (model := self.head(name, version)) is None:
            return True
        inference, scope = self._quick.inference, self._scope
        try:
            self._call = call = Call(scope, context_of(scope), model, self._mode)
            if call.streams or call.is_heavy(len(body)):
                return False
            self._held.take(len(body))
            self._job, self._outside = inference.decoded(call, body)
            if answer_is_heavy(self._job):
                self._held.let_go()
                return False
            self._asked = inference.desk.ask(self._job, self._told)
        except Exception as e:
            self._fail(e)
        return True

    def head(self, name: str, version: str | None) -> ReadyModel | None:
        """The model that answers. None, and a reply, where it is not let in, or there is no such model, or no room for
        more work."""
        begun(self._scope, self._quick.clock)
        try:
            if (refused := self._refused()) is None:
                return self._quick.inference.model_of(self._scope, name, version)
            self._send(turned_away(self._scope, refused, self._quick.observer))
        except Exception as e:
            self._fail(e)
        return None

    def _refused(self) -> ErrorbarError | None:
        """By the gate."""
        try:
            if self._quick.gate is not None:
                self._quick.gate.admit(self._scope)
        except ErrorbarError as e:
            return e
        return None

    def leave(self) -> None:
        """The client has left."""
        if self._asked is not None:
            self._quick.inference.desk.leave(self._asked)
            self._told(Disconnected("the client left before its answer was ready"))

    def _told(self, outcome: Outcome) -> None:
        self._asked = None
        inference = self._quick.inference
        if isinstance(outcome, Draining):  # it was admitted, and nobody computes it any more
            self._quick.cut()
        try:
            if not isinstance(outcome, Answer):
                raise outcome
            self._held.let_go()
            inference.note(self._call.context, self._job, outcome, self._outside)
            content = inference.encoded(self._call, self._job, outcome, self._outside)
        except Exception as e:
            self._fail(e)
            return
        self._count("ok")
        self._end(200, [(b"content-type", TYPE_OF[self._call.answered_as]),
                        (b"content-length", str(len(content)).encode())], content)

    def _fail(self, error: Exception) -> None:
        self._held.let_go()
        if isinstance(error, ErrorbarError):
            self._count(error.code)
            self._send(refusal(self._scope, error))
        else:
            self._count("internal_error")
            self._send(self._quick.last_resort(Request(self._scope), error))

    def _count(self, code: str) -> None:
        self._quick.inference.count(self._scope, self._mode, code)

    def _send(self, response: Response) -> None:
        self._end(response.status_code, response.raw_headers, bytes(response.body))

    def _end(self, status: int, headers: Iterable[tuple[bytes, bytes]], content: bytes) -> None:
        self._reply(status, [*headers, *context_of(self._scope).told()], content)
        if self._quick.log is not None:
            self._quick.log.say(self._scope, status)
