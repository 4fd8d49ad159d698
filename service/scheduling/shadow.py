"""A version that is tried beside the one that serves: it gets copies of requests, and its answers are compared and
counted, never sent.

Nobody waits for it. A thread takes one answered job after the other, so a shadow never has more than one job in the
queue; answers that come faster than it works are counted as skipped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from queue import Full, Queue
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service import events
from service.clock import Clock
from service.errors import ErrorbarError, Overloaded
from service.logs import ModelName
from service.repository import ReadyModel, Repository
from service.repository.routing import Route
from service.scheduling.job import Answer, Job
from service.statistics import Task

log = logging.getLogger("errorbar")
_WAITING = 4  # answered jobs, whose inputs are kept meanwhile
_PATIENCE_S = 60.0
LOWEST_PRIORITY = 0
Differences = NDArray[np.float64]
_Pair = tuple[Job, Answer, Route]


class Engine(Protocol):
    """What computes; `service.scheduling.Engine` or a stand-in."""

    @property
    def clock(self) -> Clock: ...
    def submit(self, job: Job) -> Future[Answer]: ...


class Shadowing:
    """Watches answers, and asks the same of a version's shadow."""

    def __init__(self, engine: Engine, repository: Repository, observer: events.Observer = events.ignore) -> None:
        self._engine, self._repository, self._observe = engine, repository, observer
        self._waiting: Queue[_Pair | None] = Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._counted: dict[str, int] = {}  # answers of a name that a shadow could have had
        self._stopping = threading.Event()

    def answered(self, job: Job, served: Answer) -> None:
        """Returns at once. A job whose answer depends on its deadline is not compared."""
        route = self._repository.route(job.model.name)
        if route.shadow is None or job.model is not route.default or job.partial or not self._takes(route):
            return
        try:
            self._waiting.put_nowait((job, served, route))
        except Full:
            self._tell(route, {"skipped": job.rows})
            return
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._work, name="errorbar-shadow", daemon=True)
                self._thread.start()

    def _takes(self, route: Route) -> bool:
        """Every one in so many: of the first n jobs, floor(n · share)."""
        assert route.shadow is not None
        assert route.shadowing is not None
        with self._lock:
            seen = self._counted[route.shadow.name] = self._counted.get(route.shadow.name, 0) + 1
        return int(seen * route.shadowing.share) > int((seen - 1) * route.shadowing.share)

    def finish(self) -> None:
        """Waits until all answers that were taken are compared."""
        self._waiting.join()

    def stop(self, patience_s: float = 10.0) -> None:
        """Ends the thread after the answer that it compares now; what waits is dropped."""
        self._stopping.set()
        with self._lock:
            thread = self._thread
        if thread is None:
            return
        with suppress(Full):  # then there is something that wakes it
            self._waiting.put_nowait(None)
        thread.join(patience_s)

    def _work(self) -> None:
        while not self._stopping.is_set():
            pair = self._waiting.get()
            try:
                if pair is not None:
                    self._compare(*pair)
            except Exception:
                log.exception("a shadow's answer could not be compared")
            finally:
                del pair
                self._waiting.task_done()

    def _compare(self, job: Job, served: Answer, route: Route) -> None:
        model, rules = route.shadow, route.shadowing
        assert model is not None
        assert rules is not None
        try:
            if not comparable(job.model, model):
                self._tell(route, {"failed": job.rows})
                return
            copy = job.but(model=model, deadline=self._engine.clock.now() + _PATIENCE_S, priority=LOWEST_PRIORITY,
                           watcher=None)
            answer = self._engine.submit(copy).result()
        except Overloaded:
            self._tell(route, {"skipped": job.rows})
            return
        except Exception as e:  # what it says may quote the request
            said = e.code if isinstance(e, ErrorbarError) else type(e).__name__
            log.warning("shadow %s failed: %s", ModelName(f"{model.name}/{model.version}"), said)
            self._tell(route, {"failed": job.rows})
            return
        agrees, found = compared(job.model.manifest.task, served, answer, rules.tolerance)
        self._tell(route, {"agrees": int(agrees.sum()), "differs": int((~agrees).sum())}, found.tolist())

    def _tell(self, route: Route, outcomes: Mapping[str, int], differences: list[float] | None = None) -> None:
        assert route.shadow is not None
        self._observe(events.ShadowCompared(
            route.shadow.name, route.shadow.version, {k: n for k, n in outcomes.items() if n}, differences or []))


def comparable(one: ReadyModel, other: ReadyModel) -> bool:
    """Whether two versions take the same inputs and answer in the same terms."""
    a, b = one.manifest, other.manifest
    return (a.task, a.inputs, a.labels, one.sampler.output_shape) == (
        b.task, b.inputs, b.labels, other.sampler.output_shape)


def compared(task: Task, served: Answer, shadow: Answer, tolerance: float) -> tuple[NDArray[np.bool_], Differences]:
    """Whether each row agrees, and how far its figures are apart, (rows,).

    The difference is the largest over a row's values, or its means and standard deviations: of probabilities as it is,
    of other outputs as a share of the largest value of the served row. Rows of labelled tasks agree where the label is
    the same (multilabel: every label on the same side of one half), others where the difference is at most `tolerance`.
    Rows of which one figure is missing or not finite differ, by infinity.
    """
    names = ["values"] if "values" in served.arrays else ["mean", "std"]
    here, there = ([_flat(answer, name) for name in names] for answer in (served, shadow))
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.max([np.abs(a - b).max(1) for a, b in zip(here, there, strict=True)], axis=0)
        if task not in ("classification", "multilabel"):
            scale = np.abs(here[0]).max(1)
            apart = np.where(apart == 0, 0.0, apart / scale)
    apart = np.where(np.isnan(apart), np.inf, apart)
    if task == "classification":
        agrees = here[0].argmax(1) == there[0].argmax(1)
    elif task == "multilabel":
        agrees = ((here[0] >= 0.5) == (there[0] >= 0.5)).all(1)
    else:
        agrees = apart <= tolerance
    return agrees & np.isfinite(apart), apart


def _flat(answer: Answer, name: str) -> Differences:
    values = answer.arrays[name]
    assert values is not None
    return values.reshape(len(values), -1).astype(np.float64)
