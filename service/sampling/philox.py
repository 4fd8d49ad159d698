"""Philox4x64-10 (Salmon et al. 2011, SC'11): random words by counter, the same wherever they are made.

Two ways to the same words. numpy's own Philox is compiled: 3 ns a word, but each run of counters costs a call from
Python. The integer function written here runs on whole arrays: slower a word, indifferent to how short the runs are,
and it works on any torch device.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.sampling.copies import to_device

Words = NDArray[np.int64]
Array = TypeVar("Array", Words, Tensor)

ROUNDS = 10
MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # what the key's words grow by with every round
_LOW = 0xFFFFFFFF
_LONG_RUN = 128  # words from which a call of numpy's generator a run is the cheaper way
_FEW_RUNS = 64  # so many calls cost less than the integer function takes for the smallest array


def signed(value: int, bits: int = 64) -> int:
    """The signed number with the same low bits."""
    half = 1 << (bits - 1)
    return (value + half) % (2 * half) - half


def _halves(multiplier: int) -> tuple[int, int, int]:
    """A 64-bit multiplier as a signed number, and its signed halves: high · 2³² + low."""
    whole = signed(multiplier)
    low = signed(multiplier, 32)
    return whole, (whole - low) >> 32, low


_HALVES = _halves(MULTIPLIERS[0]), _halves(MULTIPLIERS[1])


def words(
    key: tuple[int, int], start: int, count: int, blocks: range, outer: Words, device: torch.device | None = None
) -> Words | Tensor:
    """Words of the counters (i // 4, block, *outer), number i % 4 of each, for i = start … start + count - 1.

    Args:    key: two unsigned 64-bit words. start: a multiple of 4. outer: (runs, 2), counter words 2 and 3.
             device: where to make them; None for numpy.
    Returns: (blocks, runs, count), int64: the bits of the unsigned words.
    """
    if device is None and (count >= _LONG_RUN or len(blocks) * len(outer) <= _FEW_RUNS):
        return _numpy_streams(key, start, count, blocks, outer)
    quads = np.arange(start // 4, -(-(start + count) // 4), dtype=np.int64)[None, None]
    block = np.arange(blocks.start, blocks.stop, dtype=np.int64)[:, None, None]
    c2, c3 = outer[None, :, :1], outer[None, :, 1:]
    if device is None:
        return philox(key, quads, block, c2, c3)[..., :count]
    return philox(key, *(to_device(torch.from_numpy(c.copy()), device) for c in (quads, block, c2, c3)))[..., :count]


def philox(key: tuple[int, int], c0: Array, c1: Array, c2: Array, c3: Array) -> Array:
    """The four words of each counter, side by side on the last axis.

    Counters: int64 arrays that broadcast against each other; all four of three axes. While a round's words depend on
    some of the axes only, they are computed for those only.
    """
    for i in range(ROUNDS):
        k0, k1 = (signed(k + i * w) for k, w in zip(key, WEYL, strict=True))
        high0, low0 = _multiply(_HALVES[0], c0)
        high1, low1 = _multiply(_HALVES[1], c2)
        c0, c1, c2, c3 = high1 ^ c1, low1, high0 ^ c3, low0
        c0 ^= k0
        c2 ^= k1
    blocks, runs, quads = c0.shape
    if isinstance(c0, Tensor):
        return torch.stack([c0, c1, c2, c3], -1).view(blocks, runs, 4 * quads)
    return np.stack([c0, c1, c2, c3], -1).reshape(blocks, runs, 4 * quads)


def _multiply(multiplier: tuple[int, int, int], b: Array) -> tuple[Array, Array]:
    """High and low word of the unsigned 128-bit product.

    From signed halves: no sum leaves 64 bits and arithmetic shifts carry the sign, where unsigned halves would need
    masks. What the signs change is put right at the end: 2⁶⁴·b, as the multipliers are negative, and 2⁶⁴·multiplier
    where b is.
    """
    whole, m_high, m_low = multiplier
    low, high = b & _LOW, b >> 32
    product = low * m_low
    product >>= 32
    product += low * m_high
    product += high * m_low
    product >>= 32
    product += high * m_high
    product += b
    high >>= 31
    high &= whole
    product += high
    return product, b * whole


def _numpy_streams(key: tuple[int, int], start: int, count: int, blocks: range, outer: Words) -> Words:
    """The same from numpy's generator, a stream a run."""
    made = np.empty((len(blocks) * len(outer), count), np.uint64)
    stream = np.random.Philox(key=key[0] | key[1] << 64)
    state: Any = stream.state  # set over and over: many times cheaper than a new generator
    for run, before in zip(made, _before(start // 4, blocks, outer).tolist(), strict=True):
        state["state"]["counter"] = before
        stream.state = state
        run[:] = stream.random_raw(count)
    return made.view(np.int64).reshape(len(blocks), len(outer), count)


def _before(first: int, blocks: range, outer: Words) -> NDArray[np.uint64]:
    """The counters (first, block, *outer) less 1, (blocks · runs, 4): numpy's Philox steps before its first output."""
    before = np.empty((len(blocks), len(outer), 4), np.int64)
    before[..., 0] = first - 1
    before[..., 1] = np.arange(blocks.start, blocks.stop, dtype=np.int64)[:, None]
    before[..., 2:] = outer
    if first == 0:  # borrow from the next word
        before[..., 1] -= 1
        if blocks.start == 0:
            before[0, :, 3] -= before[0, :, 2] == 0
            before[0, :, 2] -= 1
    return before.view(np.uint64).reshape(-1, 4)
