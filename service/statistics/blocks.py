"""Blocks of ten samples: what balanced masks make dependent within and independent between.

Every standard error rests on blocks. Means of blocks give the error of a mean; leaving one block out at a time (the
delete-one-block jackknife) gives the error of everything else. To keep memory flat the jackknife sees at most 64
super-blocks: when a 65th is complete, neighbours merge in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 10
MAX_SUPER_BLOCKS = 64
MIN_JACKKNIFE_BLOCKS = 3


class BlockSums:
    """Sums over blocks, as at most 64 super-blocks. Which blocks merge depends on their number alone, so an answer
    does not depend on how the samples came in. Kept in one tensor that grows by doubling: many small ones, made
    between large temporary ones, would split the heap and cost many times their size."""

    def __init__(self) -> None:
        self._width = 1  # blocks in a complete super-block
        self._counts: list[int] = []  # samples in each complete super-block
        self._sums: Tensor | None = None  # (capacity, …), filled up to len(self._counts)
        self._open: tuple[int, Tensor] | None = None
        self._open_blocks = 0

    def add(self, counts: Sequence[int], sums: Tensor) -> None:
        """Takes the next blocks. counts: samples in each; sums: (blocks, …), summed over samples."""
        room = MAX_SUPER_BLOCKS - len(self._counts) if self._width == 1 else 0
        if room >= len(counts):
            self._append(counts, sums)
            return
        for count, block in zip(counts, sums, strict=True):
            self._push(count, block)

    def _append(self, counts: Sequence[int], sums: Tensor) -> None:
        """Adds complete super-blocks at the end."""
        filled = len(self._counts)
        self._counts.extend(counts)
        if self._sums is None:
            self._sums = sums
            return
        if len(self._counts) > self._sums.shape[0]:
            capacity = min(2 * len(self._counts), MAX_SUPER_BLOCKS + 1)
            more = self._sums.new_zeros(capacity - self._sums.shape[0], *self._sums.shape[1:])
            self._sums = torch.cat([self._sums, more])
        self._sums[filled : len(self._counts)] = sums

    def _push(self, count: int, block: Tensor) -> None:
        if self._open is not None:
            before, kept = self._open
            count, block = before + count, kept + block
        self._open_blocks += 1
        if self._open_blocks < self._width:
            self._open = count, block
            return
        self._open, self._open_blocks = None, 0
        self._append([count], block.unsqueeze(0))
        if len(self._counts) > MAX_SUPER_BLOCKS:
            self._merge_pairs()

    def _merge_pairs(self) -> None:
        """65 become 32 of twice the width; the last one stays open."""
        assert self._sums is not None
        self._open = self._counts[-1], self._sums[MAX_SUPER_BLOCKS].clone()
        self._open_blocks = self._width
        self._counts = [a + b for a, b in zip(self._counts[0:-1:2], self._counts[1::2], strict=True)]
        self._sums[: MAX_SUPER_BLOCKS // 2] = self._sums[0:MAX_SUPER_BLOCKS:2] + self._sums[1:MAX_SUPER_BLOCKS:2]
        self._width *= 2

    def stacked(self) -> tuple[list[int], Tensor]:
        """Samples in each super-block, and the sums, (blocks, …). What is left over joins the last super-block."""
        assert self._sums is not None
        counts, sums = list(self._counts), self._sums[: len(self._counts)]
        if self._open is not None:
            left_count, left = self._open
            counts[-1] += left_count
            sums = torch.cat([sums[:-1], (sums[-1] + left).unsqueeze(0)])
        return counts, sums


def sizes(counts: Sequence[int], like: Tensor) -> Tensor:
    """Block sizes, float64, to be divided into sums of that many axes: (blocks, 1, …)."""
    return torch.tensor(counts, dtype=torch.float64, device=like.device).view(-1, *[1] * (like.dim() - 1))


def left_out(per_block: Tensor) -> Tensor:
    """Totals with one block left out at a time: (blocks, …) to (blocks, …)."""
    return per_block.sum(0, keepdim=True) - per_block


def jackknife(estimate: Tensor, without: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Bias-corrected estimate and standard error by delete-one-block jackknife, for blocks of any sizes.

    Args:    estimate: (rows, …) from all samples; without: (blocks, rows, …), the estimate with that block left out;
             counts: samples in each block.
    Returns: two tensors (rows, …).
    Source:  Busing, Meijer & van der Leeden 1999, "Delete-m jackknife for unequal m", Statistics and Computing 9.
    """
    blocks, n, size = len(counts), sum(counts), sizes(counts, without)
    share, ratio = size / n, n / size
    corrected = blocks * estimate - ((1 - share) * without).sum(0)
    pseudo = ratio * estimate - (ratio - 1) * without
    variance = ((pseudo - corrected) ** 2 / (ratio - 1)).mean(0)
    return corrected, variance.sqrt()
