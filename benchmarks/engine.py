"""The engine against the usual loop, and its memory: `python -m benchmarks.engine`.

Network 512-256-128-10 with dropout 0.5 and 0.3, 50 samples, rows 1, 8, 32, 256, 1024. Timed in turn in one run: one
deterministic pass; the usual loop (train mode, one pass a sample, softmax, mean and std); this engine with `mean` and
`std` read, once with its bank of masks warm for 8 rotating seeds, once with a seed it has never seen, and once with
its products in bfloat16 where the processor has instructions for that. 64 inputs rotate. A turn is eight calls. Medians
over all of them; ratios are what to quote. "First of a turn" is the median of the engine's first call after the others'
turns, with cold caches. `deterministic_flop_share` is the share of FLOPs before the first site.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.architectures.mlp import MLP
from service import native
from service.sampling import Sampler, prepare
from service.sampling.device import lacks_bfloat16

SAMPLES, SEEDS, INPUTS = 50, 8, 64
TURN = 8  # calls
ROWS = (1, 8, 32, 256, 1024)
MEMORY_ROWS = 256


def times_ms(turns: int, *calls: Callable[[int], object]) -> list[list[float]]:
    """Times of calls that take turns, so that a machine whose speed drifts slows all alike: a list for each."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        for i in range(SEEDS):
            call(i)
    for turn in range(turns):
        for call, seen in zip(calls, times, strict=True):
            for i in range(turn * TURN, (turn + 1) * TURN):
                started = time.perf_counter()
                call(i)
                seen.append((time.perf_counter() - started) * 1e3)
    return times


def speed() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    net = MLP()
    sampler = prepare(net, torch.randn(4, 512), task="classification")
    coarse = None
    if not lacks_bfloat16(torch.device("cpu")):
        coarse = prepare(net, torch.randn(4, 512), task="classification", dtype="bfloat16")
    looped = MLP()
    looped.load_state_dict(net.state_dict())
    looped.train()
    fresh = iter(range(1000, 10**9))
    table = []
    for rows in ROWS:
        inputs = [torch.randn(rows, 512) for _ in range(INPUTS)]

        def loop(i: int, inputs: list[torch.Tensor] = inputs) -> object:
            with torch.no_grad():
                draws = torch.stack([looped(inputs[i % INPUTS]).softmax(-1) for _ in range(SAMPLES)])
                return draws.mean(0), draws.std(0)

        def engine(i: int, inputs: list[torch.Tensor] = inputs, of: Sampler = sampler) -> object:
            answer = of.uncertainty(inputs[i % INPUTS], SAMPLES, seed=i % SEEDS)
            return answer.mean, answer.std

        def unseen(i: int, inputs: list[torch.Tensor] = inputs) -> object:
            answer = sampler.uncertainty(inputs[i % INPUTS], SAMPLES, seed=next(fresh))
            return answer.mean, answer.std

        def single(i: int, inputs: list[torch.Tensor] = inputs) -> object:
            return sampler.predict(inputs[i % INPUTS])

        in_bfloat16 = [] if coarse is None else [partial(engine, of=coarse)]
        times = times_ms(16 if rows < 256 else 3, single, loop, engine, unseen, *in_bfloat16)
        one, usual, warm, cold, *bfloat16 = map(statistics.median, times)
        first = statistics.median(times[2][::TURN])
        table.append({
            "rows": rows, "pass_ms": one, "loop_ms": usual, "engine_ms": warm, "engine_unseen_seed_ms": cold,
            "loop_over_engine": usual / warm, "loop_over_engine_unseen_seed": usual / cold,
            "engine_over_pass": warm / one, "engine_first_of_turn_ms": first,
            "loop_over_engine_first_of_turn": usual / first,
            "bfloat16_ms": bfloat16[0] if bfloat16 else None,
            "loop_over_bfloat16": usual / bfloat16[0] if bfloat16 else None,
            "bfloat16_over_pass": bfloat16[0] / one if bfloat16 else None,
        })
    return table


def peak_kib(samples: int) -> int:
    """Peak resident memory of a fresh process that answers at this many samples, above that of the idle one."""
    code = f"from benchmarks.engine import memory_probe; memory_probe({samples})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def memory_probe(samples: int) -> None:
    sampler = prepare(MLP(), torch.randn(4, 512), task="classification")
    inputs = [torch.randn(MEMORY_ROWS, 512) for _ in range(SEEDS)]
    for x in inputs:
        sampler.predict(x)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
    idle = _peak_kib()
    for seed in range(2 if samples > SAMPLES else SEEDS):
        answer = sampler.uncertainty(inputs[seed], samples, seed=seed)
        assert answer.mean is not answer.std
    print(_peak_kib() - idle)


def _peak_kib() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1])


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    loops = "loops in C" if native.library() is not None else "no loops in C"
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, {loops}"


def _told(value: float | None, places: int = 1) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="plain JSON instead of tables")
    as_json = parser.parse_args().json
    table = speed()
    fifty, many = peak_kib(SAMPLES), peak_kib(10_000)
    memory = {"rows": MEMORY_ROWS, "t50_mib": fifty / 1024, "t10000_mib": many / 1024,
              "bound_mib": 1.1 * fifty / 1024 + 16}
    share = 512 * 256 / (512 * 256 + 256 * 128 + 128 * 10)
    if as_json:
        print(json.dumps({"machine": machine(), "speed": table, "memory": memory, "deterministic_flop_share": share}))
        return
    print(f"{machine()}\ndeterministic_flop_share {share:.2f}, T = {SAMPLES}\n")
    print("| rows | one pass, ms | usual loop, ms | engine, ms | loop / engine | engine / pass "
          "| first of a turn, ms | loop / it | unseen seed, ms | loop / it | bfloat16, ms | loop / it | it / pass |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for r in table:
        print(f"| {r['rows']} | {r['pass_ms']:.3f} | {r['loop_ms']:.2f} | {r['engine_ms']:.3f} | "
              f"{r['loop_over_engine']:.1f} | {r['engine_over_pass']:.1f} | "
              f"{r['engine_first_of_turn_ms']:.3f} | {r['loop_over_engine_first_of_turn']:.1f} | "
              f"{r['engine_unseen_seed_ms']:.3f} | {r['loop_over_engine_unseen_seed']:.1f} | "
              f"{_told(r['bfloat16_ms'], 3)} | {_told(r['loop_over_bfloat16'])} | {_told(r['bfloat16_over_pass'])} |")
    print(f"\nMemory above the idle process at {MEMORY_ROWS} rows: T = 50 {memory['t50_mib']:.1f} MiB, "
          f"T = 10,000 {memory['t10000_mib']:.1f} MiB (bound {memory['bound_mib']:.1f} MiB)")


if __name__ == "__main__":
    main()
