"""The generator's own loop: one thread that sends requests at their times and tells what became of each."""

from __future__ import annotations

import errno
import heapq
import select
import time
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.http_connection import Connect, Connection, Unreadable
from benchmarks.outcomes import CLOSED, LEFT, REFUSED, UNANSWERED, UNREADABLE, Result
from benchmarks.traffic import Arrivals

_PENDING = 0
_STALE_S = 2.0  # an idle connection older than this may be closed by the server just now: it is not used again
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class Clock(Protocol):
    def now(self) -> float: ...

    def wait(self, readable: int, seconds: float) -> None:
        """Until this descriptor has something to read, at most so long."""


class WallClock:
    """`select` waits to the microsecond, `epoll` to the millisecond only."""

    def now(self) -> float:
        return time.perf_counter()

    def wait(self, readable: int, seconds: float) -> None:
        select.select([readable], [], [], seconds)


class Generator:
    """Runs once, in a `with`, which closes what is open."""

    def __init__(self, connect: Connect, clock: Clock, connections: int, keep_bodies: bool) -> None:
        self._connect, self._clock, self._limit, self._keep = connect, clock, connections, keep_bodies
        self._epoll = select.epoll()  # first: `select` takes descriptors below 1024 only
        self._open: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._waiting: deque[int] = deque()
        self._serving: dict[int, Connection] = {}
        self._requests: list[bytes] = []
        self._intended: list[float] = []
        self._asked: list[float] = []
        self._ended: list[float] = []
        self._outcome: list[int] = []
        self._bodies: dict[int, bytes] = {}
        self._pending = self._held = 0
        self._start = clock.now()
        self._cpu = time.process_time()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open.values():
            connection.close()
        self._epoll.close()

    def run_open(self, arrivals: Arrivals, drain_s: float) -> Result:
        at, patience = arrivals.at_s.tolist(), arrivals.patience_s.tolist()
        self._requests = list(arrivals.requests)
        leaving: list[tuple[float, int]] = []
        index, end = 0, arrivals.seconds + drain_s
        while True:
            now = self._clock.now() - self._start
            while index < len(at) and at[index] <= now:
                if patience[index] != inf:
                    heapq.heappush(leaving, (at[index] + patience[index], index))
                self._ask(index, at[index], now)
                index += 1
            while leaving and leaving[0][0] <= now:
                self._leave(heapq.heappop(leaving)[1])
            if (index == len(at) and not self._pending) or now >= end:
                break
            due = min(at[index] if index < len(at) else end, leaving[0][0] if leaving else end)
            self._turn(due - now)
        return self._result(arrivals.parts, arrivals.part[:index], arrivals.seconds)

    def run_closed(self, requests: Sequence[bytes], seconds: float, most: int, drain_s: float) -> Result:
        while True:
            now = self._clock.now() - self._start
            room = min(self._limit - self._pending, most - len(self._outcome)) if now < seconds else 0
            for _ in range(room):
                index = len(self._outcome)
                self._requests.append(requests[index % len(requests)])
                self._ask(index, now, now)
            over = now >= seconds or len(self._outcome) >= most
            if (over and not self._pending) or now >= seconds + drain_s:
                break
            self._turn((seconds + drain_s if over else seconds) - now)
        count = len(self._outcome)
        return self._result(("all",), np.zeros(count, np.int16), min(seconds, now) if count >= most else seconds)

    def _result(self, parts: tuple[str, ...], part: NDArray[np.int16], seconds: float) -> Result:
        outcome, ended = np.array(self._outcome, np.int16), np.array(self._ended)
        ended[outcome == _PENDING] = self._clock.now() - self._start
        outcome[outcome == _PENDING] = UNANSWERED
        return Result(
            parts, part, np.array(self._intended), np.array(self._asked), ended, outcome, seconds, self._held,
            time.process_time() - self._cpu, self._bodies,
        )

    def _turn(self, seconds: float) -> None:
        """Takes what came in, or waits for it."""
        while self._waiting and self._has_room():
            index = self._waiting.popleft()
            if self._outcome[index] == _PENDING:
                self._begin(index)
        events = self._epoll.poll(0)
        if not events:
            self._clock.wait(self._epoll.fileno(), max(seconds, 0.0))
        for fd, event in events:
            connection = self._open[fd]
            try:
                if event & _OUT:
                    self._flush(connection)
                if event & ~_OUT and connection.read():
                    self._answered(connection)
            except Unreadable:
                self._give_up(connection, UNREADABLE)
            except OSError as e:
                self._give_up(connection, REFUSED if e.errno == errno.ECONNREFUSED else CLOSED)

    def _has_room(self) -> bool:
        return bool(self._idle) or len(self._open) < self._limit

    def _ask(self, index: int, intended: float, now: float) -> None:
        self._intended.append(intended)
        self._asked.append(now)
        self._ended.append(inf)
        self._outcome.append(_PENDING)
        self._pending += 1
        if self._has_room() and not self._waiting:
            self._begin(index)
        else:
            self._held += 1
            self._waiting.append(index)

    def _begin(self, index: int) -> None:
        """Sends a request: on the idle connection used last, or on a new one."""
        if self._idle and self._clock.now() - self._idle[-1].idle_since > _STALE_S:
            for stale in self._idle:
                self._drop(stale)
            self._idle.clear()
        if not self._idle:
            self._begin_anew(index)
            return
        connection = self._idle.pop()
        self._put(connection, index)
        try:
            self._flush(connection)
        except OSError:
            self._give_up(connection, CLOSED)

    def _begin_anew(self, index: int) -> None:
        try:
            connection = Connection(self._connect(), self._keep)
        except OSError:
            self._end(index, REFUSED)
            return
        self._open[connection.fd] = connection
        self._put(connection, index)
        self._epoll.register(connection.fd, _IN | _OUT)

    def _put(self, connection: Connection, index: int) -> None:
        connection.put(index, self._requests[index])
        self._serving[index] = connection

    def _flush(self, connection: Connection) -> None:
        wants_out = not connection.flush()
        if wants_out != connection.wants_out:
            connection.wants_out = wants_out
            self._epoll.modify(connection.fd, _IN | _OUT if wants_out else _IN)

    def _answered(self, connection: Connection) -> None:
        index, connection.index = connection.index, -1
        if self._keep:
            self._bodies[index] = b"".join(connection.body)
        self._end(index, connection.status)
        if connection.last:
            self._drop(connection)
        else:
            connection.idle_since = self._clock.now()
            self._idle.append(connection)

    def _end(self, index: int, outcome: int) -> None:
        self._serving.pop(index, None)
        self._outcome[index] = outcome
        self._ended[index] = self._clock.now() - self._start
        self._pending -= 1

    def _leave(self, index: int) -> None:
        if self._outcome[index] == _PENDING:
            connection = self._serving.get(index)
            self._end(index, LEFT)
            if connection is not None:
                self._drop(connection)

    def _give_up(self, connection: Connection, outcome: int) -> None:
        if connection.index >= 0:
            self._end(connection.index, outcome)
        else:
            self._idle.remove(connection)
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        del self._open[connection.fd]
        self._epoll.unregister(connection.fd)
        connection.close()
