"""Work that can be left and taken up again: whoever has the device runs a part of it, then a part of something else."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Generic, NamedTuple, TypeVar

import torch

from service.statistics import BLOCK, Uncertainty

T = TypeVar("T")
LEAST_WHEN_CUT = 2 * BLOCK  # samples: with fewer there is no standard error

Work = Generator[None, None, T]
"""Gives way between its parts; what it returns is the result."""

Follower = Callable[[Callable[[], Uncertainty]], None]
"""Told after each block of samples how to learn what they say: of the first rows of the request only, where the others
have no samples yet. What it is given holds until it returns."""


class Pace(NamedTuple):
    """How work gives way. samples: that one part draws of each of its rows at most, in whole tens; None: as many as
    memory allows. cut: whether sampling is to end now with the samples there are, asked after each part once a row has
    20 of them; it is told which share of all rows will have their answer then. follower: of the samples, if anybody."""

    samples: int | None = None
    cut: Callable[[float], bool] | None = None
    follower: Follower | None = None

    def at_most(self, samples: int) -> int:
        return samples if self.samples is None else min(samples, max(BLOCK, self.samples // BLOCK * BLOCK))

    def ends(self, drawn: int, share: float) -> bool:
        return self.cut is not None and drawn >= LEAST_WHEN_CUT and self.cut(share)


UNBOUNDED = Pace()


class Steps(Generic[T]):
    """Work under way. It may be dropped between steps; what it held goes with it."""

    def __init__(self, work: Work[T], within: Callable[[], AbstractContextManager[None]]) -> None:
        """within: what holds while a step runs, and not between steps."""
        self._work, self._within = work, within
        self._result: list[T] = []

    def step(self) -> bool:
        """Runs the next part; False once all is done. Raises what the work raises; then it is over."""
        with torch.no_grad(), self._within():
            try:
                next(self._work)
                return True
            except StopIteration as end:
                self._result.append(end.value)
                return False

    @property
    def result(self) -> T:
        """Of work that is done."""
        return self._result[0]

    def whole(self) -> T:
        """Runs all that is left."""
        while self.step():
            pass
        return self.result
