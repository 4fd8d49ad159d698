"""Between the event loop and the engine: jobs in, answers back, and an eye on those whose client has left."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from starlette.types import Receive

from service.errors import DeadlineExceeded, Disconnected, ErrorbarError, Overloaded
from service.scheduling import Answer, Engine, Job
from service.scheduling.queue import Outcome, Ticket

log = logging.getLogger("errorbar")

SMALL_S = 0.001
"""Work up to here runs on the event loop itself: handing it to a thread and back costs as much, and on a busy core the
two wait for each other."""
_TURNS = 6  # of the event loop that a batch waits for at most
_LOOK_S = 0.05  # how often those who wait are looked after


class Asked:
    """Somebody who waits for a job's outcome. told: that outcome, once, on the event loop, unless they leave before.
    receive: of a request whose body has been read; None where the connection itself says that its client left."""

    __slots__ = ("receive", "since", "told", "watcher")

    def __init__(self, told: Callable[[Outcome], None], receive: Receive | None, since: float) -> None:
        self.told, self.receive, self.since = told, receive, since
        self.watcher: asyncio.Task[None] | None = None


class Desk:
    """All on one event loop but what the engine's thread calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[Asked, Ticket] = {}
        self._runs_soon = self._looks_soon = False
        self._outcomes: deque[tuple[Asked, Outcome]] = deque()
        self._hands_out_soon = False

    def check_room(self) -> None:
        """Overloaded where no job would be admitted."""
        self._engine.check_room()

    async def answered(self, job: Job, receive: Receive) -> Answer:
        """The engine's answer, or what it raises; Disconnected once the client has left, whose job is given up then.
        receive: of a request whose body has been read."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        asked = self.ask(job, partial(_settle, waiter), receive)
        try:
            outcome = await waiter
        finally:
            self.leave(asked)
        if isinstance(outcome, Answer):
            return outcome
        raise outcome

    def ask(self, job: Job, told: Callable[[Outcome], None], receive: Receive | None = None) -> Asked:
        """As `answered`, without waiting. Raises what `Engine.admit` raises."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._engine.hand_back(SMALL_S, partial(loop.call_soon_threadsafe, self._run_soon, loop))
        asked = Asked(told, receive, loop.time())
        done = partial(self._done, loop, threading.get_ident(), asked)
        self._waiting[asked] = self._engine.admit(job, done, wake=False)
        self._run_soon(loop)
        if not self._looks_soon:
            self._looks_soon = True
            loop.call_later(_LOOK_S, self._look, loop)
        return asked

    def leave(self, asked: Asked) -> None:
        """They do not wait any more, and are told nothing."""
        ticket = self._waiting.pop(asked, None)
        if ticket is not None:
            self._engine.withdraw(ticket)
        if asked.watcher is not None:
            asked.watcher.cancel()

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

    def _done(self, loop: asyncio.AbstractEventLoop, loops_thread: int, asked: Asked, outcome: Outcome) -> None:
        self._outcomes.append((asked, outcome))
        if not self._hands_out_soon:
            self._hands_out_soon = True
            soon = loop.call_soon if threading.get_ident() == loops_thread else loop.call_soon_threadsafe
            soon(self._hand_out)

    def _hand_out(self) -> None:
        self._hands_out_soon = False
        while self._outcomes:
            asked, outcome = self._outcomes.popleft()
            try:
                self._tell(asked, outcome)
            except Exception:  # of one request, which is no reason to leave the others without their answers
                log.exception("an answer could not be given")

    def _tell(self, asked: Asked, outcome: Outcome) -> None:
        if self._waiting.pop(asked, None) is not None:
            asked.told(outcome)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watches the connections of those who have waited a while, and tells those whose time is over."""
        now, clock_now = loop.time(), self._engine.clock.now()
        for asked, ticket in list(self._waiting.items()):
            if asked.receive is not None and asked.watcher is None and now - asked.since >= _LOOK_S:
                asked.watcher = loop.create_task(self._watch(asked, asked.receive))
            if clock_now > ticket.job.deadline and not ticket.job.partial:
                self._give_up(asked, DeadlineExceeded("the deadline passed before the answer was ready"))
            elif self._engine.gave_up(ticket):
                self._tell(asked, Overloaded(
                    "it waited for longer than work may wait; nothing was computed, a retry is safe",
                    retry_after_s=1.0))
        self._looks_soon = bool(self._waiting)
        if self._looks_soon:
            loop.call_later(_LOOK_S, self._look, loop)

    async def _watch(self, asked: Asked, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._give_up(asked, Disconnected("the client left before its answer was ready"))

    def _give_up(self, asked: Asked, reason: ErrorbarError) -> None:
        ticket = self._waiting.get(asked)
        if ticket is not None:
            self._engine.withdraw(ticket)
            self._tell(asked, reason)


def _settle(waiter: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not waiter.done():
        waiter.set_result(outcome)
