"""Between the event loop and the engine: jobs in, answers back, and an eye on those whose client has left."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from functools import partial
from typing import NamedTuple

from starlette.types import Receive

from service.errors import DeadlineExceeded, Disconnected, Overloaded
from service.scheduling import Answer, Engine, Job
from service.scheduling.queue import Outcome, Ticket

SMALL_S = 0.001
"""Work up to here runs on the event loop itself: handing it to a thread and back costs as much, and on a busy core the
two wait for each other."""
_TURNS = 6  # of the event loop that a batch waits for at most
_LOOK_S = 0.05  # how often those who wait are looked after

Waiter = asyncio.Future[Outcome]


class _Waiting(NamedTuple):
    ticket: Ticket
    receive: Receive
    since: float


class Desk:
    """All on one event loop but what the engine's thread calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[Waiter, _Waiting] = {}
        self._watchers: dict[Waiter, asyncio.Task[None]] = {}
        self._runs_soon = self._looks_soon = False
        self._arrived: deque[tuple[Waiter, Outcome]] = deque()  # from the engine's thread
        self._fetched_soon = False

    def check_room(self) -> None:
        """Overloaded where no job would be admitted."""
        self._engine.check_room()

    async def answered(self, job: Job, receive: Receive) -> Answer:
        """The engine's answer, or what it raises; Disconnected once the client has left, whose job is given up then.
        receive: of a request whose body has been read."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._engine.hand_back(SMALL_S, partial(loop.call_soon_threadsafe, self._run_soon, loop))
        waiter: Waiter = loop.create_future()
        ticket = self._engine.admit(
            job, partial(self._done, loop, threading.get_ident(), waiter), wake=False)
        self._run_soon(loop)
        self._waiting[waiter] = _Waiting(ticket, receive, loop.time())
        if not self._looks_soon:
            self._looks_soon = True
            loop.call_later(_LOOK_S, self._look, loop)
        try:
            outcome = await waiter
        except asyncio.CancelledError:
            self._engine.withdraw(ticket)
            raise
        finally:
            del self._waiting[waiter]
            if self._watchers and (watcher := self._watchers.pop(waiter, None)) is not None:
                watcher.cancel()
        if isinstance(outcome, Answer):
            return outcome
        raise outcome

    def _run_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Once all requests that have come by now are in the queue, so that they run together."""
        if not self._runs_soon:
            self._runs_soon = True
            loop.call_soon(self._run, loop, -1, 0)

    def _run(self, loop: asyncio.AbstractEventLoop, waited: int, turns: int) -> None:
        """waited: requests there were a turn of the loop ago. As long as each turn brings more, they are on their way
        together, so a few turns are worth it; a turn that brings none takes some microseconds."""
        if waited != len(self._waiting) and turns < _TURNS:
            loop.call_soon(self._run, loop, len(self._waiting), turns + 1)
            return
        self._runs_soon = False
        if self._engine.run_small(SMALL_S):
            self._run_soon(loop)

    def _done(self, loop: asyncio.AbstractEventLoop, loops_thread: int, waiter: Waiter, outcome: Outcome) -> None:
        if threading.get_ident() == loops_thread:
            _settle(waiter, outcome)
            return
        self._arrived.append((waiter, outcome))
        if not self._fetched_soon:
            self._fetched_soon = True
            loop.call_soon_threadsafe(self._fetch)

    def _fetch(self) -> None:
        self._fetched_soon = False
        while self._arrived:
            _settle(*self._arrived.popleft())

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches the connections of those who have waited a while, and tells those whose time is over."""
        now, clock_now = loop.time(), self._engine.clock.now()
        for waiter, (ticket, receive, since) in self._waiting.items():
            if waiter not in self._watchers and now - since >= _LOOK_S:
                self._watchers[waiter] = loop.create_task(self._watch(waiter, ticket, receive))
            if clock_now > ticket.job.deadline and not ticket.job.partial:
                self._engine.withdraw(ticket)
                _settle(waiter, DeadlineExceeded("the deadline passed before the answer was ready"))
            elif self._engine.gave_up(ticket):
                _settle(waiter, Overloaded(
                    "it waited for longer than work may wait; nothing was computed, a retry is safe",
                    retry_after_s=1.0))
        self._looks_soon = bool(self._waiting)
        if self._looks_soon:
            loop.call_later(_LOOK_S, self._look, loop)

    async def _watch(self, waiter: Waiter, ticket: Ticket, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._engine.withdraw(ticket)
        _settle(waiter, Disconnected("the client left before its answer was ready"))


def _settle(waiter: Waiter, outcome: Outcome) -> None:
    if not waiter.done():
        waiter.set_result(outcome)
