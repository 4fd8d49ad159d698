"""How the samples of some rows are run. Every kernel gives the same numbers, within rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from service.clock import Clock
from service.sampling.bank import Draw, SeedBank
from service.sampling.dense import DenseChain
from service.sampling.device import finish, warm_up_turns, working_set_bytes
from service.sampling.dithering import bfloat16_multipliers
from service.sampling.masks import dropped, multipliers
from service.sampling.sites import Site
from service.sampling.split import Split
from service.statistics import BLOCK

_TRIED_ROWS = (1, 4, 8, 16, 32, 64, 128)
USUAL_SAMPLES = 50
_TRIES, _PATIENCE_SECONDS = 7, 0.3

Places = np.ndarray | None  # of rows in their request, where each has masks of its own


class Kernel(Protocol):
    """name: for people. split: what it runs. rows: that run together at most. bytes_per_sample: of what it makes of one
    sample's masks, shared by all rows. working_set_bytes: of the activations of rows and samples that run together.
    per_row_masks: whether rows may have masks of their own. rows_apart: whether each row is computed by itself, so that
    rows cost the same with the masks of one seed as with those of several. normalised: whether a classifier's outputs
    are given as probabilities already. held: weights that it keeps beside those of its split."""

    name: str
    per_row_masks: bool
    rows_apart: bool
    normalised: bool
    split: Split
    rows: int
    bytes_per_sample: int
    working_set_bytes: int

    @property
    def held(self) -> Sequence[Tensor]: ...

    def drawn(self, draw: Draw, places: Places) -> list[Tensor]:
        """What `run` needs of some samples' masks. places: (rows,), or None for masks that all rows share."""

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        """values: what the split's prefix gives for the rows; drawn: of `drawn`. Returns the outputs, (samples, rows,
        …)."""


class Folded:
    """Samples × rows as one batch through the suffix, multiplied by masks. Fits every network."""

    name = "folded"
    per_row_masks, rows_apart, normalised = True, False, False
    _purpose = "folded"  # of what the bank keeps for it

    def __init__(
        self, split: Split, sites: Sequence[Site], bank: SeedBank, device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """sites: the active ones, in the order of split.masks. dtype: of the masks."""
        self._multipliers = bfloat16_multipliers if dtype is torch.bfloat16 else multipliers
        self.split, self._sites, self._bank, self._device = split, sites, bank, device
        self.working_set_bytes = working_set_bytes(device)
        self.rows = max(1, self.working_set_bytes // (split.suffix_width * 4 * BLOCK))
        self.bytes_per_sample = sum(4 * prod(site.mask_shape) for site in sites)

    @property
    def held(self) -> Sequence[Tensor]:
        return ()

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        output: Tensor = self.split.suffix.forward(samples, samples * rows, *drawn, *values)
        return output.view(samples, rows, *output.shape[1:])

    def drawn(self, draw: Draw, places: Places) -> list[Tensor]:
        """One tensor a site, (samples, rows or 1, *mask_shape)."""
        if places is not None:
            return [self._made(site, draw, places) for site in self._sites]
        return self._bank.get(self._purpose, draw, lambda d: [self._made(s, d, None).unsqueeze(1) for s in self._sites])

    def _made(self, site: Site, draw: Draw, places: Places) -> Tensor:
        return self._multipliers(draw.design, draw.seed, site.name, site.p, site.mask_shape, draw.first, draw.samples,
                                 places, self._device, site.scale)


class FoldedChain(Folded):
    """`Folded` for chains of linear layers: fewer steps, and a layout in which classes are quick to normalise."""

    def __init__(
        self, chain: DenseChain, split: Split, sites: Sequence[Site], bank: SeedBank, device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(split, sites, bank, device, dtype)
        self._chain = chain

    @property
    def held(self) -> Sequence[Tensor]:
        return self._chain.held

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        (value,) = values
        return self._chain.run_masked(value, drawn)


class Thinned:
    """Each sample as the smaller network that its mask leaves. For chains of linear layers and shared masks."""

    name = "thinned"
    per_row_masks, rows_apart, normalised = False, False, False
    rows = 128
    working_set_bytes = 4 << 20  # on a CPU

    def __init__(self, chain: DenseChain, split: Split, sites: Sequence[Site], bank: SeedBank) -> None:
        """sites: the active ones, in the order of the chain."""
        self.working_set_bytes = max(self.working_set_bytes, working_set_bytes(chain.device))
        self._chain, self.split, self._sites, self._bank = chain, split, sites, bank
        self.bytes_per_sample = chain.bytes_per_sample

    @property
    def held(self) -> Sequence[Tensor]:
        return self._chain.held

    def drawn(self, draw: Draw, places: Places) -> list[Tensor]:
        assert places is None
        return self._bank.get(self.name, draw, self._made)

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        (value,) = values
        return self._chain.run_thinned(value, drawn)

    def _made(self, draw: Draw) -> list[Tensor]:
        return self._chain.thinned(self._bits(draw))

    def _bits(self, draw: Draw) -> list[np.ndarray]:
        return [_bits(site, draw) for site in self._sites]


class Stacked(Thinned):
    """As `Thinned`, but the first layers of all samples are one matrix product."""

    name = "stacked"
    working_set_bytes = 8 << 20

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        (value,) = values
        return self._chain.run_stacked(value, samples, drawn)

    def _made(self, draw: Draw) -> list[Tensor]:
        return self._chain.stacked(self._bits(draw))


def tiles(rows: int, most: int) -> list[range]:
    """Rows in parts of at most that many, as even as can be."""
    tile = -(-rows // -(-rows // most))
    return [range(start, min(start + tile, rows)) for start in range(0, rows, tile)]


def _bits(site: Site, draw: Draw) -> np.ndarray:
    return dropped(draw.design, draw.seed, site.name, site.p, site.mask_shape, draw.first, draw.samples)


def fastest_from(
    kernels: Sequence[Kernel], read: Callable[[Kernel, int], Sequence[Tensor]],
    chunk: Callable[[Kernel, int, bool], int], clock: Clock,
) -> list[Timing]:
    """Times the kernels at a few numbers of rows, ascending. The fastest at each serves from there on.

    read: by kernel and rows, what the prefix gives it; chunk: samples that run at once, by kernel, rows and whether
    rows have masks of their own. More rows than any kernel runs together are run in parts, so they are not tried.
    """
    most = max(kernel.rows for kernel in kernels)
    return [
        Timing(rows, list(kernels), _seconds(kernels, rows, read, chunk, clock)) for rows in _TRIED_ROWS
        if rows <= most or rows == _TRIED_ROWS[0]
    ]


@dataclass(frozen=True)
class Timing:
    """seconds: of a sample of so many rows, by kernel; what the prefix costs is spread over the usual 50 samples."""

    rows: int
    kernels: list[Kernel]
    seconds: list[float]

    @property
    def fastest(self) -> Kernel:
        return self.kernels[self.seconds.index(min(self.seconds))]


def _seconds(
    kernels: Sequence[Kernel], rows: int, read: Callable[[Kernel, int], Sequence[Tensor]],
    chunk: Callable[[Kernel, int, bool], int], clock: Clock,
) -> list[float]:
    """Each kernel's time a sample: the shortest of a few turns, for what else the machine does only adds to it."""
    draws = [Draw("balanced", 0, 0, n, n) for n in (min(chunk(k, rows, False), USUAL_SAMPLES) for k in kernels)]

    def seconds(kernel: Kernel, draw: Draw) -> float:
        started = clock.now()
        values = read(kernel, rows)
        finish(values[0].device)
        made = clock.now()
        kernel.run(values, rows, draw.samples, kernel.drawn(draw, None))
        finish(values[0].device)
        return (made - started) / USUAL_SAMPLES + (clock.now() - made) / draw.samples

    for _ in range(warm_up_turns(read(kernels[0], rows)[0].device)):
        for kernel, draw in zip(kernels, draws, strict=True):
            seconds(kernel, draw)
    turns: list[list[float]] = []
    while len(turns) < _TRIES and sum(map(sum, turns)) * USUAL_SAMPLES < _PATIENCE_SECONDS:
        turns.append([seconds(kernel, draw) for kernel, draw in zip(kernels, draws, strict=True)])
    return [min(times) for times in zip(*(turns[1:] or turns), strict=True)]
