"""bfloat16 against float32 in the same engine: `python -m benchmarks.bfloat16`.

Random weights, 50 samples, `mean` and `std` read, masks of 3 rotating seeds at hand, one thread. The two take turns in
one run; the shortest time of each, for what else the machine does only adds to it, and their ratio, which is what to
quote. The bound is the one of `service.sampling.bound` on 32 rows, in standard errors; networks that it refuses are
timed all the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.networks import Encoder, Network
from models.architectures.cnn import CNN
from models.architectures.mlp import MLP
from service.errors import UnservableModel
from service.sampling import Sampler, prepare
from service.sampling.bound import hold_to_float32

SEEDS, PATIENCE_S, LEAST_TURNS, MOST_TURNS = 3, 6.0, 5, 200


class Recurrent(nn.Module):
    """LSTM of two layers and a classifier of the last step: (rows, 32, 32) to (rows, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.drop = nn.LSTM(32, 128, 2, dropout=0.3, batch_first=True), nn.Dropout(0.2)
        self.out = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.drop(self.lstm(x)[0][:, -1]))
        return logits


NETWORKS = (
    Network("MLP 512-256-128-10", MLP, (512,)),
    Network("CNN 32/64 channels, 28×28", lambda: CNN(side=28, channels=(32, 64), hidden=128), (1, 28, 28)),
    Network("LSTM 2 × 128, length 32", Recurrent, (32, 32)),
    Network("transformer 4 × 256, length 64", lambda: Encoder(4, 256, 4, 10), (64, 256)),
)


def taken_ms(calls: list[Callable[[int], object]]) -> list[float]:
    """The shortest time of each of some calls that take turns, after a few turns untimed."""
    for call in calls:
        for seed in range(SEEDS):
            call(seed)
    times: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    while len(times[0]) < LEAST_TURNS or (time.perf_counter() - started < PATIENCE_S and len(times[0]) < MOST_TURNS):
        for call, seen in zip(calls, times, strict=True):
            before = time.perf_counter()
            call(len(seen) % SEEDS)
            seen.append((time.perf_counter() - before) * 1e3)
    return [min(each) for each in times]


def asking(sampler: Sampler, rows: Tensor) -> Callable[[int], object]:
    def ask(seed: int) -> object:
        answer = sampler.uncertainty(rows, 50, seed)
        return answer.mean, answer.std

    return ask


def bound(lowered: Sampler, exact: Sampler, rows: Tensor) -> str:
    try:
        error = hold_to_float32(lowered, exact, {"input": rows})
    except UnservableModel as e:
        return f"refused: {e.detail}"
    return f"mean {error.mean:.3f}, std {error.std:.3f}, prediction {error.prediction:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-bound", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for network in [n for n in NETWORKS if given.only in n.name]:
        exact = prepare(network.module(), network.rows(4), "classification")
        lowered = exact.lowered(network.rows(4))
        lowered.tune(network.rows(4))
        for count in given.rows:
            rows = network.rows(count)
            one, other = taken_ms([asking(exact, rows), asking(lowered, rows)])
            print(f"{network.name}, {count} rows: float32 {one:.2f} ms, bfloat16 {other:.2f} ms, "
                  f"{one / other:.2f} times", flush=True)
        if not given.no_bound:
            print(f"{network.name}: {bound(lowered, exact, network.rows(32, seed=1))}", flush=True)


if __name__ == "__main__":
    main()
