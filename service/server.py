"""The process: uvicorn around the application, with signals that drain and an exit status that says how it went."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from types import FrameType

import torch
import uvicorn

from service.api.app import Server, create_app
from service.clock import MonotonicClock
from service.settings import Settings

log = logging.getLogger("errorbar")
LAST_MOMENT_S = 5.0


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGINT `/readyz` and new requests on open connections are told `draining`; at most a tenth of a
    second later new connections are refused. What was admitted is answered for `grace_s` seconds; what lasts longer is
    cut, with `draining` too."""

    def __init__(self, config: uvicorn.Config, state: Server) -> None:
        super().__init__(config)
        self._state = state

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            log.info("listening on http://%s:%d; the contract is at /docs", host, port)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again once it is done, which would make a clean end look like a crash
        before = {s: signal.signal(s, self._leave) for s in (signal.SIGTERM, signal.SIGINT)}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)  # a worker starts with them blocked
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self._state.draining = True
        self.handle_exit(number, frame)

    def leave_hanging(self) -> None:
        """A model does not return, and everybody was told. What is left to send has a moment; if the event loop itself
        is what hangs, that moment is all there is."""
        self.should_exit = True
        end = threading.Timer(LAST_MOMENT_S, os._exit, [1])
        end.daemon = True
        end.start()


def run(settings: Settings, sockets: list[socket.socket] | None = None, load_first: bool = False) -> int:
    """Serves until a signal; returns the exit status: 0, or 1 where the models could not be loaded, the server could
    not start or requests were cut. Models load behind a server that already answers /healthz, or
    before it listens if load_first. sockets: bound already, in place of the settings' host and port."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    state = Server(settings, MonotonicClock())
    config = uvicorn.Config(
        create_app(settings, state=state, load_first=load_first), host=settings.host, port=settings.port,
        log_level="warning", access_log=False, timeout_graceful_shutdown=ceil(settings.grace_s), loop="uvloop",
        http="httptools",
    )
    server = DrainingServer(config, state)
    state.engine.on_hang = server.leave_hanging
    server.run(sockets)
    if state.cut_requests:
        log.error("requests cut: %d; they lasted longer than grace_s = %g s", state.cut_requests, settings.grace_s)
    well = server.started and state.failure is None and not state.cut_requests and state.engine.works
    return 0 if well else 1
