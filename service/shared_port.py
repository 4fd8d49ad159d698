"""A port that several processes listen on, each with a socket of its own: docs/decisions/0011-workers.md."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


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
def holding(host: str, port: int) -> Iterator[int]:
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
