"""One of several processes that serve a port, started by `service.workers` as `python -m service.worker`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from service.server import run
from service.settings import settled
from service.shared_port import listeners


def main() -> int:
    """Serves as the parent says on standard input, until a signal or the parent's end; returns the exit status."""
    told = json.loads(_line(sys.stdin.fileno()))
    settings = settled(told["settings"])
    threading.Thread(target=_end_with_parent, name="errorbar-parent", daemon=True).start()
    return run(settings, listeners(settings.host, settings.port, shared=True), told["load_first"])


def _line(descriptor: int) -> bytes:
    """A line, and no byte of what follows. The descriptor itself is read: a reader of Python's would be locked by the
    thread below when the process ends."""
    found = b""
    while not found.endswith(b"\n") and (piece := os.read(descriptor, 1 << 16)):
        found += piece
    return found


def _end_with_parent() -> None:
    """Nobody would replace this process or end it: it drains, and frees the port."""
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
