"""What the samples so far say of rows that are still sampled, for whoever follows them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from service.errors import ModelFailed
from service.sampling.outputs import NOT_FINITE, Outputs, SampleAccumulator
from service.sampling.steps import Follower, Work
from service.statistics import BLOCK, Method, Uncertainty


class Progress:
    """Takes the samples a second time: the answer's own sums come to the same last bit whether anybody follows or not.
    """

    def __init__(self, outputs: Outputs, balanced: bool, method: Method, samples: int, follower: Follower) -> None:
        """samples: that each row is to have."""
        self._outputs, self._balanced, self._method = outputs, balanced, method
        self._samples, self._follower = samples, follower
        self._done: list[SampleAccumulator] = []
        self._at_hand: list[SampleAccumulator] = []
        self._last = False

    def begin(self, parts: int, last: bool) -> None:
        """Rows in so many parts are sampled next, from their first sample on. last: whether no other rows follow."""
        self._at_hand = [self._outputs.accumulator(self._balanced, False, self._method) for _ in range(parts)]
        self._last = last

    def add(self, part: int, values: Tensor) -> Work[None]:
        """Takes the next samples of a part, and gives way whenever it has told of some. values: (samples, rows,
        columns)."""
        accumulator, *others = self._at_hand
        if others:
            self._at_hand[part].add(values)
            if part == len(others):
                self._tell()
                yield
            return
        for piece in _blocks(values, accumulator.samples):
            accumulator.add(piece)
            self._tell()
            yield

    def end(self) -> None:
        """Those rows have all their samples."""
        self._done += self._at_hand
        self._at_hand = []

    def _tell(self) -> None:
        if not (self._last and self._at_hand[0].samples >= self._samples):  # the answer itself is next
            self._follower(self._so_far)

    def _so_far(self) -> Uncertainty:
        # of copies: an accumulator keeps what it was once asked
        parts = [copy.copy(accumulator) for accumulator in (*self._done, *self._at_hand)]
        return all_finite(self._outputs.answer(parts, self._method))


def all_finite(found: Uncertainty) -> Uncertainty:
    """The same. ModelFailed where a figure that every row has is not finite."""
    for figure in (found.mean, found.std, found.noise_std):
        if figure is not None and not torch.isfinite(figure).all():
            raise ModelFailed(NOT_FINITE)
    return found


def _blocks(values: Tensor, before: int) -> Iterator[Tensor]:
    """Samples that were drawn at once, cut where there is news: at every block of ten at first, then whenever there are
    an eighth more, which narrows a standard error by a sixteenth. before: samples there were."""
    start = 0
    while start < len(values):
        end = min(start + max(BLOCK, (before + start) // 8 // BLOCK * BLOCK), len(values))
        yield values[start:end]
        start = end
