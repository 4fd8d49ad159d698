"""Requests that no client should send: made of good ones, from a seed. The same seed makes the same bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from tests.array_files import npy
from tests.fuzz.words import (
    NAMES,
    NASTY_ADDRESSES,
    NASTY_ARRAYS,
    NASTY_JSON,
    NASTY_VALUES,
    OPTIONS,
    PATHS,
    ROWS,
    npz,
)

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Request:
    """A request before it is bytes. framing: how the body's length is told."""

    method: bytes
    address: bytes
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    framing: str = "length"
    close: bool = True
    version: bytes = b"HTTP/1.1"
    extra: tuple[bytes, ...] = field(default=())  # lines of the head, as they are

    def as_bytes(self, rng: Random) -> bytes:
        headers = [(b"Host", b"127.0.0.1"), *self.headers]
        body = self.body
        if self.framing == "chunked":
            headers.append((b"Transfer-Encoding", b"chunked"))
            body = _chunked(body, rng)
        elif self.framing == "length" and (body or self.method == b"POST"):
            headers.append((b"Content-Length", str(len(body)).encode()))
        if self.close:
            headers.append((b"Connection", b"close"))
        lines = [b" ".join([self.method, self.address, self.version]), *(b"%s: %s" % h for h in headers), *self.extra]
        return b"\r\n".join([*lines, b"", b""]) + body


def _chunked(body: bytes, rng: Random) -> bytes:
    parts = []
    while body:
        size = rng.randint(1, max(1, len(body)))
        parts.append(b"%x\r\n%s\r\n" % (size if size <= len(body) else len(body), body[:size]))
        body = body[size:]
    return b"".join([*parts, b"0\r\n\r\n"])


def good(rng: Random) -> Request:
    """A request that a client could mean."""
    if rng.random() < 0.15:
        return Request(b"GET", rng.choice(PATHS))
    model = rng.choice(list(ROWS))
    mode = rng.choice(["predict", "uncertainty"])
    address = f"/v1/models/{model}{rng.choice(['', '/versions/1'])}:{mode}".encode()
    rows = [ROWS[model]] * rng.randint(1, 3)
    if rng.random() < 0.2:
        array = np.array(rows, rng.choice([np.float32, np.float64]))
        kind, body = rng.choice([(b"application/x-npy", npy(array)), (b"application/x-npz", npz(x=array))])
        accept = rng.choice([b"*/*", b"application/x-npz"])
        return Request(b"POST", address, ((b"Content-Type", kind), (b"Accept", accept)), body)
    options = rng.choice(OPTIONS) if mode == "uncertainty" else {}
    return Request(b"POST", address, (), json.dumps({"instances": rows} | options).encode())


def _address(r: Request, rng: Random) -> Request:
    return replace(r, address=rng.choice([*NASTY_ADDRESSES, *PATHS, _garbled(r.address, rng)]))


def _method(r: Request, rng: Random) -> Request:
    names = (b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"PRI", b"get", b"")
    return replace(r, method=rng.choice(names))


def _version(r: Request, rng: Random) -> Request:
    return replace(r, version=rng.choice([b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.1 ", b"HTP/1.1", b""]))


def _header(r: Request, rng: Random) -> Request:
    return replace(r, headers=(*r.headers, (rng.choice(NAMES), rng.choice(NASTY_VALUES))))


def _repeated(r: Request, rng: Random) -> Request:
    name = rng.choice(NAMES)
    more = [(name, rng.choice([b"1", b"2", *NASTY_VALUES])) for _ in range(rng.randint(2, 4))]
    return replace(r, headers=(*r.headers, *more))


def _many_headers(r: Request, rng: Random) -> Request:
    return replace(r, headers=(*r.headers, *[(b"X-%d" % i, b"a" * rng.randint(0, 200)) for i in range(rng.randint(50,
    400))]))


def _bad_line(r: Request, rng: Random) -> Request:
    lines = (b"no colon", b": no name", b" folded: x", b"A : b", b"A\x00: b", b"\xff: b", b"A: b\rC: d", b"A: b\nC: d",
    b"\r")
    return replace(r, extra=(*r.extra, rng.choice(lines)))


def _framing(r: Request, rng: Random) -> Request:
    body = r.body or b"{}"
    return replace(r, **rng.choice([  # type: ignore[arg-type]
        {"framing": "chunked"}, {"framing": "none"}, {"method": b"POST", "framing": "chunked", "body": body},
        {"framing": "none", "extra": (b"Content-Length: %d" % (len(body) + rng.randint(1, 100)),)},
        {"framing": "none", "extra": (b"Content-Length: %d" % max(0, len(body) - rng.randint(1, 20)),)},
        {"framing": "length", "extra": (b"Transfer-Encoding: chunked",)},
        {"framing": "none", "extra": (b"Transfer-Encoding: chunked",), "body": rng.choice([
            b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n{}", b"2;a=b\r\n{}\r\n0\r\nA: b\r\n\r\n",
            b"2\r\n{}0\r\n\r\n", b"2\n{}\n0\n\n", b"0\r\n\r\n", b"2\r\n{}\r\n", b"1;" + b"x" * 5000,
            b"02\r\n{}\r\n00\r\n\r\n"])},
    ]))


def _json(r: Request, rng: Random) -> Request:
    text = r.body.decode("latin-1")
    places = [i for i, c in enumerate(text) if c in ":,[{"]
    if not places:
        return replace(r, method=b"POST", body=rng.choice(NASTY_JSON).encode())
    place = rng.choice(places) + 1
    end = next((i for i in range(place, len(text)) if text[i] in ",]}"), len(text))
    kept = text[end:] if rng.random() < 0.7 else text[place:]
    return replace(r, body=f"{text[:place]}{rng.choice(NASTY_JSON)}{kept}".encode("utf-8", "surrogatepass"))


def _field(r: Request, rng: Random) -> Request:
    names = ("instances", "samples", "seed", "masks", "design", "tolerance", "decide", "quantiles", "include_samples",
    "method",
             "timeout_ms", "priority", "on_deadline", "", "\u202e", "a" * 1000)
    more = f'"{rng.choice(names)}": {rng.choice([*NASTY_JSON, "1", "0.5", "1000", "100000", "2", "[0.5]"])}, '
    return replace(r, body=r.body.replace(b"{", b"{" + more.encode("utf-8", "surrogatepass"), 1))


def _array(r: Request, rng: Random) -> Request:
    kind = rng.choice([b"application/x-npy", b"application/x-npz"])
    kept = tuple(h for h in r.headers if h[0] != b"Content-Type")
    return replace(r, method=b"POST", headers=(*kept, (b"Content-Type", kind)), body=rng.choice(NASTY_ARRAYS)())


def _body(r: Request, rng: Random) -> Request:
    return replace(r, body=_garbled(r.body, rng))


def _garbled(content: bytes, rng: Random) -> bytes:
    """Bytes flipped, cut, doubled or put in."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(changed))
        end = min(len(changed), at + rng.randint(0, 20))
        way = rng.randrange(5)
        if way == 0 and changed:
            changed[at - 1] ^= 1 << rng.randrange(8)
        elif way == 1:
            del changed[at:end]
        elif way == 2:
            changed[at:at] = changed[at:end]
        elif way == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            del changed[at:]
    return bytes(changed)


_CHANGES = (
    _address, _method, _version, _header, _header, _repeated, _many_headers, _bad_line, _framing, _framing, _json,
    _json,
    _json, _field, _field, _array, _body, _body,
)


def fuzzed(rng: Random) -> bytes:
    """What to send on one connection: a good request, changed in one to three ways, or several, one after the other."""
    parts = []
    count = 1 if rng.random() < 0.85 else rng.randint(2, 24)
    for left in range(count - 1, -1, -1):
        request = replace(good(rng), close=not left and rng.random() < 0.95)
        for _ in range(rng.choice([1, 1, 2, 3]) if count == 1 or rng.random() < 0.2 else 0):
            request = rng.choice(_CHANGES)(request, rng)
        parts.append(request.as_bytes(rng))
    sent = b"".join(parts)
    return _garbled(sent, rng) if rng.random() < 0.15 else sent
