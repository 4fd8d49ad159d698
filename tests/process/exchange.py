"""Bytes to and from a server's socket, as they are."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from typing import Any

import httpx

PATIENCE_S = 30.0  # for what must come; a test that waits so long has failed


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(url: str, receive_bytes: int | None = None) -> socket.socket:
    """A connection to a server. receive_bytes: of the kernel's buffer for what comes."""
    address = httpx.URL(url)
    made = socket.socket()
    if receive_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.settimeout(PATIENCE_S)
    made.connect((address.host, address.port))
    return made


def until_closed(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection, which must come."""
    found = []
    try:
        while some := connection.recv(1 << 20):
            found.append(some)
    except ConnectionError:
        pass
    return b"".join(found)


class _Bytes(BytesIO):
    """A stand-in for a socket from which these bytes come; an answer that ends does not end them."""

    def makefile(self, mode: str) -> _Bytes:
        return self

    def close(self) -> None:
        pass


def answers(received: bytes) -> list[Answer]:
    """The answers that stand one after the other in what was received. ValueError where the last is cut short."""
    source, found = _Bytes(received), []
    while source.tell() < len(received):
        response = HTTPResponse(source)  # type: ignore[arg-type]
        try:
            response.begin()
            body = response.read()
        except HTTPException as e:
            raise ValueError(f"no whole answer: {e!r}") from e
        found.append(Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body))
    return found
