"""The answer of a request whose rows rest on different numbers of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from service.statistics.blocks import BLOCK
from service.statistics.settling import ABOVE
from service.statistics.summary import Accumulator, Side, StopReason, T, Task, Uncertainty

_SAMPLES_AT_ONCE = 50 * BLOCK


@dataclass(frozen=True)
class StoppedRows:
    """What became of some rows. counts: samples that each rests on; early: which of them settled; sides: ABOVE, BELOW
    or 0; all (rows,). parts: rows that rest on equally many samples together, as their places and their sums."""

    counts: Tensor
    early: Tensor
    sides: Tensor
    parts: list[tuple[Tensor, Accumulator]]

    @staticmethod
    def of(seen: Tensor, counts: Tensor, early: Tensor, sides: Tensor, task: Task, keep: bool) -> StoppedRows:
        """seen: (samples, rows, columns), of which each row's first `counts` are its own."""
        parts = []
        for count in counts.unique().tolist():
            places = (counts == count).nonzero().flatten()
            accumulator = Accumulator(task, balanced=False, keep=keep)
            for start in range(0, count, _SAMPLES_AT_ONCE):
                some = seen[start : min(start + _SAMPLES_AT_ONCE, count)]
                accumulator.add(some.index_select(1, places))
            _ = accumulator.information  # summed now: what waits for it would hold the samples
            parts.append((places, accumulator))
        return StoppedRows(counts, early, sides, parts)


class StoppedUncertainty(Uncertainty):
    """As `Uncertainty`, with statistics of each row's own samples: a row that stopped after n has the numbers of an
    `iid` request of n samples.

    """

    def __init__(
        self, groups: Sequence[StoppedRows], shape: Sequence[int], samples: int, reason: StopReason
    ) -> None:
        """samples: the most that a row could have; reason: why a row that settled was stopped."""
        places, parts, first = [], [], 0
        for group in groups:
            for where, part in group.parts:
                places.append(where + first)
                parts.append(part)
            first += len(group.counts)
        super().__init__(parts, shape)
        self._order = torch.cat(places).argsort()
        self._most, self._reason = samples, reason
        self.samples_per_row = torch.cat([group.counts for group in groups])
        self._early = torch.cat([group.early for group in groups]).tolist()
        self._sides = torch.cat([group.sides for group in groups]).tolist()

    @property
    def samples(self) -> int:
        """The most samples that a row could have; see `samples_per_row`."""
        return self._most

    @property
    def stopped(self) -> list[StopReason]:
        return [
            self._reason if early else "samples" if count == self._most else "deadline"
            for early, count in zip(self._early, self.samples_per_row.tolist(), strict=True)
        ]

    @property
    def settled(self) -> list[Side | None]:
        return [None if not side else "above" if side == ABOVE else "below" for side in self._sides]

    @property
    def after_stopping(self) -> list[bool]:
        return list(self._early)

    @cached_property
    def draws(self) -> Tensor | None:
        draws = super().draws
        return None if draws is None else draws[self._order]

    def _of_rows(self, of_parts: Sequence[T]) -> list[T]:
        by_part = super()._of_rows(of_parts)
        return [by_part[place] for place in self._order.tolist()]

    def _in_order(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        whole = super()._in_order(parts)
        return None if whole is None else whole[self._order]
