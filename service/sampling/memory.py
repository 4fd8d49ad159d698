"""When memory runs out: less at once, and once more.

What runs at once is some samples of some rows: so many *passes*. Where they do not fit, half as many are tried: fewer
samples first, in whole blocks of ten; then fewer rows; and for a single row fewer samples than a block, whose masks are
cut. The rows at hand start over, because their sums may be half made; those that are done stay done. Masks are keyed by
sample and row, so the answer is the same. Only where one row and one sample do not fit, the error is raised.

What did fit is remembered, or every request would run out of memory first. After a hundred requests without trouble
twice as much is tried, so that a device that somebody else had filled for a while is not used in small pieces for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from service.sampling.device import release
from service.sampling.kernels import Folded, Kernel
from service.statistics import BLOCK

T = TypeVar("T")

_QUIET_REQUESTS = 100
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def ran_out_of_memory(error: Exception) -> bool:
    """Whether that was it: CUDA has a class for it, numpy Python's own, and torch on the CPU says it in words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


class Room:
    """How much may run at once; no bound until memory runs out. retries: how often it has."""

    def __init__(
        self, device: torch.device, samples_a_row: int = BLOCK, let_go: Callable[[], None] | None = None
    ) -> None:
        """samples_a_row: of a row that run together, as far as possible. let_go: gives up memory that can be spared."""
        self.retries = 0
        self._device, self._samples_a_row, self._let_go = device, samples_a_row, let_go
        self._passes = sys.maxsize  # at once, at most
        self._used = 1  # passes of what runs now
        self._quiet = 0  # requests in a row that fitted

    def rows(self, wanted: int) -> int:
        """How many of that many rows may run together."""
        return max(1, min(wanted, self._passes // self._samples_a_row))

    def samples(self, wanted: int, rows: int) -> int:
        """How many of that many samples, a multiple of ten, may run together with those rows: a multiple of ten, or
        fewer for a single row."""
        fit = self._passes // rows
        if fit >= wanted:
            return wanted
        return fit // BLOCK * BLOCK if fit >= BLOCK else fit

    def using(self, rows: int, samples: int = 1) -> None:
        """Notes what runs next; after each return of work that gave way too, since other work ran meanwhile."""
        self._used = rows * samples

    def through(
        self, count: int, most: int, run: Callable[[range], Generator[None, None, T]]
    ) -> Generator[None, None, list[T]]:
        """Runs the places 0 … count - 1 of a request's rows in groups of at most `most`; a group that does not fit is
        run anew with less at once. What `run` gives, in order. Gives way where `run` does, and between groups."""
        found: list[T] = []
        done, retries = 0, self.retries
        while done < count:
            if done:
                yield
            group = range(done, min(done + self.rows(most), count))
            self.using(len(group))
            try:
                found.append((yield from run(group)))
                done = group.stop
                continue
            except Exception as e:
                if self._used == 1 or not ran_out_of_memory(e):
                    raise
            # here nothing refers to the tensors of the failed try any more
            self._passes = self._used // 2
            self.retries += 1
            if self._let_go is not None:
                self._let_go()
            release(self._device)
        self._quiet = self._quiet + 1 if self.retries == retries else 0
        if self._quiet >= _QUIET_REQUESTS and self._passes < sys.maxsize // 2:
            self._passes, self._quiet = 2 * self._passes, 0
        return found


def in_cuts(
    kernel: Kernel, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor], most: int
) -> Tensor:
    """What the kernel gives, (samples, rows, …), by at most that many samples at a time where its masks can be cut."""
    if samples <= most or not isinstance(kernel, Folded):
        return kernel.run(values, rows, samples, drawn)
    parts = [range(first, min(first + most, samples)) for first in range(0, samples, most)]
    return torch.cat([kernel.run(values, rows, len(p), [mask[p.start : p.stop] for mask in drawn]) for p in parts])
