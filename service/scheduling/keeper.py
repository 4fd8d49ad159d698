"""Keeps what serves in step with the folder of models: the one place that loads, switches and unloads.

It knows no thread of its own: whoever calls it waits until the work is done, one caller at a time. The server's is in
`keeper_thread`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service import events
from service.clock import Clock, MonotonicClock
from service.errors import Draining, ErrorbarError, FolderChanged, ModelNotFound, UnservableModel, cut, nearest, reason
from service.logs import AboutModels, ModelName
from service.repository import Key, ReadyModel, Repository

log = logging.getLogger("errorbar")


@dataclass(frozen=True)
class Keeping:
    """How models are kept."""

    reload_s: float = 5.0
    """Seconds between two looks at the folder; 0: never. A change is taken up when two looks in a row saw the same."""
    lazy: bool = False
    """A model loads when it is first asked for."""
    model_bytes: int | None = None
    """Most bytes of weights in memory together; None: no limit."""


class Keeper:
    """warm: makes a loaded model as fast as it will be; ModelFailed. on_change: called after anything changed."""

    def __init__(
        self, repository: Repository, warm: Callable[[ReadyModel], None], keeping: Keeping | None = None,
        clock: Clock | None = None, observer: events.Observer = events.ignore,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._repository, self._warm, self._keeping = repository, warm, keeping or Keeping()
        self._clock, self._observe, self._on_change = clock or MonotonicClock(), observer, on_change
        self._lock = threading.Lock()  # held by the one that changes the repository
        self._held: set[str] = set()  # names whose rules cannot be read: nothing of theirs changes until they can
        self._failures: dict[Key, ErrorbarError] = {}
        self._root_missing = False

    def start_up(self) -> None:
        """Loads all there is, the highest version of each model first; each answers from then on. A lazy keeper loads
        canaries and shadows only. Raises the first thing that makes one unservable, after it tried them all."""
        with self._lock:
            names = self._repository.names()
            failures = [failure for name in names if (failure := self._take_rules(name)) is not None]
            for name in names:
                for version in reversed([v for n, v in self._repository.versions if n == name]):
                    self._first(name, version)
            failures.extend(self._failures.values())
            self._on_change()
        if failures:
            raise failures[0]

    def _first(self, name: str, version: str) -> None:
        key = name, version
        if name in self._held:
            return
        aside = self._repository.loads_at_once(key)
        fits = not self._in_the_way(key, self._repository.weights_bytes(key))
        if (aside or not self._keeping.lazy) and (aside or fits):
            self._bring_up(key)
        else:
            self._repository.let_go(key, "idle")

    def look(self) -> None:
        """Looks at the folder once and takes up what changed."""
        with self._lock:
            try:
                found = self._repository.look()
            except OSError as e:
                if not self._root_missing:
                    log.error("the folder of models cannot be looked at, all goes on as it is: %s", AboutModels(e))
                self._root_missing = True
                return
            self._root_missing = False
            for name in found.rules:
                self._take_rules(name)
            for key in found.drop:
                self._drop(key)
            loads = [key for key in found.load if key[0] not in self._held]
            for key in loads:
                self._take_up(key)
            if found.rules or found.drop or loads:
                self._on_change()

    def _take_up(self, key: Key) -> None:
        """A version that is new or changed."""
        known = key in self._repository.entries
        self._repository.expect(key)
        status = self._repository.entries[key].status
        if status == "unloaded" or (not known and self._is_unloaded(key[0])):
            self._repository.let_go(key, "unloaded")
        elif status == "idle" or (self._keeping.lazy and not self._repository.loads_at_once(key)):
            self._repository.let_go(key, "idle")
        else:
            self._bring_up(key)

    def _is_unloaded(self, name: str) -> bool:
        """Whether the operator unloaded a model: its new versions wait with the others."""
        return any(n == name and entry.status == "unloaded" for (n, _), entry in self._repository.entries.items())

    def load(self, name: str) -> None:
        """Loads every version of a model that lies in the folder now, as the operator asked; what is served already and
        did not change stays. ModelNotFound; what makes a version unservable, after all were tried."""
        with self._lock:
            self._repository.look()
            versions = self._repository.seen_versions(name)
            if not versions:
                names = self._repository.seen_names()
                raise ModelNotFound(f"no model {cut(name)!r}{nearest(name, names)}; there are: {', '.join(names)}")
            failures = [self._take_rules(name)]
            if name not in self._held:
                for version in versions:
                    self._repository.expect((name, version))
                    failures.append(self._bring_up((name, version)))
            self._on_change()
        for failure in failures:
            if failure is not None:
                raise failure

    def unload(self, name: str) -> None:
        """No version of a model answers from now on, until it is loaded again. What was admitted is answered.
        ModelNotFound."""
        with self._lock:
            names = self._repository.names()
            if name not in names:
                raise ModelNotFound(f"no model {cut(name)!r}{nearest(name, names)}; there are: {', '.join(names)}")
            for key in [key for key in self._repository.versions if key[0] == name]:
                self._let_go(key, "unloaded")
            log.info("%s: unloaded by the operator", ModelName(name))
            self._on_change()

    def load_wished(self, key: Key) -> None:
        """Loads a version that was asked for and is not in memory."""
        with self._lock:
            entry = self._repository.entries.get(key)
            if entry is not None and entry.status == "idle":
                self._bring_up(key)
                self._on_change()

    def _take_rules(self, name: str) -> ErrorbarError | None:
        try:
            self._repository.take_rules(name)
        except ErrorbarError as e:
            self._held.add(name)
            log.error("%s: nothing of it changes until its rules can be read: %s", ModelName(name),
                      AboutModels(e.detail))
            self._observe(events.ModelLoadFailed(name, ""))
            return e
        self._held.discard(name)
        return None

    def _bring_up(self, key: Key) -> ErrorbarError | None:
        """Loads a version and lets it answer in place of what did; where it cannot be served, that goes on. Returns
        what was wrong. Draining is raised."""
        name, version = key
        started = self._clock.now()
        before = self._repository.entries[key].model
        try:
            self._make_room(key, self._repository.weights_bytes(key), spare=name)
            model = self._repository.load(name, version)
            if before is None or model.sampler is not before.sampler:
                self._check_budget(model.sampler.memory_bytes)
                self._warm(model)
        except Draining:
            raise
        except FolderChanged as e:
            log.info("%s: %s; tried again once it is still", _said(key), AboutModels(e.detail))
            self._repository.try_again(key)
            return self._failed(key, e)
        except Exception as e:
            error = e if isinstance(e, ErrorbarError) else UnservableModel(reason(e))
            if not isinstance(e, ErrorbarError):
                log.error("%s: loading failed", _said(key), exc_info=e)
            self._repository.refuse(key, error.detail)
            log.error("%s cannot be served%s: %s", _said(key),
                      "" if before is None else f", {before.digest} goes on", AboutModels(error.detail))
            self._observe(events.ModelLoadFailed(name, version))
            return self._failed(key, error)
        self._failures.pop(key, None)
        self._repository.admit(model, self._clock.now() - started)
        self._make_room(key, model.sampler.memory_bytes)
        if before is None or model.sampler is not before.sampler:
            self._tell_switch(before, model)
        return None

    def _failed(self, key: Key, error: ErrorbarError) -> ErrorbarError:
        # without its traceback, which would keep alive what was loaded halfway
        self._failures[key] = error.with_traceback(None)
        error.__cause__ = error.__context__ = None
        return error

    def _tell_switch(self, before: ReadyModel | None, model: ReadyModel) -> None:
        if before is not None:
            self._observe(_unloaded(before))
        self._observe(events.ModelLoaded(
            model.name, model.version, model.digest, model.device, model.engine, model.sampler.memory_bytes))
        said = _said((model.name, model.version))
        log.info("%s: %s answers%s", said, model.digest, "" if before is None else f" in place of {before.digest}")
        for warning in model.warnings:
            log.warning("%s: %s", said, warning)

    def _in_the_way(self, key: Key, needed: int, spare: str | None = None) -> list[Key]:
        budget = self._keeping.model_bytes
        return [] if budget is None else self._repository.in_the_way(key, needed, budget, spare)

    def _make_room(self, key: Key, needed: int, spare: str | None = None) -> None:
        """spare: a name whose versions stay, because one of them answers until this one does."""
        self._check_budget(needed)
        for other in self._in_the_way(key, needed, spare):
            log.info("%s leaves memory to make room for %s", _said(other), _said(key))
            self._let_go(other, "idle")

    def _check_budget(self, needed: int) -> None:
        budget = self._keeping.model_bytes
        if budget is not None and needed > budget:
            raise UnservableModel(f"it holds {needed} bytes, and all models together may hold {budget}")

    def _let_go(self, key: Key, status: Literal["idle", "unloaded"]) -> None:
        model = self._repository.let_go(key, status)
        self._failures.pop(key, None)
        if model is not None:
            self._observe(_unloaded(model))

    def _drop(self, key: Key) -> None:
        model = self._repository.drop(key)
        self._failures.pop(key, None)
        log.info("%s is gone from the folder", _said(key))
        if model is not None:
            self._observe(_unloaded(model))


def _said(key: Key) -> ModelName:
    return ModelName("/".join(key))


def _unloaded(model: ReadyModel) -> events.ModelUnloaded:
    return events.ModelUnloaded(
        model.name, model.version, model.digest, model.device, model.engine, model.sampler.memory_bytes)
