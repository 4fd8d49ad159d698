"""Which labelled rows fit what is fitted, and which guarantee what is promised: never the same row for both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.calibration.checks import Ints
from service.errors import CalibrationRefused, InvalidOption


@dataclass(frozen=True)
class Halves:
    """fit: rows for temperature, scores, candidate thresholds; guarantee: rows for conformal quantiles and risk. Both
    in ascending order, disjoint, and together all rows. `rows` and `seed` are all it takes to have them again."""

    fit: Ints
    guarantee: Ints
    rows: int
    seed: int


def split_in_halves(rows: int, seed: int) -> Halves:
    """The same for the same rows and seed, on every machine and with every numpy: it rests on the raw words of Philox,
    which numpy keeps, not on a shuffle, which it does not. Of an odd number the guarantee has one more.

    Args:   rows: how many there are, at least 2; seed: from 0 to 2^64 - 1, chosen before anybody looks at results.
    Errors: CalibrationRefused under two rows, InvalidOption for a seed out of range.
    """
    if rows < 2:
        raise CalibrationRefused(f"two halves need at least 2 rows, got {rows}", 2)
    if not 0 <= seed < 1 << 64:
        raise InvalidOption.at("seed", f"a whole number from 0 to 2^64 - 1 expected, got {seed}")
    words = np.random.Philox(key=seed).random_raw(rows)
    order = np.argsort(words, kind="stable")
    return Halves(np.sort(order[: rows // 2]), np.sort(order[rows // 2 :]), rows, seed)
