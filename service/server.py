"""The process: uvicorn around the application, with signals that drain and an exit status that says how it went."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import uvicorn

from service.api.app import Server, create_app
from service.clock import MonotonicClock
from service.settings import Settings

log = logging.getLogger("errorbar")


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGINT: readiness goes first, new work is refused, what was admitted is answered, exit 0."""

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
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self._state.draining = True
        self.handle_exit(number, frame)


def run(settings: Settings) -> int:
    """Serves until a signal; returns the exit status. Models load behind a server that already answers /healthz."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    state = Server(settings, MonotonicClock())
    config = uvicorn.Config(
        create_app(settings, state=state), host=settings.host, port=settings.port, log_level="warning",
        access_log=False, timeout_graceful_shutdown=int(settings.grace_s), loop="uvloop", http="httptools",
    )
    server = DrainingServer(config, state)
    server.run()
    if state.failure is not None:
        return 1
    return 0 if server.started else 1
