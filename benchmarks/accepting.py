"""Who gets the connections: several processes that accept from one socket, or from a socket each (SO_REUSEPORT).

    python -m benchmarks.accepting

A worker is uvicorn with uvloop and a route that computes for a third of a millisecond. Told: the share of connections,
opened together, that the busiest worker got (1 / workers would be fair), and how many requests were lost, each on a
connection of its own, when one of the workers was told to end and when one was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.http_connection import connecting
from benchmarks.load import closed_loop, open_loop
from benchmarks.traffic import Part, poisson

WAYS = ("one socket", "a socket each")
_ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_ASK_ONCE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_RATE, _SECONDS = 400.0, 4.0


async def _who(_: Request) -> Response:
    return Response(json.dumps([os.getpid(), sum(range(20_000))]))


def _listening(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


def _serve(way: str, port: int, inherited: int) -> None:
    listener = socket.socket(fileno=inherited) if way == WAYS[0] else _listening(port)
    app = Starlette(routes=[Route("/", _who)])

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print("up", flush=True)

    config = uvicorn.Config(app, log_level="error", access_log=False, loop="uvloop", http="httptools")
    Announcing(config).run(sockets=[listener])


@contextmanager
def _workers(way: str, count: int) -> Iterator[tuple[int, list[subprocess.Popen[str]]]]:
    """The port and the workers; the parent's own socket holds the port and, where each has one, never listens."""
    with _listening(0) as held:
        port = held.getsockname()[1]
        arguments = [sys.executable, "-m", "benchmarks.accepting", "--worker", way, str(port), str(held.fileno())]
        workers = [
            subprocess.Popen(arguments, pass_fds=[held.fileno()], stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        try:
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == "up\n"
            yield port, workers
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()


def busiest_share(way: str, workers: int, connections: int, bursts: int) -> list[float]:
    """Of connections opened together and asked twice each, a burst at a time."""
    shares = []
    with _workers(way, workers) as (port, _):
        for _ in range(bursts):
            result = closed_loop(
                connecting("127.0.0.1", port), [_ASK], connections, 30.0, most=connections, keep_bodies=True)
            found = Counter(json.loads(body)[0] for body in result.bodies.values())
            shares.append(max(found.values()) / connections)
    return shares


def lost(way: str, workers: int, number: int) -> dict[str, int]:
    """What became of requests that each opened a connection while a worker ended by this signal."""
    with _workers(way, workers) as (port, processes):
        ending = threading.Timer(_SECONDS / 2, processes[0].send_signal, [number])
        ending.start()
        arrivals = poisson([Part("once", [_ASK_ONCE])], _RATE, _SECONDS, seed=0)
        result = open_loop(connecting("127.0.0.1", port), arrivals, drain_s=10.0)
        ending.join()
    return {what: count for what, count in result.counts().items() if what != "200"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs=3, metavar=("WAY", "PORT", "DESCRIPTOR"), help=argparse.SUPPRESS)
    parser.add_argument("--bursts", type=int, default=20)
    given = parser.parse_args()
    if given.worker:
        way, port, descriptor = given.worker
        _serve(way, int(port), int(descriptor))
        return
    print("| way | workers | connections | busiest worker's share, median | least | greatest |")
    print("| --- | --- | --- | --- | --- | --- |")
    for workers in (2, 4):
        for connections in (16, 64, 256):
            for way in WAYS:
                shares = busiest_share(way, workers, connections, given.bursts)
                print(f"| {way} | {workers} | {connections} | {statistics.median(shares):.2f} | {min(shares):.2f} "
                      f"| {max(shares):.2f} |", flush=True)
    for name, number in (("told to end", signal.SIGTERM), ("killed", signal.SIGKILL)):
        for way in WAYS:
            print(f"- one of 4 workers {name}, {way}: lost {lost(way, 4, number) or 'none'} of about "
                  f"{_RATE * _SECONDS:.0f}", flush=True)


if __name__ == "__main__":
    main()
