"""The process: uvicorn around the application, with signals that drain and an exit status that says how it went."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from types import FrameType
from typing import Any

import torch
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service import events
from service.api.access import LISTENER
from service.api.app import Server, create_app
from service.clock import MonotonicClock
from service.connections import Connection, Port, allow_files
from service.errors import ErrorbarError
from service.logs import configure
from service.settings import Settings
from service.tls import load_certificate, tls_context
from service.watched import Watched

log = logging.getLogger("errorbar")
LAST_MOMENT_S = 5.0
_LOOK_S = 1.0  # between looks at files that may have changed


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGINT `/readyz` and new requests on open connections are told `draining`; at most a tenth of a
    second later new connections are refused. What was admitted is answered for `grace_s` seconds; what lasts longer is
    cut, with `draining` too. The watched files are read again when they change, or on SIGHUP."""

    def __init__(
        self, config: uvicorn.Config, state: Server, ports: Sequence[Port], watched: Sequence[Watched[Any]],
        handshake_s: float,
    ) -> None:
        super().__init__(config)
        self._state, self._ports, self._watched, self._handshake_s = state, ports, watched, handshake_s
        self._beside: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with several ports, protocols that know theirs, and a bound on handshakes. sockets: those to
        listen on for the first port, where they are open already."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self.servers = []
        try:
            for port in self._ports:
                await self._listen(port, sockets if port is self._ports[0] else None, shared=sockets is not None)
        except OSError as e:
            log.error("cannot listen on %s port %d: %s", port.host, port.number, e.strerror or e)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self.started = True
        self._beside = [asyncio.create_task(work) for work in (self._sweep(), self._look())]

    async def _listen(self, port: Port, sockets: list[socket.socket] | None, shared: bool) -> None:
        """shared: with other processes that were given the same sockets."""
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(port, self.config, self.server_state, self.lifespan.state, loop)

        options: dict[str, Any] = {"ssl": self.config.ssl, "backlog": self.config.backlog}
        if self.config.ssl is not None:
            options["ssl_handshake_timeout"] = self._handshake_s
        places: list[dict[str, Any]] = (
            [{"sock": s} for s in sockets] if sockets
            else [{"host": port.host, "port": port.number, "reuse_port": shared or None}])
        for place in places:
            self.servers.append(await loop.create_server(connection, **place, **options))
        host, number = self.servers[-1].sockets[0].getsockname()[:2]
        scheme = "http" if self.config.ssl is None else "https"
        words = "administrators' port at" if port.state else "listening on"
        log.info("%s %s://%s:%d; the contract is at /docs", words, scheme, host, number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._beside:
            task.cancel()
        await super().shutdown(sockets)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(port.limits.sweep_s for port in self._ports))
            for port in self._ports:
                try:
                    port.sweep(loop.time())
                except Exception:
                    log.exception("a sweep over connections failed; the next one comes")

    async def _look(self) -> None:
        """Reads watched files again. A signal that is caught no longer ends the process, so it is caught only where
        there is something to read."""
        if not self._watched:
            return
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, told.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # a worker starts with it blocked
        while True:
            try:
                await asyncio.wait_for(told.wait(), _LOOK_S)
            except TimeoutError:
                forced = False
            else:
                forced = True
            told.clear()
            for files in self._watched:
                await asyncio.to_thread(files.refresh, forced)

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
    configure(settings.log_format, settings.log_level, settings.log_models)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    state = Server(settings, MonotonicClock())
    tls = _tls(settings)
    app = create_app(settings, state=state, load_first=load_first)
    config = uvicorn.Config(
        app, log_config=None, log_level="warning",
        access_log=False, timeout_graceful_shutdown=ceil(settings.grace_s), loop="uvloop", http="httptools", ws="none",
        ssl_context_factory=None if tls is None else lambda config, default: tls.value,
    )

    def refused(error: ErrorbarError) -> None:
        state.metrics(events.RequestAnswered(None, None, "", error.code, 0.0, {}))

    ports = [Port(settings.host, settings.port, settings.connection_limits, refused, app.quick)]
    if settings.admin_port is not None:
        ports.append(Port(settings.admin_host, settings.admin_port, settings.connection_limits, refused,
                          app.quick, {LISTENER: "admin"}))
    allow_files(len(ports) * settings.connections)
    watched: list[Watched[Any]] = [files for files in (state.keys, tls) if files is not None]
    server = DrainingServer(config, state, ports, watched, settings.head_s)
    state.engine.on_hang = server.leave_hanging
    server.run(sockets)
    if state.cut_requests:
        log.error("requests cut: %d; they lasted longer than grace_s = %g s", state.cut_requests, settings.grace_s)
    well = server.started and state.failure is None and not state.cut_requests and state.engine.works
    return 0 if well else 1


def _tls(settings: Settings) -> Watched[ssl.SSLContext] | None:
    """The context that new connections get, always the same one: a certificate that is renewed is put into it. Whose
    clients are let in is settled at the start."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return None
    context = tls_context(certificate, key, settings.tls_client_ca, settings.tls_minimum)

    def renewed() -> ssl.SSLContext:
        load_certificate(context, certificate, key)
        return context

    return Watched("tls certificate", [certificate, key], renewed)
