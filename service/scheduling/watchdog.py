"""Looks after parts that do not return. It sleeps while nothing runs, and looks only now and then while something does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from service.clock import Clock
from service.scheduling.queue import Ticket

_LOOKS = 4  # in the time that a part may take


class _Part(NamedTuple):
    tickets: Sequence[Ticket]
    until: float
    allowed_s: float


class Watchdog:
    def __init__(self, clock: Clock, hangs: Callable[[Sequence[Ticket]], None]) -> None:
        """hangs: called once, on a thread of its own, with the tickets of a part that is overdue."""
        self._clock, self._hangs = clock, hangs
        self._part: _Part | None = None
        self._busy, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, name="errorbar-watchdog", daemon=True).start()

    def part_began(self, tickets: Sequence[Ticket], allowed_s: float) -> None:
        self._part = _Part(tickets, self._clock.now() + allowed_s, allowed_s)
        if not self._busy.is_set():
            self._busy.set()

    def part_ended(self) -> None:
        self._part = None

    def end(self) -> None:
        self._ended.set()
        self._busy.set()

    def overdue(self) -> _Part | None:
        """The part that should have returned."""
        part = self._part
        return part if part is not None and self._clock.now() > part.until else None

    def _looks_after_s(self) -> float | None:
        """None where nothing runs. The part itself is not held meanwhile, nor the model that it is of."""
        part = self._part
        return None if part is None else part.allowed_s / _LOOKS

    def _watch(self) -> None:
        quiet = True
        while not self._ended.is_set():
            if quiet:
                self._busy.wait()
            looks_after_s = self._looks_after_s()
            self._ended.wait(looks_after_s or 1.0)
            if (late := self.overdue()) is not None:
                self._hangs(late.tickets)
                return
            quiet = looks_after_s is None and self._part is None
            if quiet:
                self._busy.clear()
