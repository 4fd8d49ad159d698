"""The answer of a request whose rows rest on different numbers of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from service.statistics.blocks import BLOCK
from service.statistics.settling import ABOVE
from service.statistics.summary import Accumulator, Side, StopReason, Task, Uncertainty

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

    Where a figure exists for some rows only (a standard error needs three blocks of ten), the others hold NaN.
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
        self._samples, self._reason = samples, reason
        self.samples_per_row = torch.cat([group.counts for group in groups])
        self._early = torch.cat([group.early for group in groups]).tolist()
        self._sides = torch.cat([group.sides for group in groups]).tolist()

    @property
    def samples(self) -> int:
        """The most samples that a row could have; see `samples_per_row`."""
        return self._samples

    @property
    def stopped(self) -> list[StopReason]:
        return [self._reason if early else "samples" for early in self._early]

    @property
    def settled(self) -> list[Side | None]:
        return [None if not side else "above" if side == ABOVE else "below" for side in self._sides]

    @property
    def after_stopping(self) -> list[bool]:
        return list(self._early)

    @property
    def se_df(self) -> int | None:
        """None where rows differ: it is `samples_per_row` - 1."""
        counts = set(self.samples_per_row.tolist())
        return counts.pop() - 1 if len(counts) == 1 else None

    @cached_property
    def draws(self) -> Tensor | None:
        """(rows, samples, *shape), float32, NaN beyond the samples of a row."""
        if self._parts[0].draws is None:
            return None
        padded = [
            torch.nn.functional.pad(part.draws, (0, 0, 0, self.samples - part.samples), value=torch.nan)
            for part in self._parts if part.draws is not None
        ]
        return torch.cat(padded)[self._order].reshape(-1, self.samples, *self._shape)

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        parts = [Uncertainty([part], self._shape).quantiles(levels) for part in self._parts]
        return torch.cat(parts)[self._order]

    def _shaped(self, parts: Sequence[Tensor]) -> Tensor:
        return super()._shaped([torch.cat(list(parts))[self._order]])

    def _shaped_or_none(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        whole = self._in_order(parts)
        return None if whole is None else super()._shaped([whole])

    def _information_or_none(self, name: str) -> Tensor | None:
        if self._parts[0].information is None:
            raise ValueError(f"{name} is for classification and multilabel models")
        return self._in_order([getattr(part.information, name) for part in self._parts])

    def _in_order(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        """One figure of all rows; NaN where a part has none, None where no part has any."""
        present = next((part for part in parts if part is not None), None)
        if present is None:
            return None
        whole = [
            found if found is not None else present.new_full((len(part.moments.mean), *present.shape[1:]), torch.nan)
            for found, part in zip(parts, self._parts, strict=True)
        ]
        return torch.cat(whole)[self._order]
