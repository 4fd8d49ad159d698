"""Mean and standard deviation over samples, with their Monte-Carlo standard errors, in one pass.

Sums are float64 and shifted by the first sample, so that a spread of 1e-6 around 100 keeps its digits and the square
of a spread of 1e-25 is not 0.
Definitions: var = mean(x²) - mean² + mean_se², which is unbiased under balanced and independent samples alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.statistics.blocks import MIN_JACKKNIFE_BLOCKS, BlockSums, jackknife, left_out, sizes


class Moments:
    """Running moments of values (samples, rows, columns). `balanced` says whether the samples of a block of ten
    depend on each other; then only differences between blocks tell of the error."""

    def __init__(self, balanced: bool) -> None:
        self._balanced = balanced
        self._blocks = BlockSums()
        self._shift: Tensor | None = None
        self.block_count = 0
        self.samples = 0

    def add(self, values: Tensor, counts: list[int]) -> None:
        """Takes the next samples: values (samples, rows, columns), cut into blocks of `counts` samples."""
        if self._shift is None:
            self._shift = values[0].double()
        centred = values - self._shift  # (samples, rows, columns), float64, as a difference before it is squared
        first = block_sums(centred, counts)
        second = block_sums(centred.square_(), counts)
        # squares of the blocks' own sums survive the merging into super-blocks
        self._blocks.add(counts, torch.stack([first, second, first.square()], 1))
        self.block_count += len(counts)
        self.samples += values.shape[0]

    def finish(self) -> FinishedMoments:
        counts, sums = self._blocks.stacked()
        n, b = self.samples, self.block_count
        first, second, squared = sums.sum(0).unbind(0)
        mean = first.div_(n)
        square = mean.square()
        variance = second.div_(n).sub_(square)  # biased
        mean_se2 = None
        if not self._balanced:
            variance.mul_(n / (n - 1))
            mean_se2 = variance.clamp_min(0).div_(n)
        elif b > 1:
            mean_se2 = squared.mul_(b / n**2).sub_(square).clamp_min_(0).div_(b - 1)
            variance.add_(mean_se2)
        else:
            variance.mul_(n / (n - 1))
        assert self._shift is not None
        return FinishedMoments(
            mean=mean.add_(self._shift),
            std=variance.clamp_min_(0).sqrt_(),
            mean_se2=mean_se2,
            se_df=None if mean_se2 is None else (b if self._balanced else n) - 1,
            per_block=(counts, sums),
            balanced=self._balanced,
            shift=self._shift,
        )


class FinishedMoments:
    """Moments of all samples: tensors (rows, columns), float64."""

    def __init__(
        self, mean: Tensor, std: Tensor, mean_se2: Tensor | None, se_df: int | None,
        per_block: tuple[list[int], Tensor], balanced: bool, shift: Tensor,
    ) -> None:
        self.mean, self.std, self.se_df = mean, std, se_df
        self._mean_se2, self._per_block, self._balanced, self._shift = mean_se2, per_block, balanced, shift

    def mean_se(self) -> Tensor | None:
        """Standard error of the mean; None with fewer than two blocks of balanced samples."""
        return None if self._mean_se2 is None else self._mean_se2.sqrt()

    def std_se(self) -> Tensor | None:
        """Standard error of the standard deviation itself (not of the variance), by delete-one-block jackknife;
        None with fewer than three blocks."""
        counts, _ = self._per_block
        if len(counts) < MIN_JACKKNIFE_BLOCKS:
            return None
        return jackknife(self.std, self.variances_left_out().sqrt(), counts)[1]

    def variances_left_out(self) -> Tensor:
        """Variances with one super-block left out at a time, of at least three: (blocks, rows, columns)."""
        counts, sums = self._per_block
        blocks = len(counts)
        first, second, _ = sums.unbind(1)
        size = sizes(counts, first)
        n = left_out(size)
        biased = left_out(second) / n - (left_out(first) / n).square()
        if self._balanced:
            means = first / size
            spread = left_out(means.square()) / (blocks - 1) - (left_out(means) / (blocks - 1)).square()
            variance = biased + spread.clamp_min(0) / (blocks - 2)
        else:
            variance = biased * n / (n - 1)
        return variance.clamp_min(0)

    def means_left_out(self) -> Tensor:
        """Means with one super-block left out at a time: (blocks, rows, columns)."""
        counts, sums = self._per_block
        first = sums[:, 0]
        return left_out(first) / left_out(sizes(counts, first)) + self._shift


def block_sums(values: Tensor, counts: list[int]) -> Tensor:
    """Sums over each block: (samples, …) to (blocks, …). All blocks but the last have the first one's size."""
    size, rest = counts[0], values.shape[1:]
    if counts[-1] == size:
        return values.view(len(counts), size, *rest).sum(1)
    whole = (len(counts) - 1) * size
    sums = values[:whole].view(len(counts) - 1, size, *rest).sum(1)
    return torch.cat([sums, values[whole:].sum(0, keepdim=True)])
