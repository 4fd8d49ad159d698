"""Request bodies: read under the limits of one and of all together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from starlette.types import Receive

from service.errors import Disconnected, Fault, InvalidOption, Overloaded, TooLarge, UnsupportedMediaType, cut

JSON, NPY, NPZ = "application/json", "application/x-npy", "application/x-npz"
EVENTS, BINARY = "text/event-stream", "application/octet-stream"
# curl -d says form-urlencoded unless told otherwise; the body is read as JSON all the same
_KINDS = {
    "": JSON, JSON: JSON, "text/json": JSON, "application/x-www-form-urlencoded": JSON, NPY: NPY, NPZ: NPZ,
}
_LENGTH_DIGITS = 18
Headers = Mapping[bytes, bytes]


class Bodies:
    """limit: bytes of one body; together: of all that are in memory at once."""

    def __init__(self, limit: int, together: int) -> None:
        self._limit, self._together = limit, together
        self.held = 0

    def take(self, size: int) -> None:
        """Overloaded where all together would be too much."""
        if self.held + size > self._together:
            raise Overloaded("too many request bodies are in memory; nothing was computed, a retry is safe",
                             retry_after_s=1.0)
        self.held += size

    async def read(self, receive: Receive, headers: Headers, held: Held) -> bytes:
        """TooLarge before it is read, where the client said how long it is; Overloaded; Disconnected."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and (len(declared) > _LENGTH_DIGITS or int(declared) > self._limit):
            raise TooLarge(f"a body of at most {self._limit} bytes expected, got {cut(declared.decode())}")
        held.take(int(declared) if declared.isdigit() else 0)
        try:
            message = await receive()
        except RuntimeError as e:  # uvicorn tells a client that waits for it to go on, which may have left meanwhile
            raise Disconnected("the client left before its request was whole") from e
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            self._check(len(body), held)
            return body
        chunks, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                raise Disconnected("the client left before its request was whole")
            chunk = message.get("body", b"")
            size += len(chunk)
            self._check(size, held)
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await receive()

    def _check(self, size: int, held: Held) -> None:
        if size > self._limit:
            raise TooLarge(f"a body of at most {self._limit} bytes expected, got more")
        held.take(size - held.size)


class Held:
    """What one request holds of the room for bodies, from its first byte until it has its answer."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies, self.size = bodies, 0

    def take(self, more: int) -> None:
        if more > 0:
            self._bodies.take(more)
            self.size += more

    def keep(self, size: int) -> None:
        """What is more than that is given back."""
        self._bodies.held -= self.size - size
        self.size = size

    def let_go(self) -> None:
        self.keep(0)


def media_type(headers: Headers) -> str:
    """How the body is to be read: JSON, NPY or NPZ. UnsupportedMediaType."""
    return _read_as(headers.get(b"content-type", b""), headers.get(b"content-encoding", b"identity"))


@lru_cache(maxsize=64)  # clients say the same each time
def _read_as(content_type: bytes, content_encoding: bytes) -> str:
    given, _, parameters = content_type.decode("latin-1").partition(";")
    kind = _KINDS.get(given.strip().lower())
    if kind is None:
        raise UnsupportedMediaType(f"Content-Type {JSON}, {NPY} or {NPZ} expected, got {cut(given.strip())!r}")
    for parameter in parameters.lower().split(";") if parameters else ():
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            raise UnsupportedMediaType(f"a body in UTF-8 expected, got charset {cut(value.strip())!r}")
    encoding = content_encoding.decode("latin-1").strip().lower()
    if encoding not in ("identity", ""):
        raise UnsupportedMediaType(f"a body without Content-Encoding expected, got {cut(encoding)!r}")
    return kind


_RULED_OUT = re.compile(r"q=0(\.0*)?")


def answer_type(headers: Headers, streams: bool) -> str:
    """How the answer is to be written: NPZ or EVENTS where that is asked for, else JSON. streams: whether there are
    events. InvalidOption where nothing else is accepted and there are none: JSON would break their reader."""
    accepts = headers.get(b"accept")
    return JSON if accepts is None else _written_as(accepts, streams)


@lru_cache(maxsize=64)
def _written_as(accepts: bytes, streams: bool) -> str:
    given = [part.replace(" ", "").lower().split(";") for part in accepts.decode("latin-1").split(",")]
    accepted = {kind for kind, *parameters in given if not any(_RULED_OUT.fullmatch(p) for p in parameters)}
    if NPZ in accepted:
        return NPZ
    if EVENTS in accepted and JSON not in accepted:
        if streams:
            return EVENTS
        if not accepted & {"application/*", "*/*"}:
            message = f"a prediction is no stream of events; {JSON} or {NPZ} expected, got {EVENTS}"
            raise InvalidOption(f"Accept: {message}", faults=[Fault("Accept", message)])
    return JSON
