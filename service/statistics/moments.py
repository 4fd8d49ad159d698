"""Mean and standard deviation over samples, with their Monte-Carlo standard errors, in one pass.

Sums are float64 and shifted by the first sample, so that a spread of 1e-6 around 100 keeps its digits and the square
of a spread of 1e-25 is not 0.
Definitions: var = mean(x²) - mean² + mean_se², which is unbiased under balanced and independent samples alike.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from service import native
from service.statistics.at_once import AtOnce, statistics_at_once
from service.statistics.blocks import MIN_JACKKNIFE_BLOCKS, BlockSums, jackknife, left_out, sizes

_PerBlock = tuple[list[int], Tensor]  # samples in each block; its sums, (blocks, 3, …), in the order of the totals


class Moments:
    """Running moments of values (samples, rows, columns). `balanced` says whether the samples of a block of ten
    depend on each other; then only differences between blocks tell of the error. classes: whether columns are the
    probabilities of classes."""

    def __init__(self, balanced: bool, classes: bool = False) -> None:
        self._balanced, self._classes = balanced, classes
        self._sums = BlockSums()
        self._last: tuple[Tensor, list[int]] | None = None  # the latest samples, not yet in the sums
        self._shift: Tensor | None = None
        self._layout = _Layout(1, 1, False)
        self.block_count = 0
        self.samples = 0

    def add(self, values: Tensor, counts: list[int]) -> None:
        """Takes the next samples: values (samples, rows, columns), cut into blocks of `counts` samples."""
        samples, rows, columns = values.shape
        self._sum_last()
        if not self.samples:  # as the kernel leaves them: every sum runs along one long axis
            self._layout = _Layout(rows, columns, rows > 1 and not values.is_contiguous())
        self._last = (values.mT if self._layout.rows_inner else values).reshape(samples, rows * columns), counts
        self.block_count += len(counts)
        self.samples += samples

    def _sum_last(self) -> None:
        if self._last is not None:
            values, counts = self._last
            if self._shift is None:
                self._shift = values[0].double()
            self._sums.add(counts, _per_block(values, counts, self._shift))
            self._last = None

    def _stacked(self) -> _PerBlock:
        self._sum_last()
        return self._sums.stacked()

    def finish(self) -> FinishedMoments:
        """What all samples say."""
        n, blocks = self.samples, self.block_count if self._balanced else None
        values, counts = self._last or (None, [])
        at_once: Callable[[], AtOnce | None] | None = None
        if values is not None and len(values) == n and (blocks is None or counts[0] == counts[-1]):
            # the blocks' sums wait until somebody asks for them
            mean, std = _natively(values, blocks or 1) or _at_once(values, blocks or 1)
            if not self._layout.rows_inner:
                given = values.view(n, self._layout.rows, self._layout.columns)
                at_once = partial(statistics_at_once, given, counts, self._balanced, self._classes, mean, std)
        else:
            mean, std = _from_totals(self._stacked()[1].sum(0), n, blocks)
            mean = mean if self._shift is None else mean + self._shift
        return FinishedMoments(mean, std, self._stacked, n, blocks, self._layout, at_once)


class _Layout(NamedTuple):
    """How rows and columns lie in one axis."""

    rows: int
    columns: int
    rows_inner: bool

    def by_row(self, flat: Tensor) -> Tensor:
        """(…, rows·columns) to (…, rows, columns)."""
        if self.rows_inner:
            return flat.unflatten(-1, (self.columns, self.rows)).mT
        return flat.unsqueeze(-2) if self.rows == 1 else flat.unflatten(-1, (self.rows, self.columns))


class FinishedMoments:
    """Moments of all samples: tensors (rows, columns), float64."""

    def __init__(
        self, mean: Tensor, std: Tensor, per_block: Callable[[], _PerBlock], samples: int, blocks: int | None,
        layout: _Layout, at_once: Callable[[], AtOnce | None] | None = None,
    ) -> None:
        """mean, std: (rows·columns,), in that layout. blocks: None for independent samples. at_once: makes what else
        there is to know in one step, where that can be."""
        self._make_at_once = at_once
        self._per_block, self._samples, self._blocks, self._by_row = per_block, samples, blocks, layout.by_row
        self.mean = self._by_row(mean)
        self.std = self._by_row(std)

    @property
    def se_df(self) -> int | None:
        """Degrees of freedom of `mean_se`; None where there is none."""
        if self._blocks is None:
            return self._samples - 1
        return self._blocks - 1 if self._blocks > 1 else None

    @cached_property
    def at_once(self) -> AtOnce | None:
        return None if self._make_at_once is None else self._make_at_once()

    def mean_se(self) -> Tensor | None:
        """Standard error of the mean; None with fewer than two blocks of balanced samples."""
        if self.at_once is not None:
            return self.at_once.mean_se
        if self._blocks is None:
            return self.std / self._samples**0.5
        if self._blocks < 2:
            return None
        first, _, squared = self._per_block()[1].sum(0).unbind(0)
        variance = (self._blocks * squared - first.square()).clamp_min(0) / (self._samples**2 * (self._blocks - 1))
        return self._by_row(variance.sqrt())

    def std_se(self) -> Tensor | None:
        """Standard error of the standard deviation itself (not of the variance), by delete-one-block jackknife;
        None with fewer than three blocks."""
        if self.at_once is not None:
            return self.at_once.std_se
        counts, _ = self._per_block()
        if len(counts) < MIN_JACKKNIFE_BLOCKS:
            return None
        return jackknife(self.std, self.variances_left_out().sqrt(), counts)[1]

    def variances_left_out(self) -> Tensor:
        """Variances with one super-block left out at a time, of at least three: (blocks, rows, columns)."""
        counts, sums = self._per_block()
        blocks = len(counts)
        first, second, _ = sums.unbind(1)
        size = sizes(counts, first)
        n = left_out(size)
        biased = left_out(second) / n - (left_out(first) / n).square()
        if self._blocks is not None:
            means = first / size
            spread = left_out(means.square()) / (blocks - 1) - (left_out(means) / (blocks - 1)).square()
            variance = biased + spread.clamp_min(0) / (blocks - 2)
        else:
            variance = biased * n / (n - 1)
        return self._by_row(variance.clamp_min(0))

    def means_left_out(self) -> Tensor:
        """Means with one super-block left out at a time: (blocks, rows, columns)."""
        counts, sums = self._per_block()
        first = self._by_row(sums[:, 0])
        return self.mean + (left_out(first) / left_out(sizes(counts, first)) - first.sum(0) / sum(counts))


def _from_totals(totals: Tensor, n: int, blocks: int | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the shifted values of n samples. totals: of `_per_block`, summed over blocks."""
    first, second, squared = totals.unbind(0)
    if blocks is None or blocks == 1:
        variance = torch.addcmul(second, first, first, value=-1 / n) / (n - 1)
    else:  # mean(x²) - mean² + mean_se²
        between = torch.addcmul(squared, first, first, value=-1)
        variance = torch.add(second / n, between, alpha=blocks / (n * n * (blocks - 1)))
    return first / n, variance.clamp_min_(0).sqrt_()


def _natively(values: Tensor, blocks: int) -> tuple[Tensor, Tensor] | None:
    """As `_at_once`; None where the native library is not there or does not read such values."""
    values, library = values.contiguous(), native.library()
    if library is None or not native.reads(values):
        return None
    samples, columns = values.shape
    mean = torch.empty(columns, dtype=torch.float64)
    std = torch.empty_like(mean)
    wanted = native.Moments(
        samples, columns, blocks if blocks > 1 else 0, values.data_ptr(), mean.data_ptr(), std.data_ptr()
    )
    library.errorbar_moments(byref(wanted), native.threads(values.numel()))
    return mean, std


def _at_once(values: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of values (samples, columns·rows) in the fewest steps: small requests
    pay for steps rather than for arithmetic."""
    sums, weights, share = _sums_and_weights(values.shape[0], blocks, values.device)
    exact = values.double()  # before anything is squared
    shift = exact[0]
    centred = exact - shift
    found = sums @ centred
    mean = found[0] + shift
    return mean, torch.addmv(centred.square_().sum(0), found.square_().T, weights, beta=share).clamp_min_(0).sqrt_()


@lru_cache(maxsize=64)
def _sums_and_weights(n: int, blocks: int, device: torch.device) -> tuple[Tensor, Tensor, float]:
    """Constants of the variance, share·Σ x² + weights·(sums @ x)²: sums, whose first row gives the mean and the others
    the blocks' sums, weights and share."""
    mean = torch.full((1, n), 1 / n, dtype=torch.float64)
    if blocks == 1:
        return mean.to(device), torch.tensor([-n / (n - 1)], dtype=torch.float64, device=device), 1 / (n - 1)
    by_block = torch.eye(blocks, dtype=torch.float64).repeat_interleave(n // blocks, 1)
    k = blocks / (n * n * (blocks - 1))
    weights = torch.tensor([-k * n * n] + [k] * blocks, dtype=torch.float64, device=device)
    return torch.cat([mean, by_block]).to(device), weights, 1 / n


def _per_block(values: Tensor, counts: list[int], shift: Tensor) -> Tensor:
    """Sums of shifted values (samples, …), of their squares, and squares of the first: (blocks, 3, …). The last ones
    survive the merging into super-blocks."""
    centred = values.double() - shift
    first = block_sums(centred, counts)
    return torch.stack([first, block_sums(centred.square_(), counts), first.square()], 1)


def block_sums(values: Tensor, counts: list[int]) -> Tensor:
    """Sums over each block: (samples, …) to (blocks, …). All blocks but the last have the first one's size."""
    size, rest = counts[0], values.shape[1:]
    if counts[-1] == size:
        return values.view(len(counts), size, *rest).sum(1)
    whole = (len(counts) - 1) * size
    sums = values[:whole].view(len(counts) - 1, size, *rest).sum(1)
    return torch.cat([sums, values[whole:].sum(0, keepdim=True)])
