"""Mask bits: an integer function of (design, seed, site name, sample, coordinate), the same on every device.

Nothing of torch's or numpy's generators' state is used, so the same request and seed give the same answer under any
chunking, batching, padding or number of samples. The law has a version: `MASK_LAW`. Whoever changes a bit changes it.

    key      first 16 bytes of sha256("errorbar/masks/1\\0<design>\\0<seed>\\0<site>"), as two little-endian words
    counter  (innermost coordinate // 4, block, c1 | c2 << 32, c3 | row << 32), words of 64 bits: c1, c2, c3 are the
             coordinates outside the innermost, from the inside outwards; row is 0 for shared masks and 1 + the row's
             place in the request for independent ones
    word     number (innermost coordinate % 4) of Philox4x64-10 of that counter (Salmon et al. 2011, SC'11)

*Balanced* design: one word for a unit and a block of 10 samples; hi and lo are its 32-bit halves. With
P = 10·round(p·2³²), the unit drops m = P >> 32 times in the block, once more where hi < P mod 2³²; which samples, is
entry (lo·C(10, m)) >> 32 of the table of ten-bit words with m ones in ascending order; bit k belongs to sample
10·block + k. Each sample alone is an exact Bernoulli mask (marginal error 8e-10) and units are independent within it.
*iid* design: the "block" of the counter is a pair of samples; the even one is dropped where lo < round(p·2³²), the
odd one where hi is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from ctypes import byref
from functools import lru_cache
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service import native
from service.sampling.philox import Array, Words, words
from service.statistics import BLOCK

Design = Literal["balanced", "iid"]
Places = NDArray[np.int64]

MASK_LAW = 1
MAX_OUTER = 3  # coordinates outside the innermost that the counter has room for

_LOW = 0xFFFFFFFF
_CACHED_WORDS = 1 << 16  # made and used at once, so that all passes over them stay in a core's cache
_NO_PATTERNS = np.zeros(1, np.int32)
_DEVICE_WORDS = 1 << 20  # the same on a device, where every pass is a launch


def mask_key(design: Design, seed: int, site: str) -> tuple[int, int]:
    """The two 64-bit key words of one site under one seed."""
    digest = hashlib.sha256(f"errorbar/masks/{MASK_LAW}\0{design}\0{seed}\0{site}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def dropped(
    design: Design, seed: int, site: str, p: float, shape: Sequence[int], first: int, samples: int,
    rows: Places | None = None,
) -> NDArray[np.bool_]:
    """Which units `multipliers` sets to 0: bool, of the same shape."""
    return multipliers(design, seed, site, p, shape, first, samples, rows).numpy() == 0


def multipliers(
    design: Design, seed: int, site: str, p: float, shape: Sequence[int], first: int, samples: int,
    rows: Places | None = None, device: torch.device | None = None, scale: float | None = None,
) -> Tensor:
    """What dropout multiplies units by in samples `first` … `first + samples - 1`: 0, or `scale`.

    Args:    shape: of one row's mask, innermost last, at most four axes.
             first: a multiple of 10.
             rows: places of the rows in the request, for independent masks; None for masks that all rows share.
             device: where the masks are made and stay; None for the CPU.
             scale: 1 / (1 - p) where it is None.
    Returns: float32, (samples, *shape), or (samples, len(rows), *shape).
    Errors:  ValueError for p outside (0, 1), a first that does not start a block, or too many axes.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"a mask needs 0 < p < 1, got {p}")
    if first % BLOCK:
        raise ValueError(f"samples start at a multiple of {BLOCK}, got {first}")
    if len(shape) > MAX_OUTER + 1:
        raise ValueError(f"a mask has at most {MAX_OUTER + 1} axes, got {len(shape)}")
    key = mask_key(design, seed, site)
    per_word = BLOCK if design == "balanced" else 2
    blocks = range(first // per_word, -(-(first + samples) // per_word))
    outer = _outer_coordinates(tuple(shape[:-1]), rows)
    inner = shape[-1] if shape else 1
    made = torch.empty(len(blocks), per_word, len(outer), inner, device=device)
    # bits of a float32 by integer operations: no pass over bools, none over products
    keeps = int(np.float32(1 / (1 - p) if scale is None else scale).view(np.int32))
    if made.device.type != "cpu" or not _filled_natively(made, design, key, p, keeps, blocks, outer):
        _fill(made, design, key, p, keeps, blocks, outer)
    lead = () if rows is None else (len(rows),)
    return made.view(len(blocks) * per_word, *lead, *shape)[:samples]


def _filled_natively(
    made: Tensor, design: Design, key: tuple[int, int], p: float, keeps: int, blocks: range, outer: Words
) -> bool:
    """Whether the native library is there, and made these masks."""
    library = native.library()
    if library is None:
        return False
    balanced = design == "balanced"
    rest, few, many, patterns = balance(p) if balanced else (round(p * 2**32), 0, 0, _NO_PATTERNS)
    wanted = native.Masks(
        key, balanced, made.shape[3], blocks.start, len(blocks), len(outer), outer.ctypes.data, rest, few, many,
        patterns.ctypes.data, keeps, made.data_ptr(),
    )
    library.errorbar_masks(byref(wanted), native.threads(made.numel()))
    return True


def _fill(
    made: Tensor, design: Design, key: tuple[int, int], p: float, keeps: int, blocks: range, outer: Words
) -> None:
    """made: (blocks, samples of a block, runs, inner)."""
    fill: Any = _fill_balanced if design == "balanced" else _fill_iid
    bits: Any = made.view(torch.int32)
    where: torch.device | None = made.device
    size = _DEVICE_WORDS
    if made.device.type == "cpu":
        bits, where, size = bits.numpy(), None, _CACHED_WORDS
    for i, b, s in _pieces(made.shape[3], len(blocks), len(outer), size):
        fill(words(key, i.start, i.stop - i.start, blocks[b], outer[s], where), bits[b, :, s, i], p, keeps)


def _pieces(inner: int, blocks: int, runs: int, size: int) -> Iterator[tuple[slice, slice, slice]]:
    """Cuts (inner, blocks, runs) into pieces of about `size` words."""
    inner_step = min(inner, size)
    block_step = min(blocks, max(1, size // inner_step))
    run_step = max(1, size // (inner_step * block_step))
    steps = ((inner, inner_step), (blocks, block_step), (runs, run_step))
    yield from product(*([slice(i, min(i + step, n)) for i in range(0, n, step)] for n, step in steps))


def _outer_coordinates(outer: tuple[int, ...], rows: Places | None) -> Words:
    """Counter words 2 and 3 of every run of innermost coordinates, in the order of the row-major mask: (runs, 2)."""
    if not outer and rows is None:
        return np.zeros((1, 2), np.int64)
    axes = [np.zeros(1, np.int64) if rows is None else rows.astype(np.int64) + 1]
    axes += [np.arange(n, dtype=np.int64) for n in outer]
    grid = [axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")]
    row, inwards = grid[0], grid[:0:-1]  # c1 is the one next to the innermost
    zero = np.zeros_like(row)
    c1, c2, c3 = [*inwards, zero, zero, zero][:MAX_OUTER]
    return np.stack([c1 | c2 << 32, c3 | row << 32], axis=1)


@lru_cache(maxsize=256)
def balance(p: float) -> tuple[int, int, int, NDArray[np.int32]]:
    """In how many of 2³² cases a unit drops once more; the number of patterns where it does not, and where it does; and
    all of those, one after the other, ascending, as ten bits that say which samples keep the unit."""
    base, rest = divmod(BLOCK * round(p * 2**32), 2**32)
    few, many = (
        sorted(sum(1 << k for k in c) for c in combinations(range(BLOCK), drops)) for drops in (base, base + 1)
    )
    return rest, len(few), len(many), ~np.array(few + many, dtype=np.int32)


@lru_cache(maxsize=256)
def patterns_on(p: float, device: torch.device) -> Tensor:
    """The table of `balance`, copied to a device once."""
    return torch.from_numpy(balance(p)[3]).to(device)


_SHIFTS = np.arange(31, 31 - BLOCK, -1, dtype=np.int32)[:, None, None]  # of bit k to the sign


@lru_cache
def _shifts_on(device: torch.device) -> Tensor:
    return torch.from_numpy(_SHIFTS).to(device)


def _fill_balanced(drawn: Array, bits: Array, p: float, keeps: int) -> None:
    """drawn: (blocks, runs, inner); bits: (blocks, 10, runs, inner), gets `keeps` where a unit stays, 0 elsewhere."""
    rest, few, many, patterns = balance(p)
    more = ((drawn >> 32) & _LOW) < rest
    chosen = drawn & _LOW
    chosen *= more * (many - few) + few
    chosen >>= 32
    chosen += more * few
    if isinstance(bits, Tensor):
        bits.copy_(patterns_on(p, bits.device).take(chosen)[:, None])
        bits <<= _shifts_on(bits.device)
    else:
        np.left_shift(patterns.take(chosen)[:, None], _SHIFTS, out=bits)
    bits >>= 31
    bits &= keeps


def _fill_iid(drawn: Array, bits: Array, p: float, keeps: int) -> None:
    """drawn: (pairs, runs, inner); bits: (pairs, 2, runs, inner), gets `keeps` where a unit stays, 0 elsewhere."""
    highest_dropped = round(p * 2**32) - 1
    for sample, half in enumerate((drawn & _LOW, (drawn >> 32) & _LOW)):
        stays = highest_dropped - half  # negative
        stays >>= 63
        stays &= keeps
        bits[:, sample] = stays
