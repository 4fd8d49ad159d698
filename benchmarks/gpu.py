"""50 samples on a CUDA device: `python -m benchmarks.gpu`. Status 2 and one sentence where there is none.

Networks with random weights, rows 1, 32, 256, float32 without TF32 for all. Timed in turn: one deterministic pass; the
usual loop (dropout on, batch normalisation in eval mode, one pass a sample); repeating the batch 50 times, in one pass;
this engine with its bank warm for 8 rotating seeds, and with seeds it has never seen. Each is waited for and its mean
and std are computed. Medians; ratios are what to quote. A cell says "out of memory" where that way does not fit, and a
network that the engine refuses is listed with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.engine import SAMPLES, times_ms
from benchmarks.networks import NETWORKS, Network
from service.errors import UnservableModel
from service.sampling import Sampler, prepare
from service.sampling.arming import armed
from service.sampling.device import exact_float32, finish

ROWS = (1, 32, 256)
SEEDS = 8
COLUMNS = ("one pass", "usual loop", "repeat the batch", "engine", "engine, unseen seed")


def calls(
    network: Network, sampler: Sampler, rows: int, samples: int, device: torch.device
) -> list[Callable[[int], object]]:
    """What is timed, in the order of COLUMNS."""
    module = network.module().to(device)
    inputs = [network.rows(rows, seed).to(device) for seed in range(SEEDS)]
    fresh = itertools.count(1000)

    def loop(i: int) -> object:
        with armed(module):
            return _summary(torch.stack([module(inputs[i % SEEDS]).softmax(-1) for _ in range(samples)]))

    def repeat(i: int) -> object:
        x = inputs[i % SEEDS]
        with armed(module):
            drawn = module(x.repeat(samples, *[1] * (x.dim() - 1))).softmax(-1)
        return _summary(drawn.view(samples, rows, -1))

    def engine(i: int) -> object:
        answer = sampler.uncertainty(inputs[i % SEEDS], samples, seed=i % SEEDS)
        return answer.mean, answer.std

    def unseen(i: int) -> object:
        answer = sampler.uncertainty(inputs[i % SEEDS], samples, seed=next(fresh))
        return answer.mean, answer.std

    return [lambda i: sampler.predict(inputs[i % SEEDS]), loop, repeat, engine, unseen]


def medians_ms(timed: Sequence[Callable[[int], object]], turns: int, device: torch.device) -> list[float | None]:
    """None where memory did not suffice."""
    fits = [_fits(call, device) for call in timed]
    waited = [_waited(call, device) for call, fit in zip(timed, fits, strict=True) if fit]
    with torch.no_grad(), exact_float32(device):
        medians = map(statistics.median, times_ms(turns, *waited))
        return [next(medians) if fit else None for fit in fits]


def _summary(draws: Tensor) -> tuple[Tensor, Tensor]:
    return draws.mean(0), draws.std(0)


def _waited(call: Callable[[int], object], device: torch.device) -> Callable[[int], object]:
    def waited(i: int) -> object:
        result = call(i)
        finish(device)
        return result

    return waited


def _fits(call: Callable[[int], object], device: torch.device) -> bool:
    try:
        with torch.no_grad(), exact_float32(device):
            _waited(call, device)(0)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def _cells(network: Network, rows: int, medians: Sequence[float | None]) -> str:
    one, loop, repeat, engine, unseen = medians
    times = ["out of memory" if t is None else f"{t:.3f}" for t in medians]
    ratios = ["–" if a is None or b is None else f"{a / b:.1f}"
              for a, b in ((loop, engine), (repeat, engine), (engine, one), (loop, unseen))]
    return f"| {' | '.join([network.name, str(rows), *times, *ratios])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="of eight calls each")
    turns = parser.parse_args().turns
    if not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no CUDA device here, so nothing was measured", file=sys.stderr)
        sys.exit(2)
    device = torch.device("cuda", torch.cuda.current_device())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"{torch.cuda.get_device_name(device)}, {datetime.date.today()}, "
          f"commit {commit.stdout.strip() or 'unknown'}, torch {torch.__version__}, float32 without TF32, "
          f"T = {SAMPLES}, ms\n")
    print(f"| network | rows | {' | '.join(COLUMNS)} | loop / engine | repeat / engine | engine / pass "
          "| loop / unseen |")
    print("| --- " * (2 + len(COLUMNS) + 4) + "|")
    for network in NETWORKS:
        try:
            sampler = prepare(network.module(), network.rows(4), task="classification", device=str(device))
        except UnservableModel as refusal:
            print(f"| {network.name} | refused: {refusal} |")
            continue
        for rows in ROWS:
            print(_cells(network, rows, medians_ms(calls(network, sampler, rows, SAMPLES, device), turns, device)),
                  flush=True)


if __name__ == "__main__":
    main()
