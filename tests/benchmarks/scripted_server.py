"""A server and a clock in the generator's own thread: time moves only when the generator waits."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from math import inf

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

# number of a request and when it came, to its answer in pieces and their times; an empty piece ends the connection
Script = Callable[[int, float], Sequence[tuple[float, bytes]]]


class ScriptedServer:
    """The clock of the generator, and what it connects to. `request`: the length of every request."""

    def __init__(self, script: Script, request: int) -> None:
        self.t = 0.0
        self.received: list[float] = []
        self.connections = 0
        self.left: list[float] = []  # when clients closed
        self._script, self._length = script, request
        self._got: dict[socket.socket, int] = {}
        self._due: list[tuple[float, socket.socket, bytes]] = []

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._got[ours] = 0
        self.connections += 1
        return theirs

    def now(self) -> float:
        return self.t

    def wait(self, readable: int, seconds: float) -> None:
        if self._take():
            return  # there is room to send more
        due = min((at for at, _, _ in self._due), default=inf)
        assert min(due, seconds) < inf, "the generator would wait for ever"
        self.t = max(self.t, min(due, self.t + seconds))
        now = [item for item in self._due if item[0] <= self.t]
        self._due = [item for item in self._due if item[0] > self.t]
        for _, ours, piece in now:
            if ours in self._got and piece:
                ours.sendall(piece)
            elif ours in self._got:
                self._close(ours)

    def end(self) -> None:
        for ours in list(self._got):
            self._close(ours)

    def _take(self) -> bool:
        took = False
        for ours in list(self._got):
            while ours in self._got:
                try:
                    data = ours.recv(1 << 20)
                except BlockingIOError:
                    break
                took = True
                if not data:
                    self.left.append(self.t)
                    self._close(ours)
                    break
                self._got[ours] += len(data)
                while self._got[ours] >= self._length:
                    self._got[ours] -= self._length
                    number = len(self.received)
                    self.received.append(self.t)
                    self._due += [(at, ours, piece) for at, piece in self._script(number, self.t)]
        return took

    def _close(self, ours: socket.socket) -> None:
        del self._got[ours]
        ours.close()
