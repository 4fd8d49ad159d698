"""When a row has been sampled enough. A watch sees the samples of rows as they come and says at which it settled.

Rows are known by their place among the rows that started together; those that settled are not shown again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from operator import itemgetter
from typing import Protocol

import torch
from torch import Tensor

from service.statistics.blocks import BLOCK
from service.statistics.confidence import STAKES, least_samples, log_wealth, log_wealth_bounds, mixed

TOLERANCE_ERROR = 0.05  # of a mean's two sides together
MIN_SAMPLES = 2  # fewer have no standard deviation
ABOVE, BELOW = 1, -1

_ROUNDING = 1e-6  # of a logarithm: bounds nearer than this to the limit are not trusted
_NUMBERS_AT_ONCE = 1 << 20


class Watch(Protocol):
    """least: no row settles above, or within its tolerance, before so many samples."""

    least: int

    def look(self, seen: Tensor, start: int, stop: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Looks at samples start … stop - 1 of `rows`, and after each at all before it.

        seen: (at least `stop`, rows at the start, columns); start: a multiple of 10, where the last look stopped;
        rows: places, (rows,). Returns two tensors (rows,): after how many samples each settled, 0 where it has not;
        and ABOVE, BELOW, or 0 where the watch knows no sides.
        """


class DecisionWatch:
    """Whether the true mean of one column a row is above a limit, with either answer wrong with probability at most
    `error`. Looks after every sample."""

    def __init__(self, above: float, error: float, columns: Tensor) -> None:
        """columns: of each row, (rows,), int64."""
        self._above, self._wanted, self._columns = above, -log(error), columns
        self._bets = torch.zeros(2, len(STAKES), len(columns), dtype=torch.float64, device=columns.device)
        self.least = least_for_decision(above, error)

    def look(self, seen: Tensor, start: int, stop: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        x = seen[start:stop, rows, self._columns[rows]].double().clamp(0, 1)
        up, down = x / self._above - 1, (self._above - x) / (1 - self._above)
        steps = torch.stack([torch.stack([torch.log1p(stake * side) for stake in STAKES]) for side in (up, down)])
        before = self._bets[..., rows].unsqueeze(2)
        bets = torch.cat([before, steps], 2).cumsum(2)[:, :, 1:]  # one sum in the order of the samples, however cut
        self._bets[..., rows] = bets[:, :, -1]
        reached = mixed(bets.transpose(0, 1)) >= self._wanted  # (2, samples, rows)
        if start + 1 < MIN_SAMPLES:
            reached[:, : MIN_SAMPLES - 1 - start] = False
        either = reached.any(0)
        first = either.to(torch.uint8).argmax(0)
        settled = either.any(0)
        above = reached[0].gather(0, first.unsqueeze(0)).squeeze(0)
        side = torch.where(above, ABOVE, BELOW)
        return torch.where(settled, start + 1 + first, 0), torch.where(settled, side, 0)


class ToleranceWatch:
    """Whether every column's mean is known to ± `tolerance`, each with probability 0.95 at any time. Looks at every
    10th sample, more seldom beyond 1,000, and at the last: validity does not depend on when one looks, and a look costs
    more than a sample.

    The limits move with the mean, so an exact look goes through all samples of a row again. Bounds from moments decide
    most looks without.
    """

    def __init__(self, tolerance: float, rows: int, columns: int, samples: int, device: torch.device) -> None:
        """samples: the most there will be."""
        self._tolerance, self._samples = tolerance, samples
        self._wanted = -log(TOLERANCE_ERROR / 2)
        self._sums = torch.zeros(2, rows, columns, dtype=torch.float64, device=device)  # of x and x², from the shift
        self._ranges = torch.full((2, rows, columns), -torch.inf, dtype=torch.float64, device=device)  # -low, high
        self.least = least_samples(tolerance / (0.5 - tolerance), self._wanted)  # a mean of 1/2 is the quickest

    def look(self, seen: Tensor, start: int, stop: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        ends = [min(n, stop) for n in range(start + BLOCK, stop + BLOCK, BLOCK)]
        moments = self._moments(seen, start, stop, rows, ends)
        widest = moments.variance.argmax(2, keepdim=True)  # most rows that are not settled fail there
        most = self._sides(moments.each(lambda values: values.gather(2, widest))).most
        possible = (most >= self._wanted - _ROUNDING).all(3).all(0)  # (looks, rows)
        settled = torch.zeros(len(rows), dtype=torch.int64, device=seen.device)
        for i, end in enumerate(ends):
            if end < self._samples and (end < self.least or end % look_every(end)):
                continue
            here = (possible[i] & (settled == 0)).nonzero().flatten()
            if len(here):
                sides = self._sides(moments.each(itemgetter((i, here))))
                settled[here[self._met(seen[:end], rows[here], sides)]] = end
        return settled, torch.zeros_like(settled)

    def _moments(self, seen: Tensor, start: int, stop: int, rows: Tensor, ends: list[int]) -> _Moments:
        """Of all samples before each of `ends`. Sums are kept for the next look."""
        x = seen[start:stop, rows].double().clamp(0, 1)
        shift = seen[0, rows].double().clamp(0, 1)
        centred = x - shift  # equal samples have variance 0 exactly
        parts = [torch.stack([part.sum(0), part.square().sum(0)]) for part in centred.split(BLOCK)]
        ranges = [torch.stack([(-part).amax(0), part.amax(0)]) for part in x.split(BLOCK)]
        sums = torch.stack([self._sums[:, rows], *parts]).cumsum(0)[1:]
        extremes = torch.stack([self._ranges[:, rows], *ranges]).cummax(0).values[1:]
        self._sums[:, rows], self._ranges[:, rows] = sums[-1], extremes[-1]
        n = torch.tensor(ends, dtype=torch.float64, device=seen.device).view(-1, 1, 1).expand_as(sums[:, 0])
        offset = sums[:, 0] / n
        variance = (sums[:, 1] / n - offset.square()).clamp_min(0)
        return _Moments(n, shift + offset, variance, -extremes[:, 0], extremes[:, 1])

    def _sides(self, m: _Moments) -> _Sides:
        mean = torch.stack([m.mean, 1 - m.mean])  # from above, a mean of x is one of 1 - x from below
        low, high = torch.stack([m.low, 1 - m.high]), torch.stack([m.high, 1 - m.low])
        at = mean - self._tolerance
        inside = at.clamp_min(torch.finfo(torch.float64).tiny)
        least, most = log_wealth_bounds(m.samples, mean, m.variance, low, high, inside)
        return _Sides(at, least.masked_fill(at <= 0, torch.inf), most.masked_fill(at <= 0, torch.inf))

    def _met(self, seen: Tensor, rows: Tensor, sides: _Sides) -> Tensor:
        """Whether every side of every column is settled, (rows,). sides: (2, rows, columns)."""
        by_row = seen.permute(1, 2, 0)
        met = (sides.most >= self._wanted - _ROUNDING).all(2).all(0)
        open_ = sides.least < self._wanted + _ROUNDING
        for some in (open_ & (sides.most == sides.most.amin((0, 2), keepdim=True)), open_):
            side, row, column = (some & met.unsqueeze(1)).nonzero().unbind(1)
            size = max(1, _NUMBERS_AT_ONCE // len(seen))
            for s, r, c in zip(side.split(size), row.split(size), column.split(size), strict=True):
                x = by_row[rows[r], c].double().T.clamp(0, 1)
                reached = log_wealth(torch.where(s == 0, x, 1 - x), sides.at[s, r, c]) >= self._wanted
                met[r[~reached]] = False
        return met


@dataclass(frozen=True)
class _Moments:
    """Of samples seen so far: how many, mean, variance (ddof 0), least and greatest; all of one shape."""

    samples: Tensor
    mean: Tensor
    variance: Tensor
    low: Tensor
    high: Tensor

    def each(self, pick: Callable[[Tensor], Tensor]) -> _Moments:
        return _Moments(*(pick(t) for t in (self.samples, self.mean, self.variance, self.low, self.high)))


@dataclass(frozen=True)
class _Sides:
    """at: the limits mean - t of x and of 1 - x, (2, …); least, most: what log K⁺ is there at least and at most,
    infinite where the limit is outside [0, 1]."""

    at: Tensor
    least: Tensor
    most: Tensor


def look_every(samples: int) -> int:
    """Samples between two looks at a tolerance: 10, and 1 to 2 % of what there is beyond 1,000."""
    return BLOCK * -(-samples // (100 * BLOCK))


def least_for_decision(above: float, error: float) -> int:
    """The fewest samples that can settle "above": those of a row whose every sample is 1."""
    return max(MIN_SAMPLES, least_samples((1 - above) / above, -log(error)))
