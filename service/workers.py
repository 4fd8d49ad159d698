"""Several processes that serve one port: a parent that starts them, replaces those that die, and ends them together.

Each worker has a listening socket of its own (SO_REUSEPORT): see docs/decisions/0011-workers.md.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import multiprocess

from service.clock import Clock, MonotonicClock
from service.errors import InvalidSettings
from service.settings import Settings

log = logging.getLogger("errorbar")
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client reads it when it is imported
_YOUNG_S, _LONGEST_PAUSE_S = 60.0, 30.0
_LAST_S = 10.0  # beyond the grace time; a worker that still lives then is killed
_ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    started: float
    deaths: int  # in a row, of workers in this one's place that lived for less than a minute


def supervise(settings: Settings) -> int:
    """Serves with `settings.workers` processes until a signal; returns 0 only where every one of them drained, answered
    what it had admitted and returned 0. InvalidSettings where this system cannot share a port."""
    if sys.platform != "linux":
        raise InvalidSettings("workers: more than 1 needs Linux, which shares the connections of a port out")
    with ExitStack() as held:
        try:
            port = held.enter_context(_holding(settings.host, settings.port))
        except OSError as e:
            log.error("cannot listen on %s port %d: %s", settings.host, settings.port, e.strerror)
            return 1
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="errorbar-metrics-"))
        own = settings.model_copy(update={"port": port, "threads": settings.threads or threads_each(settings.workers)})
        return Supervisor(own, Path(folder), MonotonicClock()).run()


def threads_each(workers: int) -> int:
    """The processors that this process may use, shared out; at least one each."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def pause_s(deaths: int) -> float:
    """How long a place stays empty after so many deaths in a row of workers that lived for less than a minute: nothing
    at first, then doubling, so that what cannot live does not use a processor up."""
    return min(_LONGEST_PAUSE_S, 0.5 * 2 ** (deaths - 2)) if deaths > 1 else 0.0


def listeners(host: str, port: int, shared: bool) -> list[socket.socket]:
    """Sockets for every address of the host, bound and not listening yet. shared: others may bind the same port.
    OSError where there is none; an address of a kind that this machine lacks is left out if it has another."""
    made: list[socket.socket] = []
    lacking: OSError | None = None
    with ExitStack() as undone:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                one = undone.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if shared:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                one.bind((address[0], made[0].getsockname()[1] if made else port, *address[2:]))
                made.append(one)
            except OSError as e:
                if e.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                lacking = e
        if lacking is not None and not made:
            raise lacking
        undone.pop_all()
    return made


@contextmanager
def _holding(host: str, port: int) -> Iterator[int]:
    """The port, bound by this process so that no other server takes it, and then opened to the workers. A socket that
    shares its port from the start could be bound beside another server's, and each would get some of its requests."""
    held = listeners(host, port, shared=False)
    try:
        for one in held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield held[0].getsockname()[1]
    finally:
        for one in held:
            one.close()


class Supervisor:
    def __init__(self, settings: Settings, metrics: Path, clock: Clock) -> None:
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._workers: list[Worker | None] = [None] * settings.workers
        self._due: dict[int, tuple[float, int]] = {}  # when an empty place is filled, and after how many deaths
        self._told: list[int] = []  # signals that were not forwarded yet

    def run(self) -> int:
        with self._woken() as woken:
            for place in range(len(self._workers)):
                self._start(place, 0, listens_at_once=place == 0)
            while not self._told:
                self._mourn()
                wait_s = min((at for at, _ in self._due.values()), default=float("inf")) - self._clock.now()
                _sleep(woken, max(0.0, wait_s))
                self._fill()
            return self._end(woken)

    def _start(self, place: int, deaths: int, listens_at_once: bool = False) -> None:
        """Signals wait in a new worker until it listens to them: none finds it half made."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "service.worker"], stdin=subprocess.PIPE, process_group=0,
                env={**os.environ, _METRICS_FOLDER: str(self._metrics)},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        told = {"settings": self._settings.model_dump(mode="json"), "load_first": not listens_at_once}
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.flush()  # and stays open: its end tells the worker that this process is gone
        except BrokenPipeError:
            log.error("worker %d did not take its settings", process.pid)
        self._workers[place] = Worker(process, self._clock.now(), deaths)
        log.info("worker %d started", process.pid)

    def _mourn(self) -> None:
        """Takes down who died, and sees when each is replaced."""
        now = self._clock.now()
        for place, worker in enumerate(self._workers):
            if worker is None or (status := worker.process.poll()) is None:
                continue
            deaths = worker.deaths + 1 if now - worker.started < _YOUNG_S else 1
            pause = pause_s(deaths)
            log.error("worker %d %s; another starts in %g s", worker.process.pid, _ended(status), pause)
            self._bury(worker)
            self._workers[place], self._due[place] = None, (now + pause, deaths)

    def _fill(self) -> None:
        for place, (at, deaths) in list(self._due.items()):
            if at <= self._clock.now() and not self._told:
                del self._due[place]
                self._start(place, deaths)

    def _bury(self, worker: Worker) -> None:
        """Its counts stay, what it was at the moment of its death does not."""
        multiprocess.mark_process_dead(worker.process.pid, str(self._metrics))  # type: ignore[no-untyped-call]
        assert worker.process.stdin is not None
        worker.process.stdin.close()

    def _end(self, woken: socket.socket) -> int:
        """Tells every worker, and waits for each. A place that is empty just now could not be kept filled."""
        living = [worker for worker in self._workers if worker is not None]
        well = len(living) == len(self._workers)
        log.info("workers told to end: %d", len(living))
        until = self._clock.now() + self._settings.grace_s + _LAST_S
        while living:
            for number in self._told:
                for worker in living:
                    worker.process.send_signal(number)
            self._told.clear()
            for worker in [worker for worker in living if worker.process.poll() is not None]:
                living.remove(worker)
                if status := worker.process.returncode:
                    log.error("worker %d %s", worker.process.pid, _ended(status))
                    well = False
                self._bury(worker)
            left = until - self._clock.now()
            if living and left <= 0:
                for worker in living:
                    log.error("worker %d did not end in time and is killed", worker.process.pid)
                    worker.process.kill()
                left = _LAST_S
            if living:
                _sleep(woken, left)
        return 0 if well else 1

    @contextmanager
    def _woken(self) -> Iterator[socket.socket]:
        """Signals, and the end of a child, can be read from this socket."""
        readable, written = socket.socketpair()
        readable.setblocking(False)
        written.setblocking(False)
        before = {number: signal.signal(number, lambda told, _: self._told.append(told)) for number in _ENDING}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        fd = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
        try:
            yield readable
        finally:
            signal.set_wakeup_fd(fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            readable.close()
            written.close()


def _sleep(woken: socket.socket, seconds: float) -> None:
    select.select([woken], [], [], None if seconds == float("inf") else seconds)
    try:
        woken.recv(4096)
    except BlockingIOError:
        return


def _ended(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
