"""What waits: who is next, who may run with them, and how much work it is. No threads and no clock."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import frexp
from typing import Any

from service.repository import ReadyModel
from service.scheduling.job import Answer, Job

Outcome = Answer | Exception
STRETCH = 10.0
"""A job is due after ten times its own cost: short ones pass long ones, and none waits for ever."""

Order = tuple[int, float, int]  # less is sooner


@dataclass(eq=False)
class Ticket:
    """A job's place in the engine. cost_s: expected, by itself. done: told the outcome, once, on the engine's thread
    or on the one that runs small batches. order: priority first, then when it is due, then when it came."""

    job: Job
    cost_s: float
    queued_at: float
    done: Callable[[Outcome], None]
    order: Order
    alone: bool = False  # it was in a batch that failed: it runs by itself
    waits: bool = field(default=True, init=False)  # in the queue
    wanted: bool = field(default=True, init=False)  # somebody waits for it

    @property
    def model(self) -> ReadyModel:
        return self.job.model

    @property
    def key(self) -> Any:
        """Jobs of one key may run together."""
        return id(self) if self.alone or self.job.runs_alone else self.job.key


def due(job: Job, now: float, cost_s: float) -> float:
    """When a job is to be answered at the latest, for the order of the queue."""
    return min(job.deadline, now + STRETCH * cost_s)


class Queue:
    """Tickets by model, and by what may run together; both in their order."""

    def __init__(self) -> None:
        self._by_model: defaultdict[str, list[tuple[Order, Ticket]]] = defaultdict(list)
        self._by_key: dict[Any, list[tuple[Order, Ticket]]] = {}
        self._work = Counter[tuple[int, int]]()  # microseconds, by priority and size of the job
        self._sequence = count()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def ticket(self, job: Job, now: float, cost_s: float, done: Callable[[Outcome], None]) -> Ticket:
        """Not yet in the queue."""
        return Ticket(job, cost_s, now, done, (-job.priority, due(job, now, cost_s), next(self._sequence)))

    def add(self, ticket: Ticket) -> None:
        entry = ticket.order, ticket
        heapq.heappush(self._by_model[ticket.job.model.name], entry)
        heapq.heappush(self._by_key.setdefault(ticket.key, []), entry)
        self._count(ticket, 1)
        ticket.waits = True

    def remove(self, ticket: Ticket) -> None:
        """It waits no more. Its entries go when they come to the front."""
        ticket.waits = False
        self._count(ticket, -1)
        entries = self._by_key[ticket.key]
        _forget_gone(entries)
        if not entries:
            del self._by_key[ticket.key]

    def _count(self, ticket: Ticket, sign: int) -> None:
        self._waiting += sign
        place = ticket.job.priority, frexp(ticket.cost_s)[1]
        self._work[place] += sign * round(ticket.cost_s * 1e6)
        if self._work[place] <= 0:
            del self._work[place]

    def ahead_s(self, priority: int, cost_s: float) -> float:
        """Work that such a job would wait for, about: of higher priority, or of its own and no longer than itself."""
        size = frexp(cost_s)[1]
        return sum(
            work for (other, other_size), work in self._work.items()
            if other > priority or (other == priority and other_size <= size)
        ) / 1e6

    def first_of_each_model(self) -> Iterator[Ticket]:
        for name in list(self._by_model):
            entries = self._by_model[name]
            _forget_gone(entries)
            if entries:
                yield entries[0][1]
            else:
                del self._by_model[name]

    def take(self, first: Ticket, fits: Callable[[int, int], bool]) -> list[Ticket]:
        """That ticket, the first of its model, and what may run with it, in their order. fits: whether so many rows and
        passes are not too much to run together."""
        taken, rows, passes = [first], first.job.rows, first.job.passes
        self.remove(first)
        while entries := self._by_key.get(first.key):
            ticket = entries[0][1]
            rows, passes = rows + ticket.job.rows, passes + ticket.job.passes
            if not fits(rows, passes):
                break
            taken.append(ticket)
            self.remove(ticket)
        return taken

    def take_all(self) -> list[Ticket]:
        """Empties it."""
        found = [ticket for entries in self._by_model.values() for _, ticket in entries if ticket.waits]
        for ticket in found:
            self.remove(ticket)
        self._by_model.clear()
        self._by_key.clear()
        return found


def _forget_gone(entries: list[tuple[Order, Ticket]]) -> None:
    while entries and not entries[0][1].waits:
        heapq.heappop(entries)
