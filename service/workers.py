"""Several processes that serve one port: a parent that starts them, replaces those that die, and ends them together.

The parent's process is `python -m service.workers`; see docs/decisions/0011-workers.md.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from prometheus_client import multiprocess

from service.clock import Clock, MonotonicClock
from service.errors import InvalidSettings
from service.logs import configure
from service.shared_port import holding

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


def hand_over(settings: Mapping[str, Any]) -> NoReturn:
    """Makes this process the parent of `settings["workers"]` workers: it runs this module from here on, without torch
    and the models' code in its memory. settings: plain values, as JSON has them. InvalidSettings where this system
    cannot share a port."""
    if sys.platform != "linux":
        raise InvalidSettings("workers: more than 1 needs Linux, which shares the connections of a port out")
    written = os.memfd_create("errorbar-settings", 0)
    os.write(written, json.dumps(settings).encode())
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "service.workers", str(written)])


def supervise(settings: Mapping[str, Any]) -> int:
    """Serves until a signal; returns 0 only where every worker drained, answered what it had admitted and returned 0.
    """
    with ExitStack() as held:
        try:
            port = held.enter_context(holding(settings["host"], settings["port"]))
        except OSError as e:
            log.error("cannot listen on %s port %d: %s", settings["host"], settings["port"], e.strerror)
            return 1
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="errorbar-metrics-"))
        threads = settings["threads"] or threads_each(settings["workers"])
        own = {**settings, "port": port, "threads": threads}
        return Supervisor(own, Path(folder), MonotonicClock()).run()


def threads_each(workers: int) -> int:
    """The processors that this process may use, shared out; at least one each."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def pause_s(deaths: int) -> float:
    """How long a place stays empty after so many deaths in a row of workers that lived for less than a minute: nothing
    at first, then doubling, so that what cannot live does not use a processor up."""
    return min(_LONGEST_PAUSE_S, 0.5 * 2 ** (deaths - 2)) if deaths > 1 else 0.0


class Supervisor:
    def __init__(self, settings: Mapping[str, Any], metrics: Path, clock: Clock) -> None:
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._workers: list[Worker | None] = [None] * settings["workers"]
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
        told = {"settings": self._settings, "load_first": not listens_at_once}
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
        until = self._clock.now() + self._settings["grace_s"] + _LAST_S
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
        if self._settings["keys"] or self._settings["tls_certificate"]:
            # "read your files again": workers look every second, and to be told so must not end their parent
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: None)
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


def main() -> int:
    with os.fdopen(int(sys.argv[1]), "rb") as written:
        written.seek(0)
        settings = json.load(written)
    configure(settings["log_format"], settings["log_level"], settings["log_models"])
    return supervise(settings)


if __name__ == "__main__":
    sys.exit(main())
