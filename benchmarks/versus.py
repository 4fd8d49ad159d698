"""The engine against every other way to sample dropout: `make bench-engine`, or `python -m benchmarks.versus`.

Six networks, rows 1, 8, 32 and 256, 50 samples, 64 inputs and 8 seeds that rotate. Timed: the call with mean and std
of the softmax read. All ways take turns in one process. Medians; ratios within a cell are what to quote. Which way is
right is measured (`benchmarks.rightness`): at 1 and 8 rows, and in each larger cell where six calls take under ten
seconds. Only the best right one is compared with. Tables are printed, and the JSON is written, network by network.
✗: wrong. A number in parentheses: called once only, as it is wrong or over three times slower than the best and there
was no time left.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.compared_networks import INPUTS, NETWORKS, Network, deterministic_flop_share
from benchmarks.engine import machine
from benchmarks.peers import ENGINE, SAMPLES, SEEDS, WAYS, NotAvailable, Way, versions
from benchmarks.rightness import (
    ROWS,
    Moments,
    Verdict,
    keeps_a_stale_answer,
    reason_in_company,
    reference,
    verdict,
)
from benchmarks.turns import Call, timed

ONE_PASS = "one pass"
CACHE = "baal, cache"
CHECK_CALLS, CHECK_S = 6, 10.0  # in cells of many rows
_COPIES = 4  # of the largest activation that a pass holds at once, about

Cell = dict[str, Any]
Result = dict[str, Any]


def ready(
    network: Network, truth: Moments, calls: int
) -> tuple[dict[str, Way], dict[str, Verdict], dict[str, str]]:
    """Ways that answer; what was measured of each; and what to say of those that do not answer or are not right."""
    ways: dict[str, Way] = {}
    found: dict[str, Verdict] = {}
    notes: dict[str, str] = {}
    for name, build in WAYS.items():
        try:
            way = build(network)
            found[name] = verdict(network, way, truth, calls)
            ways[name] = way
        except NotAvailable as e:
            notes[name] = str(e)
            continue
        except Exception as e:  # another library's code: whatever it raises is its answer
            notes[name] = f"fails: {type(e).__name__}: {str(e).splitlines()[0]}"
            continue
        if found[name].reason:
            notes[name] = f"wrong: {found[name].reason}"
        elif keeps_a_stale_answer(network, way):
            notes[name] = "counted as right, but an input tensor that is filled anew in place gets the answer of before"
    return ways, found, notes


def cell(
    network: Network, rows: int, ways: dict[str, Way], right_before: set[str], truth: Moments, budget_s: float,
    memory_gib: float,
) -> Cell:
    @lru_cache(INPUTS)
    def input_of(number: int) -> Tensor:
        return network.input(rows, number)

    def calling(way: Way) -> Call:
        return lambda number: way.call(input_of(number % INPUTS), number % SEEDS)

    plain = network.made()

    def one_pass(number: int) -> Tensor:
        with torch.no_grad():
            return plain(input_of(number % INPUTS)).softmax(-1)

    for number in range(INPUTS if rows * network.size < 1 << 22 else 8):
        input_of(number)
    needs_gib = _COPIES * 4 * SAMPLES * rows * network.size / 2**30
    calls: dict[str, Call] = {ONE_PASS: one_pass}
    calls |= {name: calling(way) for name, way in ways.items() if not (way.folds and needs_gib > memory_gib)}
    wrong = {}
    for name in right_before & set(calls) if rows > ROWS else ():
        if reason := reason_in_company(network, ways[name], truth, rows, CHECK_CALLS, CHECK_S):
            wrong[name] = reason
    right = (right_before & set(calls)) - set(wrong)
    peers = right - set(ENGINE.values())
    times = timed(calls, {ONE_PASS} | right - peers, peers, budget_s)
    best = min(peers, key=lambda name: times[name].ms) if peers else None
    without_cache = min(peers - {CACHE}, key=lambda name: times[name].ms, default=None)
    ratios = {
        name: times[best].ms / times[name].ms for name in ENGINE.values() if best and name in right
    }
    ratios_without_cache = {
        name: times[without_cache].ms / times[name].ms for name in ratios if without_cache
    }
    return {
        "rows": rows, "ms": {name: asdict(timing) for name, timing in times.items()}, "best_right_peer": best,
        "ratio": ratios, "ratio_without_cache": ratios_without_cache,
        "wrong_here": wrong, "over_memory": sorted(set(ways) - set(calls)),
        "engine_passes": {name: times[name].ms / times[ONE_PASS].ms for name in ENGINE.values() if name in times},
    }


def measure(arguments: argparse.Namespace, say: Callable[[str], None], done: Callable[[Result, str], None]) -> Result:
    """say: takes what is going on. done: is called after each network with all there is so far."""
    passes, calls = (1000, 10) if arguments.quick else (3000, 20)
    nets: dict[str, Any] = {}
    result: Result = {
        "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "peers": versions(),
        "samples": SAMPLES, "budget_s": arguments.budget, "networks": nets,
    }
    for name in arguments.nets:
        network = NETWORKS[name]
        say(f"{name}: which ways are right")
        truth = reference(network, passes)
        ways, found, notes = ready(network, truth, calls)
        right = {way for way, each in found.items() if each.right}
        cells = []
        for rows in arguments.rows:
            say(f"{name}: {rows} rows")
            cells.append(cell(network, rows, ways, right, truth, arguments.budget, arguments.memory))
        for one in cells:
            notes |= {way: f"wrong: {reason}" for way, reason in one["wrong_here"].items()}
        nets[name] = {
            "title": network.title, "deterministic_flop_share": deterministic_flop_share(network), "notes": notes,
            "std_ratio": {way: each.std_ratio for way, each in found.items()},
            "right": {way: each.right for way, each in found.items()}, "cells": cells,
        }
        result["summary"] = summary(nets)
        done(result, name)
    return result


def summary(nets: dict[str, Any]) -> dict[str, Any]:
    """Geometric mean and least of best right peer / engine, over the cells that the engine serves."""
    told: dict[str, Any] = {}
    for name in ENGINE.values():
        for key in ("ratio", "ratio_without_cache"):
            found = {
                f"{net} at {one['rows']}": one[key][name]
                for net, table in nets.items() for one in table["cells"] if name in one[key]
            }
            if found:
                least = min(found, key=lambda where: found[where])
                told.setdefault(name, {})[key] = {
                    "geometric_mean": math.exp(sum(map(math.log, found.values())) / len(found)), "cells": len(found),
                    "least": found[least], "least_cell": least,
                }
    return told


def together(files: Sequence[Path]) -> dict[str, Any]:
    """The networks of several results. ValueError where two have the same one."""
    nets: dict[str, Any] = {}
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))["networks"]
        if same := sorted(nets.keys() & found.keys()):
            raise ValueError(f"{file}: measured in another file too: {', '.join(same)}")
        nets |= found
    return nets


def heading(result: Result) -> str:
    peers = ", ".join(f"{name} {number}" for name, number in result["peers"].items()) or "no other library"
    return (f"{result['date']}, {result['machine']}, commit {result['commit']}; {peers}. "
            f"T = {result['samples']}, ms.\n")


def closing(result: Result) -> str:
    words = {"ratio": "best right peer", "ratio_without_cache": "best right peer but baal's cache"}
    return "\n".join(
        f"- {name}, {words[key]} / engine: geometric mean **{found['geometric_mean']:.1f}** "
        f"over {found['cells']} cells, least {found['least']:.2f} ({found['least_cell']})"
        for name, each in result["summary"].items() for key, found in each.items()
    )


def network_table(table: dict[str, Any]) -> str:
    """Markdown."""
    engines = [name for name in ENGINE.values() if any(name in one["ms"] for one in table["cells"])]
    shown = [ONE_PASS, *(name for name in WAYS if name not in ENGINE.values() or name in engines)]
    if ENGINE["float32"] not in engines:
        shown.append(ENGINE["float32"])
    lines = [f"### {table['title']}", "", f"`deterministic_flop_share` {table['deterministic_flop_share']:.3f}", ""]
    lines.append("| rows | " + " | ".join(shown) + " | best right peer |"
                 + "".join(f" peer / {name} |" for name in engines) + " engine / pass | calls timed |")
    lines.append("| --- |" + " --- |" * (len(shown) + len(engines) + 3))
    for one in table["cells"]:
        row = [str(one["rows"]), *(_shown_time(table, one, name) for name in shown), one["best_right_peer"] or "none"]
        row += [f"**{one['ratio'][name]:.1f}**" if name in one["ratio"] else "–" for name in engines]
        row.append(", ".join(f"{one['engine_passes'][name]:.1f}" for name in engines) or "–")
        counts = [timing["calls"] for timing in one["ms"].values()]
        row.append(f"{min(counts)} to {max(counts)}")
        lines.append("| " + " | ".join(row) + " |")
    lines.append("")
    lines += [f"- {name}: {note}" for name, note in table["notes"].items() if name in shown]
    return "\n".join([*lines, ""])


def _shown_time(table: dict[str, Any], one: Cell, name: str) -> str:
    if name in one["over_memory"]:
        return "over memory"
    if name not in one["ms"]:
        return table["notes"][name].split(":")[0].replace("it ", "")
    ms, calls = one["ms"][name]["ms"], one["ms"][name]["calls"]
    text = f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"
    text = f"({text})" if calls == 1 else text
    right = table["right"].get(name, True) and name not in one["wrong_here"]
    return text if right else f"{text} ✗"


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def arguments_of(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", help="default 1 8 32 256")
    parser.add_argument("--nets", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="rows 1 and 32, two seconds a cell: minutes, and rougher")
    parser.add_argument("--budget", type=float, help="seconds of timing a cell, where it can be kept; default 60")
    parser.add_argument("--memory", type=float, default=6.0, help="GiB that a batch with all its samples may take")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--of", type=Path, nargs="+", metavar="FILE",
                        help="measure nothing; the geometric mean over what such files hold")
    arguments = parser.parse_args(given)
    arguments.rows = arguments.rows or ([1, 32] if arguments.quick else [1, 8, 32, 256])
    arguments.budget = arguments.budget or (2.0 if arguments.quick else 60.0)
    return arguments


def main() -> None:
    arguments = arguments_of()
    if arguments.of:
        print(closing({"summary": summary(together(arguments.of))}))
        return
    torch.set_num_threads(arguments.threads)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def done(result: Result, name: str) -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if len(result["networks"]) == 1:
            print(heading(result))
        print(network_table(result["networks"][name]), flush=True)

    print(closing(measure(arguments, say, done)))


if __name__ == "__main__":
    main()
