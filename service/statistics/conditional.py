"""Moments where part of the averaging is done exactly instead of by sampling.

A sample then gives the mean M and the standard deviation S of its output over the last site's masks, both exact, in
place of one output. By the law of total variance the output's variance is that of M plus the mean of S²
(Rao-Blackwell: the sampling error is that of M and S² alone). With no other site there is nothing to sample.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from service.statistics.blocks import BLOCK, MIN_JACKKNIFE_BLOCKS, BlockSums, jackknife, left_out, sizes
from service.statistics.moments import FinishedMoments, Moments, block_sums


class ConditionalAccumulator:
    """Takes exact means and standard deviations given the sampled masks, as they come."""

    information = None
    draws = None

    def __init__(self, balanced: bool) -> None:
        self._means = Moments(balanced)
        self._variances = BlockSums()

    def add(self, values: Tensor) -> None:
        """values: (samples, rows, 2·columns): means, then standard deviations; whole blocks of 10 but for the last."""
        means, spreads = values.chunk(2, -1)
        samples = values.shape[0]
        counts = [BLOCK] * (samples // BLOCK)
        if samples % BLOCK:
            counts.append(samples % BLOCK)
        self._means.add(means, counts)
        self._variances.add(counts, block_sums(spreads.double().square_(), counts))

    @property
    def samples(self) -> int:
        return self._means.samples

    @cached_property
    def moments(self) -> ConditionalMoments:
        return ConditionalMoments(self._means.finish(), *self._variances.stacked())


class ConditionalMoments:
    """Moments of all samples: tensors (rows, columns), float64. std² = the unbiased variance of the means + the mean
    of the variances."""

    def __init__(self, means: FinishedMoments, counts: list[int], variances: Tensor) -> None:
        """variances: (blocks, rows, columns), summed over each block's samples."""
        self._means, self._counts, self._variances = means, counts, variances
        self.mean, self.se_df = means.mean, means.se_df
        self.std = (means.std.square() + variances.sum(0) / sum(counts)).sqrt()

    def mean_se(self) -> Tensor | None:
        """Standard error of the mean; None with fewer than two blocks of balanced samples."""
        return self._means.mean_se()

    def std_se(self) -> Tensor | None:
        """Standard error of the standard deviation itself, by delete-one-block jackknife; None with fewer than three
        blocks."""
        if len(self._counts) < MIN_JACKKNIFE_BLOCKS:
            return None
        within = left_out(self._variances) / left_out(sizes(self._counts, self._variances))
        without = (self._means.variances_left_out() + within).sqrt()
        return jackknife(self.std, without, self._counts)[1]


class ExactMoments:
    """Mean and standard deviation that no sampling went into, so that their standard errors are 0."""

    se_df = None

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def mean_se(self) -> Tensor:
        return torch.zeros_like(self.mean)

    def std_se(self) -> Tensor:
        return torch.zeros_like(self.std)


class ClosedForm:
    """Takes the exact mean and standard deviation of some rows."""

    information = None
    draws = None
    samples = 0

    def __init__(self) -> None:
        self._values: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """values: (1, rows, 2·columns): the means, then the standard deviations. Called once."""
        self._values = values[0].double()

    @cached_property
    def moments(self) -> ExactMoments:
        assert self._values is not None
        return ExactMoments(*self._values.chunk(2, -1))
