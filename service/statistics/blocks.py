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
    does not depend on how the samples came in."""

    def __init__(self) -> None:
        self._width = 1  # blocks in a complete super-block
        self._complete: list[tuple[int, list[Tensor]]] = []
        self._open: tuple[int, list[Tensor]] | None = None
        self._open_blocks = 0

    def add(self, counts: Sequence[int], sums: Sequence[Tensor]) -> None:
        """Takes the next blocks. counts: samples in each; sums: tensors (blocks, rows, …), summed over samples."""
        columns = [s.unbind(0) for s in sums]
        for i, count in enumerate(counts):
            self._push(count, [column[i] for column in columns])

    def _push(self, count: int, sums: list[Tensor]) -> None:
        self._open = (count, sums) if self._open is None else _merged(self._open, (count, sums))
        self._open_blocks += 1
        if self._open_blocks < self._width:
            return
        self._complete.append(self._open)
        self._open, self._open_blocks = None, 0
        if len(self._complete) > MAX_SUPER_BLOCKS:
            pairs = zip(self._complete[0::2], self._complete[1::2], strict=False)
            self._open, self._open_blocks = self._complete[-1], self._width  # 65 is odd: the last one stays open
            self._complete = [_merged(a, b) for a, b in pairs]
            self._width *= 2

    def stacked(self) -> tuple[Tensor, list[Tensor]]:
        """Samples in each super-block, (blocks,), float64, and the sums, each (blocks, rows, …). What is left over
        joins the last super-block."""
        blocks = list(self._complete)
        if self._open is not None:
            blocks = [*blocks[:-1], _merged(blocks[-1], self._open)] if blocks else [self._open]
        first = blocks[0][1]
        counts = torch.tensor([n for n, _ in blocks], dtype=torch.float64, device=first[0].device)
        return counts, [torch.stack([sums[k] for _, sums in blocks]) for k in range(len(first))]


def _merged(a: tuple[int, list[Tensor]], b: tuple[int, list[Tensor]]) -> tuple[int, list[Tensor]]:
    return a[0] + b[0], [x + y for x, y in zip(a[1], b[1], strict=True)]


def left_out(per_block: Tensor) -> Tensor:
    """Totals with one block left out at a time: (blocks, …) to (blocks, …)."""
    return per_block.sum(0, keepdim=True) - per_block


def jackknife(estimate: Tensor, without: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Bias-corrected estimate and standard error by delete-one-block jackknife, for blocks of any sizes.

    Args:    estimate: (rows, …) from all samples; without: (blocks, rows, …), the estimate with that block left out;
             counts: (blocks,), samples in each block.
    Returns: two tensors (rows, …).
    Source:  Busing, Meijer & van der Leeden 1999, "Delete-m jackknife for unequal m", Statistics and Computing 9.
    """
    blocks = len(counts)
    n = counts.sum()
    shape = (blocks, *[1] * estimate.dim())
    share, ratio = (counts / n).view(shape), (n / counts).view(shape)
    corrected = blocks * estimate - ((1 - share) * without).sum(0)
    pseudo = ratio * estimate - (ratio - 1) * without
    variance = ((pseudo - corrected) ** 2 / (ratio - 1)).mean(0)
    return corrected, variance.sqrt()
