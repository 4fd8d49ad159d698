"""What the generator itself can: against a server that does nothing, in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, cast

import uvloop

from benchmarks.http_connection import connecting
from benchmarks.load import closed_loop
from benchmarks.traffic import native_posts

_BODY = b'{"predictions":[' + b"0" * 700 + b"]}"  # about as long as an answer of one row
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Trivial(asyncio.Protocol):
    """Answers the same to every request, each of which has the same length."""

    def __init__(self, length: int) -> None:
        self._length, self._got = length, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        while self._got >= self._length:
            self._got -= self._length
            self._transport.write(ANSWER)


async def serve(length: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Trivial(length), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def capacity(seconds: float, connections: int = 16) -> dict[str, Any]:
    """Requests a second that were answered, and that a whole core for the generator would make."""
    request = native_posts("uncertainty", 1, bodies=1)[0]
    command = [sys.executable, "-m", "benchmarks.trivial_server", str(len(request))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            connect = connecting("127.0.0.1", int(server.stdout.readline()))
            result = closed_loop(connect, [request], connections, seconds)
        finally:
            server.kill()
    answered = result.counts().get("200", 0)
    return {**result.as_dict(), "answered_per_s": answered / result.seconds,
            "generator_us_a_request": result.cpu_s / answered * 1e6, "capacity_per_s": answered / result.cpu_s}


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
