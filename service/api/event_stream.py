"""An answer in several parts: server-sent events, and the way of the answers so far from the engine to them.

Source of the format: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from starlette.types import Send

from service.scheduling import Answer
from service.scheduling.queue import Outcome

_MOST_NUMBERS = 100_000  # in answers so far that wait for a client who reads slowly; then none are made for it
STREAM = (b"content-type", b"text/event-stream")
_HEADERS = [
    STREAM, (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies of the nginx kind would keep events back
]


def event(name: str, data: bytes) -> bytes:
    """data: in one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class EventStream:
    """What is sent to one client. begun: whether anything was."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False

    async def send(self, name: str, data: bytes) -> None:
        """data: in one line."""
        await self._write(name, data, more=True)

    async def end(self, name: str, data: bytes) -> None:
        """The last event."""
        await self._write(name, data, more=False)

    async def _write(self, name: str, data: bytes, more: bool) -> None:
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._send({"type": "http.response.body", "body": event(name, data), "more_body": more})


class Watched:
    """A job's answers so far, kept until they are taken, and its outcome. The engine's thread shows them; all else is
    of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._came = loop, asyncio.Event()
        self._waiting: deque[tuple[Answer, int]] = deque()
        self._shown = self._taken = 0  # numbers in all of them, counted on the engine's thread, and in those taken
        self._outcome: Outcome | None = None

    def wants(self) -> bool:
        return self._shown - self._taken < _MOST_NUMBERS

    def see(self, so_far: Answer) -> None:
        numbers = sum(array.size for array in so_far.arrays.values() if array is not None)
        self._shown += numbers
        self._loop.call_soon_threadsafe(self._keep, so_far, numbers)

    def told(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._came.set()

    async def answers(self) -> AsyncIterator[Answer]:
        """Those so far, in order, until there is an outcome. Raises it where it is no answer."""
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                so_far, numbers = self._waiting.popleft()
                yield so_far
                self._taken += numbers
            if isinstance(self._outcome, Answer):
                return
            if self._outcome is not None:
                raise self._outcome

    @property
    def answer(self) -> Answer:
        """Once there are no more."""
        assert isinstance(self._outcome, Answer)
        return self._outcome

    def _keep(self, so_far: Answer, numbers: int) -> None:
        self._waiting.append((so_far, numbers))
        self._came.set()
