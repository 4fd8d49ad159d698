"""One kept HTTP connection that reads no more of a response than its status and its length."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

_CHUNK = 1 << 18

Connect = Callable[[], socket.socket]  # a socket that does not block; OSError where there is no connection


class Unreadable(Exception):
    """Not an HTTP response with a Content-Length."""


def connecting(host: str, port: int) -> Connect:
    def connect() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = made.connect_ex((host, port))
        if code not in (0, errno.EINPROGRESS):
            made.close()
            raise OSError(code, "no connection")
        return made

    return connect


class Connection:
    """index: of the request that is on it, -1 where none is. status: of the answer, once its head is read. last: the
    server closes it after this answer. flush and read raise OSError where it is gone."""

    __slots__ = ("_keep", "_need", "_out", "_sock", "body", "fd", "got", "idle_since", "index", "last", "status",
                 "wants_out")

    def __init__(self, sock: socket.socket, keep: bool) -> None:
        self._sock, self._keep, self.fd = sock, keep, sock.fileno()
        self.index, self.status, self.last, self.idle_since = -1, 0, False, 0.0
        self.wants_out = True  # whether the poll looks out for room to send: first of all, for the connection
        self.body: list[bytes] = []
        self.got = b""  # of a head that is not whole
        self._need = 0  # bytes of the body that are missing
        self._out: memoryview | None = None  # what is still to be sent

    def put(self, index: int, request: bytes) -> None:
        self.index, self.status, self._need, self.got, self.body = index, 0, 0, b"", []
        self._out = memoryview(request)

    def flush(self) -> bool:
        """Sends what the socket takes; whether that was all."""
        if self._out is None:
            return True
        try:
            sent = self._sock.send(self._out)
        except BlockingIOError:
            return False
        self._out = self._out[sent:] if sent < len(self._out) else None
        return self._out is None

    def read(self) -> bool:
        """Takes what came; whether the answer is whole. Unreadable; ConnectionResetError where the server ended."""
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return False
        if not data or self.index < 0:
            raise ConnectionResetError(errno.ECONNRESET, "the server ended the connection")
        if self.status:
            self._need -= len(data)
            if self._keep:
                self.body.append(data)
        elif not self._read_head(self.got + data):
            return False
        if self._need < 0:
            raise Unreadable
        return self._need == 0

    def _read_head(self, data: bytes) -> bool:
        """Whether the head is whole; then what is missing of the body is known."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self.got = data
            return False
        head = data[: end + 2].lower()
        place = head.find(b"\r\ncontent-length:")
        try:
            self.status = int(head[9:12])
            length = int(head[place + 17 : head.index(b"\r", place + 17)]) if place >= 0 else -1
        except ValueError as e:
            raise Unreadable from e
        if length < 0:
            if self.status != 204:
                raise Unreadable
            length = 0
        self._need = length - (len(data) - end - 4)
        self.last = b"\r\nconnection: close\r\n" in head
        if self._keep:
            self.body.append(data[end + 4 :])
        return True

    def close(self) -> None:
        self._sock.close()
