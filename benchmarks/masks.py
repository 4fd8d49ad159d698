"""The mask generator against memory and torch's own: `python -m benchmarks.masks`.

For each shape: the engine's float32 masks of one site; filling a float32 tensor of that size; `bernoulli_` on one, as
torch's dropout does. Every call makes a tensor of its own, and every call of the engine's has a seed it has not seen.
Timed in turn, one thread (the masks never use more). Medians; ratios are what to quote.
"""

from __future__ import annotations

import itertools
import statistics
from math import prod

import numpy as np
import torch

from benchmarks.engine import machine, times_ms
from service.sampling.masks import Design, multipliers

P, TURNS = 0.3, 4
CASES: tuple[tuple[str, tuple[int, ...], int, int | None], ...] = (  # name, shape of a row's mask, samples, rows
    ("layer of 256", (256,), 50, None),
    ("100,000 units", (100_000,), 50, None),
    ("sequence", (64, 256), 50, None),
    ("attention, 8 heads", (8, 64, 64), 50, None),
    ("64 channels", (64, 1, 1), 50, None),
    ("layer of 256, independent", (256,), 50, 256),
    ("sequence, independent", (64, 256), 10, 32),
    ("attention, independent", (8, 64, 64), 10, 8),
)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{machine()}, p = {P}\n")
    print("| masks | shape | samples | rows | MiB | design | fill, ms | bernoulli_, ms | masks, ms | ns a number "
          "| masks / fill | bernoulli_ / masks |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    seeds = itertools.count()
    designs: tuple[Design, ...] = ("balanced", "iid")
    for (name, shape, samples, rows), design in itertools.product(CASES, designs):
        size = samples * (rows or 1) * prod(shape)
        places = None if rows is None else np.arange(rows)

        def fill(_: int, size: int = size) -> object:
            return torch.full((size,), 1.5)

        def bernoulli(_: int, size: int = size) -> object:
            return torch.empty(size).bernoulli_(1 - P)

        def ours(
            _: int, design: Design = design, shape: tuple[int, ...] = shape, samples: int = samples,
            places: np.ndarray | None = places,
        ) -> object:
            return multipliers(design, next(seeds), "site", P, shape, 0, samples, places)

        memory, torchs, masks = map(statistics.median, times_ms(TURNS, fill, bernoulli, ours))
        print(f"| {name} | {shape} | {samples} | {rows or 'shared'} | {size * 4 / 2**20:.1f} | {design} | {memory:.3f} "
              f"| {torchs:.3f} | {masks:.3f} | {masks * 1e6 / size:.2f} | {masks / memory:.1f} "
              f"| {torchs / masks:.1f} |", flush=True)


if __name__ == "__main__":
    main()
