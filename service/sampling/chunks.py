"""How many samples run at once."""

from __future__ import annotations

from typing import NamedTuple

from service.sampling.bank import KEPT_SAMPLES
from service.sampling.kernels import Folded, Kernel
from service.sampling.memory import Room
from service.sampling.options import Asked
from service.statistics import BLOCK

MASKS_AT_ONCE_BYTES = 8 << 20  # masks, or what is made of them, of one chunk of samples
_LONG_MASKS_AT_ONCE_BYTES = 2 << 20  # the same of a long request, which makes them as it goes: the heap stays whole


class Share(NamedTuple):
    """samples: of a chunk, whose masks are made together. at_once: of them that run together. kernel: that runs
    them."""

    samples: int
    at_once: int
    kernel: Kernel


def chunk(kernel: Kernel, rows: int, independent: bool, samples: int = 0) -> int:
    """Samples that run at once in a request of so many where memory does not run out: a multiple of 10."""
    per_sample = kernel.split.suffix_width * 4 * rows
    mask_bytes = kernel.bytes_per_sample * (rows if independent else 1)
    room = MASKS_AT_ONCE_BYTES if samples <= KEPT_SAMPLES else _LONG_MASKS_AT_ONCE_BYTES
    if kernel.working_set_bytes > MASKS_AT_ONCE_BYTES:  # a device, which has room for as much of masks
        room = kernel.working_set_bytes
    n = min(kernel.working_set_bytes // per_sample, room // max(mask_bytes, 1))
    return max(BLOCK, n // BLOCK * BLOCK)


def shared_out(kernel: Kernel, general: Kernel, room: Room, rows: int, asked: Asked, most: int | None = None) -> Share:
    """How the samples of that many rows are run, with less at once where memory ran out. general: runs in place of a
    kernel whose masks cannot be cut, where a chunk is too much. most: of those samples, at most; by default all."""
    samples = asked.samples if most is None else most
    size = asked.pace.at_most(min(samples, chunk(kernel, rows, asked.per_row, samples)))
    at_once = room.samples(size, rows)
    if at_once < min(size, BLOCK) and not isinstance(kernel, Folded):
        kernel = general
    return Share(min(size, max(at_once, BLOCK)), at_once, kernel)
