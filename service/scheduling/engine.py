"""The device's owner: admits work or refuses it, forms batches, runs them part by part, and outlives what fails."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from math import inf
from typing import NamedTuple

from service import events
from service.clock import Clock, MonotonicClock
from service.errors import DeadlineExceeded, Draining, ErrorbarError, ModelFailed, NotReady, reason
from service.repository import ReadyModel, warm_up_inputs
from service.sampling.options import METHODS
from service.scheduling.admission import Admission
from service.scheduling.costs import Costs
from service.scheduling.job import Answer, Job, Options
from service.scheduling.limits import Limits
from service.scheduling.policy import BATCH_S, STEP_S, Shares, most_urgent
from service.scheduling.queue import Outcome, Queue, Ticket, due
from service.scheduling.run import Run, answer_s
from service.scheduling.watchdog import Watchdog
from service.statistics import BLOCK

log = logging.getLogger("errorbar")

_PATIENCE = 20.0  # times its expected length that a part may take before it counts as hanging, where that is longer
_COMPANY = 4.0  # times as long as a small job may take, for several together: one by one they would take longer
_WATCHED = 4.0  # times its plain cost, that a job is expected to take which is watched, until one was seen
_MOST_RUNS = 4  # batches under way at once, which hold memory


class _Taker(NamedTuple):
    """Who runs small batches instead of the engine's thread: of at most so much work, when called."""

    most_s: float
    call: Callable[[], object]


class Engine:
    """Jobs in, outcomes out; safe from any thread. One part of one batch runs at a time: on the engine's thread, or on
    that of whoever calls `run_small`. A part that fails takes its own batch down, whose jobs then run one by one."""

    def __init__(
        self, limits: Limits | None = None, clock: Clock | None = None, observer: events.Observer = events.ignore
    ) -> None:
        self._limits, self._clock, self._observe = limits or Limits(), clock or MonotonicClock(), observer
        self._queue, self._shares = Queue(), Shares()
        self._costs = Costs()  # seconds that pass
        self._watched = Costs()  # the same of jobs that are watched: their answers on the way take longer than sampling
        self._busy = Costs()  # of a thread's own: what else the machine does makes no work longer. To ask for it costs
        # a tenth of a millisecond where the kernel is a sandbox's, so not every batch is asked
        self._runs: list[Run] = []
        self._lock = threading.Lock()  # of everything here but the device
        self._work_came = threading.Condition(self._lock)
        self._device = threading.Lock()
        self._admission = Admission(self._limits.queue_s)
        self._rows = Counter[str]()
        self._called = False  # the thread is to see to what waits; else somebody runs it who calls `run_small`
        self._taker: _Taker | None = None
        self._draining = self._abandoned = False
        self._hangs = False
        self.on_hang: Callable[[], None] = lambda: None
        """Called on a thread of its own once a part hangs and everybody has been told."""
        self._watchdog = Watchdog(self._clock, self._hang)
        self._thread = self._started()

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def works(self) -> bool:
        """Whether nothing hangs, and while it is not drained there is a thread that answers."""
        return not self._hangs and (self._draining or self._thread.is_alive())

    @property
    def rows(self) -> Mapping[str, int]:
        """That wait or run, by model."""
        with self._lock:
            return dict(self._rows)

    def admit(self, job: Job, done: Callable[[Outcome], None], wake: bool = True) -> Ticket:
        """Queues a job. Overloaded (the queue holds its limit of work), DeadlineExceeded (it cannot be met), Draining
        and NotReady are raised at once, and nothing is computed. done: told the answer, or a DeadlineExceeded,
        ModelFailed or Draining; never for a ticket that was withdrawn. wake: False where the caller calls `run_small`.
        """
        cost_s = self._costs.estimate_s(job.kind, job.passes)
        with self._lock:
            now = self._clock.now()
            self._refuse_if_ending()
            self._admission.check_room(cost_s)
            self._admission.check_deadline(job, cost_s, self._queue, now)
            return self._add(job, done, now, cost_s, wake)

    def check_room(self) -> None:
        """Overloaded where the queue is as good as full: a flood is refused by its heads, before its bodies are read
        and decoded, which would take the processor from those who are answered."""
        self._admission.check_any_room()

    def submit(self, job: Job) -> Future[Answer]:
        """As `admit`, for those who wait. The future's `cancel` withdraws the job."""
        future: Future[Answer] = Future()
        ticket = self.admit(job, _told(future))
        future.add_done_callback(lambda done: self.withdraw(ticket) if done.cancelled() else None)
        return future

    def withdraw(self, ticket: Ticket) -> None:
        """Nobody waits for it any more: it leaves the queue, or the batch under way at its next part."""
        with self._lock:
            ticket.wanted = False
            if ticket.waits:
                self._queue.remove(ticket)
                self._leave(ticket)

    def gave_up(self, ticket: Ticket) -> bool:
        """Whether a job has waited for longer than work may wait, and left the queue for it: the machine became slower
        after it was admitted, or more urgent work came."""
        with self._lock:
            overdue = ticket.waits and self._clock.now() - ticket.queued_at > self._limits.queue_s
            if overdue:
                ticket.wanted = False
                self._queue.remove(ticket)
                self._leave(ticket)
            return overdue

    def warm(self, model: ReadyModel) -> None:
        """Runs a row and a small batch in both modes, so that the first request is as fast as the next and the cost
        of a pass is known. It waits its turn, but no limit or deadline refuses it: a server with traffic on its other
        models must be able to load one more. ModelFailed; Draining."""
        for rows in (1, 8):
            inputs = warm_up_inputs(model.manifest, rows)
            default = model.manifest.sampling
            options = Options(default.samples, default.seed, default.masks, default.design)
            jobs = [Job(model, "predict", inputs, inf)]
            if model.sampler.samples_something:
                ways = [Job(model, "uncertainty", inputs, inf, replace(options, method=m)) for m in METHODS]
                jobs += {job.method: job for job in ways}.values()
            for job in jobs:
                for _ in range(2):
                    self._submit_unbounded(job).result()

    def _submit_unbounded(self, job: Job) -> Future[Answer]:
        future: Future[Answer] = Future()
        with self._lock:
            self._refuse_if_ending()
            self._add(job, _told(future), self._clock.now(), self._costs.estimate_s(job.kind, job.passes))
        return future

    def run_small(self, most_s: float) -> bool:
        """Runs the next batch here and now, if the device is free and its first job is expected to take at most so long
        by itself; whether there may be more such. What is not small is left to the engine's thread. A model that could
        not be captured runs Python of its own, which may take any time, and is never small; nor is what nobody has seen
        run."""
        ran = False
        if self._device.acquire(blocking=False):
            try:
                ran = self._turn(most_s)
            except BaseException as e:  # its jobs have been told; the caller's thread is not the engine's to end
                ran = True
                log.error("a batch on the caller's thread raised %s", reason(e))
            finally:
                self._device.release()
        if not ran:
            with self._lock:
                if self._queue or self._runs:
                    self._call_thread()
        return ran

    def hand_back(self, most_s: float, call: Callable[[], object]) -> None:
        """From now on the engine's thread leaves what `run_small(most_s)` would run to whoever calls that: it calls
        `call`, which is quick, and raises where it has ended. Else a thread that once has work, and gets more
        before it is done, would keep what is small for good."""
        with self._lock:
            self._taker = _Taker(most_s, call)

    def drain(self, abandon: bool = False) -> None:
        """Refuses new work, finishes what was admitted, and ends the thread. abandon: nobody waits for what was
        admitted; what runs ends after its current part, and this and all that waits is told Draining."""
        with self._lock:
            self._abandoned = self._abandoned or abandon
            self._draining = True
            self._work_came.notify_all()
        while not self._hangs and (thread := self._thread).is_alive():
            thread.join()
        self._watchdog.end()

    # what may be admitted; called with the lock

    def _refuse_if_ending(self) -> None:
        if self._draining:
            raise Draining("the server is going down and takes no new work", retry_after_s=5.0)
        if self._hangs:
            raise NotReady("a model does not return; the server restarts", retry_after_s=5.0)

    def _add(
        self, job: Job, done: Callable[[Outcome], None], now: float, cost_s: float, wake: bool = True
    ) -> Ticket:
        ticket = self._queue.ticket(job, now, cost_s, self._due(job, now, cost_s), done)
        ticket.theirs = not wake
        self._queue.add(ticket)
        self._admission.joined(cost_s, now)
        name = job.model.name
        if not self._rows[name]:
            self._shares.joins(name)
        self._rows[name] += job.rows
        if wake:
            self._call_thread()
        return ticket

    def _due(self, job: Job, now: float, cost_s: float) -> float:
        """For its place in the queue. One that is watched is not refused for its answers on the way, whose time nobody
        knows before they were given, but it is not more urgent than what takes as long."""
        if job.watcher is not None:
            cost_s = self._watched.estimate_s(job.kind, job.passes) or _WATCHED * cost_s
        return due(job, now, cost_s, self._admission.backlog_s)

    def _call_thread(self) -> None:
        self._called = True
        self._work_came.notify()

    def _leave(self, ticket: Ticket) -> None:
        """It is neither waited for nor worked on any more."""
        self._admission.left(ticket.cost_s)
        self._rows[ticket.job.model.name] -= ticket.job.rows

    # what runs next; called with the lock

    def _next(self, most_s: float) -> list[Ticket] | Run | None:
        """The most urgent: a batch to begin or one under way; None where there is nothing, or it is not small."""
        chosen = self._most_urgent()
        if not isinstance(chosen, Ticket):
            return chosen if most_s == inf else None
        costs, together_s = self._costs, BATCH_S
        if most_s < inf:
            if not self._is_small(chosen.job, most_s):
                return None
            costs, together_s = self._busy, _COMPANY * most_s
        kind = chosen.job.kind
        return self._queue.take(chosen, lambda rows, passes: (
            rows <= self._limits.rows and costs.estimate_s(kind, passes) <= together_s))

    def _most_urgent(self) -> Ticket | Run | None:
        turns: list[Ticket | Run] = [*self._runs]
        if len(self._runs) < _MOST_RUNS:
            turns += self._queue.first_of_each_model()
        return most_urgent(turns, self._shares)

    def _is_small(self, job: Job, most_s: float) -> bool:
        cost_s = self._busy.estimate_s(job.kind, job.passes)
        model = job.model
        return 0 < cost_s <= most_s and job.watcher is None and model.engine != "eager" and model.device == "cpu"

    def _handed_back(self) -> bool:
        """Whether somebody else has been told to run what is next."""
        taker = self._taker
        if taker is None:
            return False
        try:
            chosen = self._most_urgent()
            small = isinstance(chosen, Ticket) and chosen.theirs and self._is_small(chosen.job, taker.most_s)
            if small:
                taker.call()
            return small
        except Exception:  # whoever it was has ended, or nobody can choose: the thread sees to both
            self._taker = None
            return False

    # what runs; called with the device

    def _turn(self, most_s: float = inf) -> bool:
        """Runs a part of what is most urgent; whether there was anything. What is not an Exception is raised, once the
        jobs that met it have been seen to."""
        try:
            with self._lock:
                chosen = self._next(most_s)
        except Exception:  # nobody could be chosen next time either
            log.exception("the engine cannot choose what runs next; all that waits is told so")
            self._give_up(lambda ticket: ErrorbarError("the engine failed; see the server's log"))
            return True
        if chosen is None:
            return False
        tickets = chosen.tickets if isinstance(chosen, Run) else chosen
        try:
            if not self._tell_late(tickets):
                self._end(tickets)
            else:
                run = chosen if isinstance(chosen, Run) else self._begun(tickets)
                tickets = run.tickets
                self._advance(run)
        except Exception as e:
            self._fail(tickets, e)
        except BaseException as e:
            self._fail(tickets, e)
            raise
        finally:
            self._watchdog.part_ended()
        return True

    def _tell_late(self, tickets: Sequence[Ticket]) -> bool:
        """Tells those whose deadline has passed; whether anybody is left who waits."""
        now = self._clock.now()
        for ticket in tickets:
            if now > ticket.job.deadline and not ticket.job.partial:
                _tell(ticket, DeadlineExceeded(
                    "the deadline passed before the answer was ready; what was computed is thrown away"))
        return any(ticket.wanted for ticket in tickets)

    def _begun(self, tickets: Sequence[Ticket]) -> Run:
        self._watch(tickets, 0.0)  # the inputs are put together, and copied to the device
        run = Run([t for t in tickets if t.wanted], self._clock, self._step_samples(tickets[0]))
        run.measured = self._busy.wants(run.kind)
        with self._lock:
            for ticket in tickets:
                if not ticket.wanted:
                    self._leave(ticket)
            self._runs.append(run)
        return run

    def _step_samples(self, ticket: Ticket) -> int | None:
        """Of each row in one part: what takes about as long as others may be made to wait."""
        job, step_s = ticket.job, STEP_S
        if job.partial:
            step_s = min(step_s, max(0.0, job.deadline - answer_s(job) - self._clock.now()) / 4)
        cost_s = self._costs.steady_s(job.kind, job.passes)
        if job.samples == 1 or cost_s <= 2 * step_s:
            return None
        return max(BLOCK, int(job.samples * step_s / cost_s))

    def _advance(self, run: Run) -> None:
        self._watch(run.tickets, run.cost_s)
        before_s, began_s = run.spent_s, time.thread_time() if run.measured else 0.0
        try:
            more = run.step()
            if not more:
                answers, happened = run.answers()
        finally:
            if run.measured:
                run.busy_s += time.thread_time() - began_s
            self._tell_what_happened(run.retries())
            with self._lock:
                self._shares.spent(run.model.name, run.spent_s - before_s)
        if more:
            return
        with self._lock:
            # of one that is watched no cost was expected for its answers on the way
            self._admission.done(0.0 if run.is_watched else run.cost_s, self._clock.now())
            (self._watched if run.is_watched else self._costs).learn(run.kind, run.passes, run.spent_s)
            if run.measured and not run.is_watched:
                self._busy.learn(run.kind, run.passes, run.busy_s)
        self._end(run.tickets)
        for ticket, answer in zip(run.tickets, answers, strict=True):
            _tell(ticket, answer)
        self._tell_what_happened(happened)

    def _tell_what_happened(self, happened: Sequence[events.Event]) -> None:
        """An observer that fails is no reason to fail a job."""
        for event in happened:
            try:
                self._observe(event)
            except Exception:
                log.exception("an observer failed on %s", type(event).__name__)

    def _watch(self, tickets: Sequence[Ticket], expected_s: float) -> None:
        self._watchdog.part_began(tickets, max(self._limits.hang_s, _PATIENCE * expected_s))

    def _end(self, tickets: Sequence[Ticket]) -> None:
        """None of them is worked on any more."""
        with self._lock:
            self._runs = [other for other in self._runs if other.tickets is not tickets]
            for ticket in tickets:
                self._leave(ticket)

    def _fail(self, tickets: Sequence[Ticket], error: BaseException) -> None:
        """Those that were in company run again, each by itself, so that only the one that is to blame fails."""
        again = [ticket for ticket in tickets if ticket.wanted] if len(tickets) > 1 else []
        with self._lock:
            self._runs = [run for run in self._runs if run.tickets is not tickets]
            for ticket in tickets:
                ticket.set_apart()
                if ticket in again:
                    self._queue.add(ticket)
                else:
                    self._leave(ticket)
            self._call_thread()
        for ticket in tickets:
            if ticket not in again:
                _tell(ticket, _blamed(ticket, error))

    # the threads

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="errorbar-engine", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                with self._device:
                    self._turn()
        except BaseException as e:
            log.error("the engine's thread died of %s; another takes its place", reason(e))
            self._tell_what_happened([events.WorkerDied()])
            self._thread = self._started()

    def _wait_for_work(self) -> bool:
        """False once there is none and none will come."""
        with self._lock:
            while not self._abandoned:
                idle = not self._queue and not self._runs
                if self._draining:
                    return not idle
                if idle or (self._called and self._handed_back()):
                    self._called = False
                if self._called:
                    return True
                self._work_came.wait()
        self._give_up(lambda ticket: Draining("the server went down before the answer was ready", retry_after_s=5.0))
        return False

    def _give_up(self, error: Callable[[Ticket], ErrorbarError]) -> None:
        """Of all that waits and runs."""
        with self._lock:
            left = [*self._queue.take_all(), *(ticket for run in self._runs for ticket in run.tickets)]
            self._runs = []
            for ticket in left:
                self._leave(ticket)
        for ticket in left:
            _tell(ticket, error(ticket))

    def _hang(self, stuck: Sequence[Ticket]) -> None:
        """A part does not return. Everybody is told, nothing new is admitted, and whoever owns the process ends it."""
        self._hangs = True
        name = stuck[0].job.model.name
        log.critical("model %s has not returned in time: the process has to be replaced", name)
        self._tell_what_happened([events.WorkerHung(name)])
        for ticket in stuck:
            _tell(ticket, ModelFailed(f"model {name!r} did not return in time; the server restarts"))
        self._give_up(lambda ticket: NotReady("a model does not return; the server restarts", retry_after_s=5.0))
        self.on_hang()


def _told(future: Future[Answer]) -> Callable[[Outcome], None]:
    def tell(outcome: Outcome) -> None:
        if future.set_running_or_notify_cancel():
            if isinstance(outcome, Answer):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)

    return tell


def _tell(ticket: Ticket, outcome: Outcome) -> None:
    """Once, and only who still waits."""
    if ticket.wanted:
        ticket.wanted = False
        ticket.done(outcome)


def _blamed(ticket: Ticket, error: BaseException) -> ErrorbarError:
    if isinstance(error, ErrorbarError):
        return error
    return ModelFailed(f"model {ticket.job.model.name!r} raised {reason(error)}")
