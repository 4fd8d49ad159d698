"""Rows that follow each other in a file, and what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class TruthAt(NamedTuple):
    """name: of the column, key or array that holds each row's truth. needed: whether it must be there; else what is
    there is passed over."""

    name: str
    needed: bool


@dataclass(frozen=True)
class Rows:
    """rows: as a request would carry them; plain: their values are numbers and lists, and nothing else. lines: where
    each ends in its file, from 1."""

    rows: Sequence[Any]
    plain: bool
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Arrays:
    """by_input: an array for each input, rows first, of the shapes that the manifest says. truth: that stands beside
    them, rows first, where one was asked for."""

    by_input: Mapping[str, NDArray[np.floating] | NDArray[np.integer]]
    truth: NDArray[np.floating] | NDArray[np.integer] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.by_input.values())))


Part = Rows | Arrays


class Reader(Protocol):
    """What reads one kind of file, from its first row to its last. It raises OSError, ValueError with the line or the
    array, and what readers of archives raise on rubbish."""

    def read(self, count: int) -> Part:
        """The next rows, so many; fewer, or none, only at the end. count: at least 1."""

    def skip(self, count: int) -> int:
        """Passes over so many rows; how many there were."""

    def share(self) -> float | None:
        """Of the file, that has been read, 0 to 1; None where its length is not known."""

    def digest(self) -> str:
        """Of all that has been read: after as many rows, the same for files that are the same as far as these rows."""

    def close(self) -> None: ...
