"""What runs once on the rows, and what runs for every sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from service.sampling.layouts import Layout


@dataclass(frozen=True)
class Split:
    """A computation cut in two: a kernel runs the suffix on what the prefix gives.

    prefix: inputs to the list of values that the suffix reads.
    prefix_layouts: where each of these values has its rows; None where it has none.
    prefix_width: numbers in all of them, for one row.
    suffix: (samples, rows, masks, values of the prefix) to what the kernel makes its output of, for samples·rows.
    suffix_width: numbers in the largest value of the suffix, for one row and one sample.
    masks: names of the sites whose masks the suffix takes, in that order.
    """

    prefix: nn.Module
    prefix_layouts: Sequence[Layout | None]
    prefix_width: int
    suffix: nn.Module
    suffix_width: int
    masks: Sequence[str]
