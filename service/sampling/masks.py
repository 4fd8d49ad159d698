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
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.statistics import BLOCK

Design = Literal["balanced", "iid"]
Words = NDArray[np.uint64]

MASK_LAW = 1
MAX_OUTER = 3  # coordinates outside the innermost that the counter has room for

_WORD = (1 << 64) - 1
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIER = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_SHORT_RUN = 64  # innermost runs shorter than this are cheaper in one vectorised call than as numpy streams


def mask_key(design: Design, seed: int, site: str) -> tuple[int, int]:
    """The two 64-bit key words of one site under one seed."""
    digest = hashlib.sha256(f"errorbar/masks/{MASK_LAW}\0{design}\0{seed}\0{site}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def dropped(
    design: Design, seed: int, site: str, p: float, shape: Sequence[int], first: int, samples: int,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Which units are dropped in samples `first` … `first + samples - 1`.

    Args:    shape: of one row's mask, innermost last, at most four axes.
             first: a multiple of 10.
             rows: places of the rows in the request, for independent masks; None for masks that all rows share.
    Returns: bool, (samples, *shape), or (samples, len(rows), *shape).
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
    blocks = np.arange(first // per_word, -(-(first + samples) // per_word), dtype=np.uint64)
    outer = _outer_coordinates(tuple(shape[:-1]), rows)  # (streams, 2)
    inner = shape[-1] if shape else 1
    words = _words(key, blocks, outer, inner)  # (blocks, streams, inner)
    bits = _balanced_bits(words, p) if design == "balanced" else _iid_bits(words, p)  # (blocks, per_word, streams, …)
    lead = () if rows is None else (len(rows),)
    return bits.reshape(len(blocks) * per_word, *lead, *shape)[:samples]


def _outer_coordinates(outer: tuple[int, ...], rows: NDArray[np.int64] | None) -> Words:
    """Counter words 2 and 3 of every stream, in the order of the row-major mask: (streams, 2)."""
    if not outer and rows is None:
        return np.zeros((1, 2), np.uint64)
    axes = [np.zeros(1, np.uint64) if rows is None else rows.astype(np.uint64) + np.uint64(1)]
    axes += [np.arange(n, dtype=np.uint64) for n in outer]
    grid = [axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")]
    row, inwards = grid[0], grid[:0:-1]  # c1 is the one next to the innermost
    zero = np.zeros_like(row)
    c1, c2, c3 = [*inwards, zero, zero, zero][:MAX_OUTER]
    return np.stack([c1 | c2 << _SHIFT, c3 | row << _SHIFT], axis=1)


def _words(key: tuple[int, int], blocks: Words, outer: Words, inner: int) -> Words:
    """One 64-bit word for each (block, stream, innermost coordinate)."""
    if inner < _SHORT_RUN and len(blocks) * len(outer) > 8:
        return _words_vectorised(key, blocks, outer, inner)
    words = np.empty((len(blocks), len(outer), inner), np.uint64)
    stream = np.random.Philox(key=key[0] | key[1] << 64)
    state: Any = stream.state  # set over and over: eight times cheaper than a new generator
    for i, block in enumerate(blocks.tolist()):
        for j, (c2, c3) in enumerate(outer.tolist()):
            # numpy's Philox steps its counter before the first output, so it is started one below
            before = ((block << 64 | c2 << 128 | c3 << 192) - 1) % (1 << 256)
            state["state"]["counter"][:] = [before >> shift & _WORD for shift in (0, 64, 128, 192)]
            stream.state = state
            words[i, j] = stream.random_raw(inner)
    return words


def _words_vectorised(key: tuple[int, int], blocks: Words, outer: Words, inner: int) -> Words:
    """The same words as numpy's Philox streams give, for many short runs at once."""
    quads = np.arange(-(-inner // 4), dtype=np.uint64)
    shape = (len(blocks), len(outer), len(quads))
    c0: Words = np.broadcast_to(quads, shape)
    c1: Words = np.broadcast_to(blocks[:, None, None], shape)
    c2: Words = np.broadcast_to(outer[None, :, 0, None], shape)
    c3: Words = np.broadcast_to(outer[None, :, 1, None], shape)
    for i in range(10):
        k0, k1 = (np.uint64((k + i * w) & _WORD) for k, w in zip(key, _WEYL, strict=True))
        hi0, lo0 = _multiply(_MULTIPLIER[0], c0)
        hi1, lo1 = _multiply(_MULTIPLIER[1], c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
    words: Words = np.stack([c0, c1, c2, c3], axis=-1).reshape(len(blocks), len(outer), -1)[..., :inner]
    return words


def _multiply(a: np.uint64, b: Words) -> tuple[Words, Words]:
    """High and low word of the 128-bit product, from 32-bit halves."""
    a_hi, a_lo = a >> _SHIFT, a & _LOW
    b_hi, b_lo = b >> _SHIFT, b & _LOW
    cross = a_hi * b_lo + (a_lo * b_lo >> _SHIFT)
    middle = a_lo * b_hi + (cross & _LOW)
    return a_hi * b_hi + (cross >> _SHIFT) + (middle >> _SHIFT), a * b


@lru_cache(maxsize=BLOCK + 1)
def _patterns(ones: int) -> NDArray[np.uint16]:
    """All ten-bit words with that many ones, ascending."""
    return np.array(sorted(sum(1 << k for k in c) for c in combinations(range(BLOCK), ones)), dtype=np.uint16)


def _balanced_bits(words: Words, p: float) -> NDArray[np.bool_]:
    """(blocks, streams, inner) words to (blocks, 10, streams, inner) bits."""
    total = BLOCK * round(p * 2**32)
    base, rest = total >> 32, np.uint64(total & 0xFFFFFFFF)
    lo = words & _LOW
    pattern = _patterns(base)[(lo * np.uint64(comb(BLOCK, base))) >> _SHIFT]
    if rest:
        more = _patterns(base + 1)[(lo * np.uint64(comb(BLOCK, base + 1))) >> _SHIFT]
        pattern = np.where((words >> _SHIFT) < rest, more, pattern)
    bit = np.uint16(1) << np.arange(BLOCK, dtype=np.uint16)
    bits: NDArray[np.bool_] = (pattern[:, None] & bit[:, None, None]) != 0
    return bits


def _iid_bits(words: Words, p: float) -> NDArray[np.bool_]:
    """(pairs, streams, inner) words to (pairs, 2, streams, inner) bits."""
    threshold = np.uint64(round(p * 2**32))
    return np.stack([(words & _LOW) < threshold, (words >> _SHIFT) < threshold], axis=1)
