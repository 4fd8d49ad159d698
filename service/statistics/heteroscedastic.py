"""Regression whose noise differs between rows, because the network has a noise head.

A sample then gives a location and a noise for each target. By the law of total variance the target's variance is that
of the locations over the samples plus the mean over the samples of the noise's variance. Averaging both and reporting
one distribution would throw the first part away.
Source: Kendall & Gal 2017, arXiv 1703.04977, equation 9.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from service.statistics.summary import Accumulator, Uncertainty

NoiseHead = Literal["log_variance", "std"]


class NoisyAccumulator(Accumulator):
    """As `Accumulator`, of samples with two numbers for each target: statistics and draws are those of the location."""

    def __init__(self, head: NoiseHead, balanced: bool, keep: bool = False) -> None:
        """head: what the second number is: the natural logarithm of the noise's variance, or its standard deviation."""
        super().__init__("regression", balanced, keep)
        self._head = head
        self._sum: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """values: (samples, rows, 2·targets): all locations, then all noises."""
        locations, noise = values.chunk(2, -1)
        super().add(locations.contiguous())
        noise = noise.double()
        variance = noise.exp() if self._head == "log_variance" else torch.where(noise < 0, torch.nan, noise).square()
        total = variance.sum(0)
        self._sum = total if self._sum is None else self._sum + total

    @property
    def noise_variance(self) -> Tensor:
        """Mean over the samples, (rows, targets), float64; not finite where a sample's is not, NaN where a standard
        deviation is negative."""
        assert self._sum is not None
        return self._sum / self.samples


class NoisyUncertainty(Uncertainty):
    """As `Uncertainty`, with the noise of each row's targets."""

    _parts: list[NoisyAccumulator]

    @cached_property
    def noise_std(self) -> Tensor:
        return self._shaped([part.noise_variance for part in self._parts]).sqrt()
