"""Standard errors and entropies of samples that are all at hand, in one native call: small requests pay for steps.

The same figures as `moments` and `information` make from sums over blocks, within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from typing import NamedTuple

import torch
from torch import Tensor

from service import native
from service.statistics.blocks import MAX_SUPER_BLOCKS, MIN_JACKKNIFE_BLOCKS


class AtOnce(NamedTuple):
    """mean_se, std_se: (rows, columns), float64; None with too few blocks. of_classes: (6, rows), in the order of
    `Information`, of which the errors hold nothing with too few blocks; None where the columns are no classes."""

    mean_se: Tensor | None
    std_se: Tensor | None
    of_classes: Tensor | None


def statistics_at_once(
    values: Tensor, counts: Sequence[int], balanced: bool, classes: bool, mean: Tensor, std: Tensor
) -> AtOnce | None:
    """values: (samples, rows, columns), in blocks of `counts` samples; mean, std: theirs, (rows, columns), float64.
    None where the native library cannot."""
    samples, rows, columns = values.shape
    blocks, library = len(counts), native.library()
    if library is None or not native.reads(values) or columns > native.MOST_CLASSES or blocks > MAX_SUPER_BLOCKS:
        return None
    errors = torch.empty(2, rows, columns, dtype=torch.float64)
    wanted = native.Statistics(
        samples, rows, columns, counts[0], blocks, balanced, values.data_ptr(), mean.data_ptr(), std.data_ptr(), 0, 0,
        errors.data_ptr(), errors.data_ptr() + errors[0].nbytes, 0,
    )
    of_classes = None
    if classes:
        of_classes = torch.empty(6, rows, dtype=torch.float64)
        entropies, votes = entropies_and_votes(values, counts)
        wanted.entropies, wanted.votes = entropies.data_ptr(), votes.data_ptr()
        wanted.information = of_classes.data_ptr()
    if library.errorbar_statistics(byref(wanted), native.threads(values.numel())):
        raise MemoryError
    return AtOnce(
        errors[0] if not balanced or blocks > 1 else None, errors[1] if blocks >= MIN_JACKKNIFE_BLOCKS else None,
        of_classes)


def entropies_and_votes(probabilities: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of probabilities (samples, rows, classes) that the native library reads: sums of the samples' entropies over each
    block, (blocks, rows), and votes, (rows, classes)."""
    samples, rows, classes = probabilities.shape
    entropies = torch.empty(len(counts), rows, dtype=torch.float64)
    votes = torch.empty(rows, classes, dtype=torch.int64)
    wanted = native.Classes(
        samples, rows, classes, probabilities.data_ptr(), 0, counts[0], entropies.data_ptr(), votes.data_ptr()
    )
    library = native.library()
    assert library is not None
    library.errorbar_information(byref(wanted), native.threads(probabilities.numel()))
    return entropies, votes
