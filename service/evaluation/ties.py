"""Rows in the order of a value, those with equal values as one, so that no rank depends on how rows were sorted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.evaluation.checks import Array


class Ties:
    """Groups of rows with equal values, by rising value. values: (rows,), infinities let in, no NaN.

    values: (groups,), now one of each.
    """

    def __init__(self, values: Array) -> None:
        self.order: NDArray[np.intp] = values.argsort(kind="stable")
        ordered = values[self.order]
        self._starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        self.values = ordered[self._starts]

    def sums(self, by_row: Array) -> Array:
        """(…, rows) to sums over each group's rows, (…, groups)."""
        ordered = by_row[..., self.order]
        if len(self._starts) == len(self.order):
            return ordered
        return np.add.reduceat(ordered, self._starts, axis=-1)


def before(groups: Array) -> Array:
    """(…, groups) to the sum of all groups before each: (…, groups)."""
    return groups.cumsum(-1) - groups
