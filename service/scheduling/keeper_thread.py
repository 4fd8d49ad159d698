"""The thread that looks at the folder of models now and then and does what is asked of the keeper."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from service.errors import Draining
from service.repository import Key
from service.scheduling.keeper import Keeper

log = logging.getLogger("errorbar")


class KeeperThread:
    """reload_s: seconds between two looks; 0: never. Nothing runs before `start` or the first `ask`."""

    def __init__(self, keeper: Keeper, reload_s: float) -> None:
        self._keeper, self._pause_s = keeper, reload_s or None
        self._asked: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        self._wished: set[Key] = set()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._work, name="errorbar-keeper", daemon=True)
                self._thread.start()

    def stop(self, patience_s: float = 60.0) -> None:
        """Ends the thread after what it does now, which is waited for that long. What is asked later is refused."""
        self._stopping.set()
        self._asked.put(None)
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(patience_s)

    def ask(self, act: Callable[[], None]) -> Future[None]:
        """Has the thread do something, such as `lambda: keeper.load(name)`. The future raises what that does, or
        Draining."""
        future: Future[None] = Future()
        self.start()
        self._asked.put((act, future))
        if self._stopping.is_set():
            self._refuse_asked()
        return future

    def wish(self, key: Key) -> None:
        """Has a version loaded that is not in memory; returns at once. Asked often, it is done once."""
        if key not in self._wished:
            self._wished.add(key)
            self.ask(lambda: self._grant(key))

    def _grant(self, key: Key) -> None:
        try:
            self._keeper.load_wished(key)
        finally:
            self._wished.discard(key)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                asked = self._asked.get(timeout=self._pause_s)
            except Empty:
                self._look()
                continue
            if asked is not None:
                _do(*asked)
            del asked
        self._refuse_asked()

    def _look(self) -> None:
        """Whatever comes of it, the thread lives on."""
        try:
            self._keeper.look()
        except Draining:
            self._stopping.set()
        except Exception:
            log.exception("a look at the folder of models failed; what serves goes on")

    def _refuse_asked(self) -> None:
        while True:
            try:
                asked = self._asked.get_nowait()
            except Empty:
                return
            if asked is not None and asked[1].set_running_or_notify_cancel():
                asked[1].set_exception(Draining("the server is going down", retry_after_s=5.0))


def _do(act: Callable[[], None], future: Future[None]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            act()
        except Exception as e:
            future.set_exception(e)
        else:
            future.set_result(None)
