"""What one connection may cost: uvicorn's protocol with bounds on heads, pipelines and time.

A client that is slow, silent or broken ends its own connection and nothing else. Deadlines are looked at in sweeps over
all connections of a listener, so that a request costs no timers."""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import httptools
from starlette.types import Scope
from uvicorn._types import HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.api.door import hot_route
from service.api.inference import INLINE_BYTES
from service.api.problems import problem
from service.api.quick import Leave, Quick
from service.connection_limits import ConnectionLimits, Reading, overdue, too_slow
from service.errors import ErrorbarError, HeadersTooLarge, MalformedRequest, Overloaded, RequestTimeout
from service.heads import LENGTH_DIGITS, Heads, Split, split

log = logging.getLogger("errorbar")
_PIPELINED = 16  # requests of one connection that wait for the one before
_OTHER_FILES = 256  # what else a server has open: models, libraries, pipes


class _Waiting(NamedTuple):
    """A request of a hot route, and what else would answer it."""

    cycle: RequestResponseCycle
    app: Any
    scope: Scope
    route: re.Match[str]


class _NoEvent(asyncio.Event):
    """Nobody waits for the messages of a request that is answered without any."""

    def set(self) -> None: ...


class _Whole(RequestResponseCycle):
    """Of a request that came whole, as much of uvicorn's cycle as its connection looks at."""

    message_event = _NoEvent()

    def __init__(self, on_response: Callable[..., None]) -> None:
        self.on_response, self.keep_alive = on_response, True
        self.disconnected = self.response_started = self.response_complete = False


class _Begun(NamedTuple):
    """A request whose head is known, and of whose body some is missing. data: all that came of it. size: of it whole.
    """

    scope: Scope
    route: re.Match[str]
    data: bytes
    body_at: int
    size: int


@dataclass
class Port:
    """One address that is listened on, and who is connected. state: what the ASGI scope of its requests says.
    refused: is told of every request that never reached the application. quick: answers small requests of the hot
    routes without ASGI."""

    host: str
    number: int
    limits: ConnectionLimits
    refused: Callable[[ErrorbarError], None]
    quick: Quick
    state: dict[str, Any] = field(default_factory=dict)
    open: set[Connection] = field(default_factory=set)
    heads: Heads = field(default_factory=Heads)
    _default_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    _default_lines: bytes = b""

    def default_lines(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The headers that uvicorn makes anew each second, as they are written."""
        if headers is not self._default_headers:
            self._default_headers, self._default_lines = headers, b"".join([b"%s: %s\r\n" % h for h in headers])
        return self._default_lines

    def sweep(self, now_s: float) -> None:
        """Ends the connections that are over a deadline."""
        for connection in list(self.open):
            connection.look(now_s)


class Connection(HttpToolsProtocol):
    """One connection of a port. What is wrong before a request has a route is answered here, as a problem, once every
    earlier request of the connection has its answer; then the connection ends."""

    def __init__(self, port: Port, config: Config, server_state: ServerState, app_state: dict[str, Any],
                 loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, server_state, app_state | port.state, loop)
        self._port, self._limits = port, port.limits
        self._reading: Reading = "head"
        self._since_s = loop.time()
        self._head_bytes = 0  # of a head that is not complete, without what came with its beginning
        self._silent = True  # nothing ever came
        self._running: RequestResponseCycle | None = None  # uvicorn's `cycle` is the one that came last
        self._last_words: bytes | None = None
        self._lingers = False  # all is said
        self._unread: tuple[float, int] | None = None  # since when, and how many bytes then
        self._waiting: _Waiting | None = None  # for its body to come whole, to be answered without ASGI
        self._leave: Leave | None = None  # what to call if the client leaves before it is
        self._split: Split | None = None  # of what is being parsed, until its head is
        self._begun: _Begun | None = None  # of which nothing is parsed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._port.open.add(self)
        self._since_s = self.loop.time()
        if len(self._port.open) > self._limits.connections:
            self._refuse(Overloaded(
                f"{self._limits.connections} connections are open, the most that may be; nothing was computed, a retry "
                "is safe", retry_after_s=1.0))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_begun()
        self._port.open.discard(self)
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells only the request that came last
            self._running.disconnected = True
            self._running.message_event.set()
        self._no_longer_quick()
        if self._leave is not None:
            leave, self._leave = self._leave, None
            leave()

    def data_received(self, data: bytes) -> None:
        if self._reading == "nothing":
            return
        if self._begun is not None:
            self._take(self._begun, self._begun.data + data)
        elif (begun := self._known(data)) is not None:
            self._take(begun, data)
        else:
            self._read(data)

    def _known(self, data: bytes) -> _Begun | None:
        """What begins with these bytes, where they are the first of a small request whose head came before."""
        self._split = None
        between = self._silent or (self._reading == "idle" and self._answered)
        if not between or self.flow.write_paused or not data.startswith(b"POST "):
            return None
        given = split(data)
        head = None if given is None or int(given.length) > INLINE_BYTES else self._port.heads.find(given)
        if given is None or head is None:
            self._split = given
            return None
        scope = {**head.scope, "headers": head.headers(given.length), "state": self.app_state.copy(),
                 "server": self.server, "client": self.client, "scheme": self.scheme}
        self._port.quick.arrived(scope)
        self._silent, self._reading, self._since_s = False, "body", self.loop.time()
        return _Begun(scope, head.route, data, given.body_at, given.body_at + int(given.length))

    def _take(self, begun: _Begun, data: bytes) -> None:
        """data: all that came of it, and what came behind it, which is for the parser."""
        self._begun = begun._replace(data=data)
        if len(data) == begun.size:
            self._begun, self._reading = None, "idle"
            self._answer_whole(begun.scope, begun.route, data[begun.body_at:])
        elif len(data) > begun.size:
            self._read_begun()

    def _read_begun(self) -> None:
        """Has the parser read what came of a request whose head is known, if there is one."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self._read(begun.data)

    def _read(self, data: bytes) -> None:
        self._silent = False
        if self._reading == "idle":
            self._begin_head()
        elif self._reading == "head":
            self._head_bytes += len(data)
        try:
            self._parse(data)
            if self._head_bytes > self._limits.header_bytes:
                raise self._head_too_large()
        except httptools.HttpParserCallbackError as e:
            cause = e.__context__
            self._refuse(cause if isinstance(cause, ErrorbarError) else MalformedRequest("a request of HTTP expected"))
        except httptools.HttpParserError as e:
            self._refuse(MalformedRequest(f"a request of HTTP expected: {e}"))
        except HeadersTooLarge as e:
            self._refuse(e)

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as e:
                # no other protocol is spoken here, and who may speak both says so with an ordinary request, its body
                # included: it is read again without that offer, since the parser would leave its body out
                data = _without_upgrade(self.parser, self.url, self.headers) + data[e.args[0]:]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def on_message_begin(self) -> None:
        self._begin_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # what trails a body is no header of the request, which has been let in by then
        if self._reading == "head":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._limits.header_bytes or len(self.headers) > self._limits.headers:
            raise self._head_too_large()
        if len(self.pipeline) >= _PIPELINED:
            raise Overloaded(f"more than {_PIPELINED} requests wait on one connection", retry_after_s=1.0)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise MalformedRequest("a request to this server expected, got CONNECT")
            return
        super().on_headers_complete()
        self._reading, self._since_s, self._head_bytes = "body", self.loop.time(), 0
        if self._split is not None:
            self._remember(self._split, size)
            self._split = None

    def _remember(self, given: Split, size: int) -> None:
        """The head that was just parsed, where requests like it are answered without ASGI. size: of what limits count.
        """
        scope = cast(Scope, self.scope)
        route = hot_route(scope)
        if (route is not None and self.cycle.keep_alive and not self.cycle.waiting_for_100_continue
                and size + LENGTH_DIGITS <= self._limits.header_bytes):
            self._port.heads.keep(given, scope, route)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()
        self._reading, self._since_s = "idle", self.loop.time()
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._answer(waiting)

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each request."""
        self.server_state.total_requests += 1
        if self._reading == "idle":
            self._since_s = self.loop.time()
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
        self._end_if_answered()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        scope = cast(Scope, cycle.scope)
        route = hot_route(scope)
        if route is None or self.flow.write_paused:
            super()._start_asgi_task(cycle, app)
        elif not _is_small(scope) or cycle.waiting_for_100_continue:
            if not self._port.quick.refuse(scope, route, partial(self._reply, cycle)):
                super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._port.quick.arrived(scope)
            self._waiting = _Waiting(cycle, app, scope, route)
        else:
            self._answer(_Waiting(cycle, app, scope, route))

    def _no_longer_quick(self) -> None:
        """What waits for its body goes through ASGI, where it is seen that it will not come."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            super()._start_asgi_task(waiting.cycle, waiting.app)

    def _answer(self, waiting: _Waiting) -> None:
        cycle = waiting.cycle
        leave = self._port.quick.answer(waiting.scope, waiting.route, bytes(cycle.body), partial(self._reply, cycle))
        if leave is None:
            super()._start_asgi_task(cycle, waiting.app)
        elif not cycle.response_complete:
            self._leave = leave

    def _answer_whole(self, scope: Scope, route: re.Match[str], body: bytes) -> None:
        """A request that never was in the parser."""
        self.cycle = self._running = whole = _Whole(self.on_response_complete)
        leave = self._port.quick.answer(scope, route, body, partial(self._reply, whole))
        if leave is None:
            self._through_asgi(scope, body)
        elif not whole.response_complete:
            self._leave = leave

    def _through_asgi(self, scope: Scope, body: bytes) -> None:
        self.cycle = self._running = RequestResponseCycle(
            cast(HTTPScope, scope), self.transport, self.flow, self.logger, self.access_logger, self.access_log,
            self.server_state.default_headers, asyncio.Event(), expect_100_continue=False, keep_alive=True,
            on_response=self.on_response_complete)
        self.cycle.body, self.cycle.more_body = bytearray(body), False
        self.cycle.message_event.set()
        super()._start_asgi_task(self.cycle, self.app)

    def _reply(
        self, cycle: RequestResponseCycle, status: int, headers: Iterable[tuple[bytes, bytes]], content: bytes
    ) -> None:
        """As `cycle.send` of a whole answer."""
        self._leave = None
        if cycle.disconnected:
            return
        lines = [b"%s: %s\r\n" % header for header in headers]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        default = self._port.default_lines(self.server_state.default_headers)
        self.transport.write(b"".join([STATUS_LINE[status], default, *lines, b"\r\n", content]))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def shutdown(self) -> None:
        self._read_begun()
        super().shutdown()

    def resume_writing(self) -> None:
        self._unread = None
        super().resume_writing()

    def look(self, now_s: float) -> None:
        """Ends the connection where its time is over."""
        self._look_at_unread(now_s)
        if self._reading != "nothing" and (self.flow.read_paused or (self._reading == "idle" and not self._answered)):
            self._since_s = now_s  # it is the server's turn: time does not pass for the client
        elif overdue(self._reading, now_s - self._since_s, self._limits):
            if self._silent or self._lingers:
                self.transport.abort()
            elif self._reading == "idle":
                self.transport.close()
            elif self._reading != "nothing":
                self._read_begun()
                self._refuse(RequestTimeout(f"the {self._reading} of the request did not come whole in time"))

    def _look_at_unread(self, now_s: float) -> None:
        left = self.transport.get_write_buffer_size()
        if not left:
            self._unread = None
        elif self._unread is None:
            self._unread = now_s, left
        else:
            since_s, before = self._unread
            if too_slow(before - left, now_s - since_s, self._limits):
                self.transport.abort()
            elif now_s - since_s > self._limits.unread_s:
                self._unread = now_s, left

    def _begin_head(self) -> None:
        self._reading, self._since_s, self._head_bytes = "head", self.loop.time(), 0

    def _head_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"at most {self._limits.headers} headers, and with the address at most {self._limits.header_bytes} bytes, "
            "expected")

    def _refuse(self, error: ErrorbarError) -> None:
        """Reads nothing more, and answers with the error once what came before has its answer."""
        broken = self.cycle if self._reading == "body" else None
        self._reading, self._since_s = "nothing", self.loop.time()
        self._port.refused(error)
        if broken is None or self._running is not broken:
            if broken is not None:
                self.pipeline.popleft()  # it came last, and its body will not come
            self._last_words = _as_bytes(error)
            self._end_if_answered()
        elif broken.response_started:
            self.transport.close() if broken.response_complete else self.transport.abort()
        else:
            broken.disconnected = True
            broken.message_event.set()
            self._no_longer_quick()
            self._say(_as_bytes(error))

    def _end_if_answered(self) -> None:
        if self._last_words is not None and not self.pipeline and self._answered:
            self._say(self._last_words)

    @property
    def _answered(self) -> bool:
        return self._running is None or self._running.response_complete

    def _say(self, words: bytes) -> None:
        """Writes the last of what this connection is told. The client gets a moment to read it: a connection that is
        closed with bytes unread is reset, and what was written may be lost."""
        self._last_words, self._lingers, self._since_s = None, True, self.loop.time()
        self.flow.resume_reading()
        self.transport.write(words)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


def _is_small(scope: Scope) -> bool:
    """Whether it says that its body is short, and how it ends."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return len(value) <= len(str(INLINE_BYTES)) and int(value) <= INLINE_BYTES
    return False


def _as_bytes(error: ErrorbarError) -> bytes:
    """An answer from before the application: as `problem`, with an id of its own."""
    request_id = uuid.uuid4().hex
    response = problem(error, request_id)
    headers = [*response.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
    lines = [STATUS_LINE[response.status_code], *(b"%s: %s\r\n" % header for header in headers), b"\r\n"]
    return b"".join(lines) + cast(bytes, response.body)


def _without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head that was parsed, without the offer to speak another protocol."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    for name, value in headers:
        if name == b"connection":
            kept = [token for token in value.split(b",") if token.strip().lower() in (b"close", b"keep-alive")]
            value = b",".join(kept)
        if name not in (b"upgrade", b"http2-settings"):
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def allow_files(connections: int) -> None:
    """Raises the process's own limit on open files to what so many connections need, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("only %d files may be open, too few for %d connections: raise the limit (ulimit -n) or lower "
                    "`connections`", allowed, connections)
