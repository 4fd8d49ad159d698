"""Errorbar against other servers, single rows, T = 50: `make bench-serving`, or `python -m benchmarks.serving`.

Every server has the same network (the bundled digits), the same cores and as many torch threads, and is started anew in
every round: saturation (the best of several numbers of connections), then an open loop at 50 and 80 % of it, latencies
from the intended arrival; CPU and memory of its whole process tree from /proc; then nothing, for its idle CPU. Answers
are looked at before anything is timed; ✗: wrong, and no peer to compare with. With one core for the server the
generator has the other; with two they share both. Medians over rounds; ratios within a round are what to quote.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, SAMPLES, Contender, Route, contenders
from benchmarks.engine import machine
from benchmarks.http_connection import connecting
from benchmarks.load import open_loop
from benchmarks.plausibility import Truth, truth, wrong
from benchmarks.processes import DidNotStart, cpu_s, free_port, memory_bytes, started
from benchmarks.saturation import HOW_TO_GET_WRK, Saturated, has_wrk, saturated
from benchmarks.serving_report import heading, ratios, ratios_list, table
from benchmarks.traffic import Part, digit_rows, poisson
from benchmarks.versus import commit

_BODIES, _SEEDS = 64, 8
_LOADS = (0.5, 0.8)
_WARM_SHARE = 0.2  # of an open loop: not counted

Measured = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    rounds: int
    saturation_s: float
    load_s: float
    idle_s: float
    connections: tuple[int, ...]


FULL = Plan(rounds=3, saturation_s=6, load_s=20, idle_s=10, connections=(16, 64))
QUICK = Plan(rounds=1, saturation_s=2, load_s=4, idle_s=2, connections=(16, 64))


def route_measured(port: int, pid: int, route: Route, plan: Plan, seed: int, wrk: bool) -> Measured:
    requests = [route.request(digit_rows(1, n)[0], n % _SEEDS) for n in range(_BODIES)]
    saturated(port, requests, plan.connections[0], max(1, plan.saturation_s / 3), wrk)  # warm
    found: list[Saturated] = []
    cpu: list[float] = []
    for connections in plan.connections:
        before = cpu_s(pid)
        found.append(saturated(port, requests, connections, plan.saturation_s, wrk))
        cpu.append(cpu_s(pid) - before)
    best = max(found, key=lambda each: each.rate)
    measured: Measured = {
        "saturation": best.rate, "tried": [asdict(each) for each in found],
        "cpu_ms_a_request_saturated": _a_request(cpu[found.index(best)], best.rate * plan.saturation_s), "at": {},
    }
    for share in _LOADS:
        if best.rate:
            measured["at"][f"{share:.0%}"] = _loaded(port, pid, requests, share * best.rate, plan, seed)
    return measured


def _loaded(port: int, pid: int, requests: Sequence[bytes], rate: float, plan: Plan, seed: int) -> Measured:
    arrivals = poisson([Part("all", requests)], rate, plan.load_s, seed)
    before = cpu_s(pid)
    whole = open_loop(connecting("127.0.0.1", port), arrivals)
    used = cpu_s(pid) - before
    result = whole.after(_WARM_SHARE * plan.load_s).as_dict()
    return {"rate": rate, **result, "cpu_ms_a_request": _a_request(used, whole.counts().get("200", 0))}


def _a_request(seconds: float, requests: float) -> float | None:
    return seconds / requests * 1e3 if requests else None


def server_measured(
    contender: Contender, cores: Sequence[int], plan: Plan, known: Truth, seed: int, wrk: bool
) -> Measured:
    """What was measured of one start, or why there is nothing to measure."""
    if not contender.installed:
        return {"failed": "not installed"}
    port = free_port()
    command = [str(contender.python), "-W", "ignore", *contender.arguments]
    url = f"http://127.0.0.1:{port}{contender.ready}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            environment = contender.environment(port, len(cores))
            with started(command, environment, cores, url, Path(folder) / "log", contender.whole(len(cores))) as pid:
                verdicts = {name: wrong(port, route, known) for name, route in contender.routes.items()}
                routes = {name: {"wrong": verdicts[name], **route_measured(port, pid, route, plan, seed, wrk)}
                          for name, route in contender.routes.items()}
                memory = memory_bytes(pid)
                time.sleep(1.0)  # what it does after its last answer is not idleness
                before = cpu_s(pid)
                time.sleep(plan.idle_s)
                idle = (cpu_s(pid) - before) / plan.idle_s
        except DidNotStart as e:
            return {"failed": f"did not start: {e}"}
    return {"routes": routes, "memory_mib": memory / 2**20, "idle_cpu_percent": idle * 100}


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> Measured:
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds:
        plan = Plan(**{**asdict(plan), "rounds": arguments.rounds})
    allowed = sorted(os.sched_getaffinity(0))
    here = machine()  # before anything sets threads
    known = truth()
    runs = []
    for count in arguments.cores:
        if count > len(allowed):
            say(f"{count} cores: only {len(allowed)} here")
            continue
        cores = allowed[:count]
        own = set(allowed[count:]) or set(allowed)
        shared = own & set(cores) != set()
        # where cores are shared, what the open loop's generator costs must be in the saturation that it is a share of
        wrk = has_wrk() and not shared
        os.sched_setaffinity(0, own)
        rounds = []
        for number in range(plan.rounds):
            of_round = {}
            for name, contender in contenders(count).items():
                if arguments.servers and name not in arguments.servers:
                    continue
                say(f"{count} cores, round {number + 1} of {plan.rounds}: {name}")
                of_round[name] = server_measured(contender, cores, plan, known, number, wrk)
            rounds.append(of_round)
        os.sched_setaffinity(0, allowed)
        runs.append({"cores": count, "generator_shares_cores": shared, "wrk": wrk, "rounds": rounds,
                     "ratios": ratios(rounds)})
    return {
        "date": datetime.date.today().isoformat(), "machine": here, "commit": commit(), "samples": SAMPLES,
        "plan": asdict(plan), "runs": runs,
    }


def arguments_of(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: a few minutes, and rougher")
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="of the server; default 1 2")
    parser.add_argument("--servers", nargs="+", choices=list(CONTENDERS), help="default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    return parser.parse_args(given)


def main() -> None:
    arguments = arguments_of()
    if not has_wrk():
        print(HOW_TO_GET_WRK, file=sys.stderr)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    result = measure(arguments, say)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tables = [f"{table(run)}\n{ratios_list(run['ratios'])}\n" for run in result["runs"]]
    text = "\n".join([heading(result), *tables])
    if arguments.markdown:
        arguments.markdown.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
