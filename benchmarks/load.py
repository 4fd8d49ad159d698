"""A load generator for one core: open loop (arrivals of `benchmarks.traffic`) or closed loop, over kept connections.

    python -m benchmarks.load http://127.0.0.1:8080 --rate 500 --seconds 10
    python -m benchmarks.load --capacity

One thread, `epoll`, requests made before, of a response no more read than its status and length: some ten
microseconds a request, so that on a core of its own it is not what is measured (--capacity says how much it can).
It answers for itself: `Result.late_ms` tells how late it was, `Result.held` how many requests found no connection.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from benchmarks.generator import Clock, Generator, WallClock
from benchmarks.http_connection import Connect, connecting
from benchmarks.outcomes import Result
from benchmarks.traffic import Arrivals, Part, native_posts, poisson


def open_loop(
    connect: Connect, arrivals: Arrivals, connections: int = 512, drain_s: float = 60.0, keep_bodies: bool = False,
    clock: Clock | None = None,
) -> Result:
    """Sends every request at its time, whether or not earlier ones were answered, then waits drain_s for answers.

    connections: at most so many at once; a request beyond them waits, and its latency counts from its time all the
    same. keep_bodies: `Result.bodies` has what was answered.
    """
    with Generator(connect, clock or WallClock(), connections, keep_bodies) as generator:
        return generator.run_open(arrivals, drain_s)


def closed_loop(
    connect: Connect, requests: Sequence[bytes], connections: int, seconds: float, most: int = 1_000_000,
    drain_s: float = 60.0, keep_bodies: bool = False, clock: Clock | None = None,
) -> Result:
    """Every connection sends its next request when it has the answer to the last: saturation. Ends after `seconds` or
    `most` requests. Its latencies say how long a request takes at that many in flight, not what an arrival meets."""
    with Generator(connect, clock or WallClock(), connections, keep_bodies) as generator:
        return generator.run_closed(requests, seconds, most, drain_s)


def loopback(url: str) -> Connect:
    """ValueError where the URL leads off this machine: a flood is for one's own server."""
    split = urlsplit(url)
    host = "127.0.0.1" if split.hostname == "localhost" else split.hostname or ""
    if split.scheme != "http" or split.port is None or not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"a URL such as http://127.0.0.1:8080 expected, got {url!r}")
    return connecting(host, split.port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080", help="of a server on this machine")
    parser.add_argument("--rate", type=float, default=100.0, help="arrivals a second; 0 is a closed loop")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--mode", choices=["predict", "uncertainty"], default="uncertainty")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--leaving", type=float, default=0.0, help="share of clients that leave early")
    parser.add_argument("--patience", type=float, default=0.1, help="seconds that those wait, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--capacity", action="store_true", help="what the generator itself can, with a trivial server")
    given = parser.parse_args()
    if given.capacity:
        from benchmarks.trivial_server import capacity

        print(json.dumps(capacity(given.seconds), indent=1))
        return
    options = {"samples": given.samples} if given.mode == "uncertainty" else {}
    requests = native_posts(given.mode, given.rows, **options)
    connect = loopback(given.url)
    if given.rate:
        mix = [Part(given.mode, requests, leaving=given.leaving, patience_s=given.patience)]
        result = open_loop(connect, poisson(mix, given.rate, given.seconds, given.seed), given.connections)
    else:
        result = closed_loop(connect, requests, given.connections, given.seconds)
    print(json.dumps(result.as_dict(), indent=1))


if __name__ == "__main__":
    main()
