"""A flood: 64 rows and 500 samples a request, at ten times what the server can, one client in ten leaving early.

    python -m benchmarks.flood [--seconds 60] [--times 10] [--json FILE]

Says what became of every request, the goodput against saturation, the latency of what was accepted, how memory moved,
whether the server answers as before afterwards, and the processor time of a server that nobody asks. The server has
one core, the clients another.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.engine import machine
from benchmarks.http_connection import connecting
from benchmarks.load import closed_loop, open_loop
from benchmarks.outcomes import Result
from benchmarks.processes import cpu_s, free_port, memory_bytes, started
from benchmarks.traffic import Part, native_posts, poisson

ROWS, SAMPLES, LEAVING, PATIENCE_S = 64, 500, 0.1, 0.5
SATURATION_S, CONNECTIONS, MOST_CONNECTIONS = 10.0, 32, 900
QUEUE_S, IDLE_S = 5.0, 20.0
_LOOK_S = 0.5


class Memory:
    """Resident memory of a process while it is watched, MiB."""

    def __init__(self, pid: int) -> None:
        self._pid, self._end = pid, threading.Event()
        self.seen: list[float] = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.seen.append(memory_bytes(self._pid) / 2**20)
            if self._end.wait(_LOOK_S):
                return


def answer(port: int, request: bytes) -> Any:
    """The predictions of one answer."""
    result = closed_loop(connecting("127.0.0.1", port), [request], 1, 60.0, most=1, keep_bodies=True)
    return json.loads(result.bodies[0])["predictions"]


def furthest(one: Any, other: Any) -> float:
    """The largest difference between two answers' means."""
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x["mean"], y["mean"], strict=True))


def report(flood: Result, saturation: float, memory: list[float], moved: float, idle: float, rate: float) -> list[str]:
    """Lines of Markdown."""
    latency = flood.percentiles()
    quarter = max(1, len(memory) // 4)
    return [
        f"{ROWS} rows × {SAMPLES} samples a request, one core, `queue_s` = {QUEUE_S:g}. {machine()}", "",
        "| what | figure |", "| --- | --- |",
        f"| saturation, {CONNECTIONS} connections in closed loop | {saturation:.0f} answers a second |",
        f"| the flood: Poisson, one client in ten leaving | {rate:.0f} a second for {flood.seconds:.0f} s |",
        f"| what became of them | {flood.counts()} |",
        f"| goodput | {flood.goodput():.0f} answers a second, {flood.goodput() / saturation:.2f} of saturation |",
        f"| p50, p99 of accepted | {latency.p50:.0f} ms, {latency.p99:.0f} ms |",
        f"| memory, first quarter and last | {max(memory[:quarter]):.0f} MiB, {max(memory[-quarter:]):.0f} MiB |",
        f"| the same answer before and after | {moved:.1g} apart |",
        f"| generator late (p99) | {flood.late_ms:.1f} ms |",
        f"| processor time of a server that nobody asks | {100 * idle:.2f} % |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=10.0, help="of saturation")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--device", "cpu", "--threads", "1"]
    settings = {"OMP_NUM_THREADS": "1", "ERRORBAR_QUEUE_S": f"{QUEUE_S:g}"}
    requests = native_posts("uncertainty", ROWS, samples=SAMPLES)
    with tempfile.TemporaryDirectory() as folder, started(
        command, settings, [cores[0]], f"{url}/readyz", Path(folder) / "log"
    ) as pid:
        began = cpu_s(pid)
        time.sleep(IDLE_S)
        idle = (cpu_s(pid) - began) / IDLE_S
        before = answer(port, requests[0])
        connect = connecting("127.0.0.1", port)
        saturation = closed_loop(connect, requests, CONNECTIONS, SATURATION_S).goodput()
        rate = given.times * saturation
        mix = [Part("flood", requests, leaving=LEAVING, patience_s=PATIENCE_S)]
        with Memory(pid) as memory:
            flood = open_loop(connect, poisson(mix, rate, given.seconds, seed=1), MOST_CONNECTIONS)
        moved = furthest(before, answer(port, requests[0]))
    print("\n".join(report(flood, saturation, memory.seen, moved, idle, rate)))
    if given.json is not None:
        given.json.write_text(json.dumps({
            "machine": machine(), "saturation": saturation, "flood": flood.as_dict(), "memory_mib": memory.seen,
            "moved": moved, "idle": idle,
        }, indent=1))


if __name__ == "__main__":
    main()
