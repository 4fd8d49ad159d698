"""What waits: who is next, who may run with them, and how much work it is. No threads and no clock."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from itertools import count

from service.repository import ReadyModel
from service.scheduling.job import Answer, Job

Outcome = Answer | Exception
STRETCH = 10.0
"""A job is due after ten times its own cost: short ones pass long ones, and none waits for ever."""
_BUSY_S = 0.1  # of work before it, for which a job's time until it is due doubles

_MOST_SEEDS = 8  # that run together: the masks of each may have to be made, which nobody expects

Order = tuple[int, float, int]  # less is sooner


class Ticket:
    """A job's place in the engine. cost_s: expected, by itself. done: told the outcome, once, on the engine's thread
    or on the one that runs small batches. order: priority first, then when it is due, then when it came. alone: it was
    in a batch that failed, so it runs by itself. waits: in the queue. wanted: somebody waits for it. theirs: whoever
    brought it runs small batches itself."""

    __slots__ = ("alone", "cost_s", "done", "job", "key", "order", "queued_at", "theirs", "waits", "wanted")

    def __init__(
        self, job: Job, cost_s: float, queued_at: float, done: Callable[[Outcome], None], order: Order
    ) -> None:
        self.job, self.cost_s, self.queued_at, self.done, self.order = job, cost_s, queued_at, done, order
        self.key: Hashable = id(self) if job.runs_alone else job.key
        self.alone, self.waits, self.wanted, self.theirs = False, True, True, False

    @property
    def model(self) -> ReadyModel:
        return self.job.model

    def set_apart(self) -> None:
        """From now on it runs by itself. For a ticket that is not in the queue."""
        self.alone, self.key = True, id(self)


def due(job: Job, now: float, cost_s: float, backlog_s: float) -> float:
    """When a job is to be answered at the latest, for the order of the queue. backlog_s: of work before it. The more
    there is the later it is due: if all that waits were overdue, it would go before whatever is new, however short."""
    return min(job.deadline, now + STRETCH * cost_s * (1 + backlog_s / _BUSY_S))


class Queue:
    """Tickets by what may run together, in their order; and of each model the groups, by their first ticket."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, list[tuple[Order, Ticket]]] = {}  # by key, each a heap
        self._leaders: defaultdict[str, list[tuple[Order, int, Hashable]]] = defaultdict(list)  # by model, heaps
        self._leading: dict[Hashable, Order] = {}  # by key, of the one entry among the leaders that counts
        self._work: dict[tuple[int, int], list[float]] = {}  # seconds and jobs, by priority and size of the job
        self._sequence = count()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def ticket(self, job: Job, now: float, cost_s: float, due_at: float, done: Callable[[Outcome], None]) -> Ticket:
        """Not yet in the queue."""
        return Ticket(job, cost_s, now, done, (-job.priority, due_at, next(self._sequence)))

    def add(self, ticket: Ticket) -> None:
        group = self._groups.get(ticket.key)
        if group is None:
            group = self._groups[ticket.key] = []
        heapq.heappush(group, (ticket.order, ticket))
        leading = self._leading.get(ticket.key)
        if leading is None or ticket.order < leading:
            self._leading[ticket.key] = ticket.order
            heapq.heappush(self._leaders[ticket.job.model.name], (ticket.order, next(self._sequence), ticket.key))
        ticket.waits = True
        self._waiting += 1
        work = self._work.setdefault((ticket.job.priority, ticket.job.size), [0.0, 0])
        work[0] += ticket.cost_s
        work[1] += 1

    def remove(self, ticket: Ticket) -> None:
        """It waits no more."""
        self._discount(ticket)
        self._front(ticket.key)

    def _discount(self, ticket: Ticket) -> None:
        ticket.waits = False
        self._waiting -= 1
        place = ticket.job.priority, ticket.job.size
        work = self._work[place]
        work[0] -= ticket.cost_s
        work[1] -= 1
        if not work[1]:
            del self._work[place]

    def _front(self, key: Hashable) -> Ticket | None:
        """The first of a group that still waits; a group without any is forgotten."""
        group = self._groups.get(key)
        if group is None:
            return None
        while group and not group[0][1].waits:
            heapq.heappop(group)
        if group:
            return group[0][1]
        del self._groups[key]
        return None

    def ahead_s(self, priority: int, size: int) -> float:
        """Work that a job of that priority and size would wait for, about: of higher priority, or of its own and no
        larger than itself."""
        return sum(
            seconds for (other, other_size), (seconds, _) in self._work.items()
            if other > priority or (other == priority and other_size <= size)
        )

    def first_of_each_model(self) -> Iterator[Ticket]:
        for name in list(self._leaders):
            leaders = self._leaders[name]
            while leaders:
                order, _, key = leaders[0]
                if self._leading.get(key) != order:  # another entry counts
                    heapq.heappop(leaders)
                elif (first := self._front(key)) is None:
                    heapq.heappop(leaders)
                    del self._leading[key]
                elif first.order != order:  # its first has gone
                    heapq.heapreplace(leaders, (first.order, next(self._sequence), key))
                    self._leading[key] = first.order
                else:
                    yield first
                    break
            else:
                del self._leaders[name]

    def take(self, first: Ticket, fits: Callable[[int, int], bool]) -> list[Ticket]:
        """That ticket, the first of its group, and what may run with it, in their order. fits: whether so many rows and
        passes are not too much to run together."""
        taken, rows, passes, seeds = [first], first.job.rows, first.job.passes, {first.job.seed}
        self._discount(first)
        while (ticket := self._front(first.key)) is not None:
            rows, passes = rows + ticket.job.rows, passes + ticket.job.passes
            seeds.add(ticket.job.seed)
            if len(seeds) > _MOST_SEEDS or not fits(rows, passes):
                break
            taken.append(ticket)
            self._discount(ticket)
        return taken

    def take_all(self) -> list[Ticket]:
        """Empties it."""
        found = [ticket for group in self._groups.values() for _, ticket in group if ticket.waits]
        for ticket in found:
            self._discount(ticket)
        self._groups.clear()
        self._leaders.clear()
        self._leading.clear()
        return found
