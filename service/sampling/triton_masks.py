"""Masks made and multiplied in one pass over the values, in Triton: no mask travels through memory.

The bits are those of `service.sampling.masks`, the scales of bfloat16 those of `service.sampling.dithering`. Triton
comes with torch's builds for CUDA; this module is imported where one of its kernels is wanted and nowhere else. The
kernels' arguments carry no types: Triton's compiler would read them.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from service.sampling.dithering import SAMPLE_STEP, UNIT_STEP
from service.sampling.philox import MULTIPLIERS, ROUNDS, WEYL

AXES = 4  # of a row, at most
_MOST_UNITS, _MOST_VALUES, _MOST_ROWS = 1024, 2048, 16  # of one program: the tile of values it holds at a time
_M0, _M1 = (tl.constexpr(multiplier) for multiplier in MULTIPLIERS)
_W0, _W1 = (tl.constexpr(step) for step in WEYL)
_ROUNDS = tl.constexpr(ROUNDS)
_UNIT_STEP, _SAMPLE_STEP = tl.constexpr(UNIT_STEP), tl.constexpr(SAMPLE_STEP)
_LOW = tl.constexpr(0xFFFFFFFF)
_HALF = tl.constexpr(1 << 31)


@triton.jit
def _philox(x0, x1, x2, x3, k0, k1):
    """The four words of each counter, Philox4x64-10; all uint64."""
    m0 = tl.full(x0.shape, _M0, tl.uint64)
    m1 = tl.full(x0.shape, _M1, tl.uint64)
    w0 = tl.full(x0.shape, _W0, tl.uint64)
    w1 = tl.full(x0.shape, _W1, tl.uint64)
    for _ in tl.static_range(_ROUNDS):
        high0 = tl.umulhi(x0, m0)
        high1 = tl.umulhi(x2, m1)
        low0 = x0 * m0
        low1 = x2 * m1
        x0 = high1 ^ x1 ^ k0
        x1 = low1
        x2 = high0 ^ x3 ^ k1
        x3 = low0
        k0 = k0 + w0
        k1 = k1 + w1
    return x0, x1, x2, x3


@triton.jit(do_not_specialize=["samples", "rows", "limit", "few", "many", "turn_limit", "p3", "p2", "p1", "p0"])
def _multiply(
    value, out, words, places, patterns,
    samples, rows, d2, d1, d0,
    vs, vr, v3, v2, v1, v0, os, orow, o3, o2, o1, o0,
    p3, p2, p1, p0, m2, m1, m0, limit, few, many, scale, other_scale, turn_limit,
    V3: tl.constexpr, V2: tl.constexpr, V1: tl.constexpr, V0: tl.constexpr,
    BALANCED: tl.constexpr, INDEPENDENT: tl.constexpr, DITHERED: tl.constexpr,
    PER_WORD: tl.constexpr, U: tl.constexpr, R: tl.constexpr,
):
    """out = value · mask, both (samples, rows, d3, d2, d1, d0) by their strides.

    A program has U places of the innermost axis in R rows, for the PER_WORD samples that one word serves. V*: 1 where
    the mask varies along an axis, 0 where it is broadcast, or where only the place p* of it is wanted. m*: sizes of the
    whole mask. words: the two words of the key, and the first sample.
    """
    place = tl.program_id(0).to(tl.int64)
    tiles = (d0 + U - 1) // U
    run = place // tiles
    start = (place % tiles) * U
    c1 = run % d1
    c2 = (run // d1) % d2
    c3 = run // (d1 * d2)
    q1, q2, q3 = c1 * V1 + p1, c2 * V2 + p2, c3 * V3 + p3
    group = tl.program_id(1).to(tl.int64)
    first = tl.load(words + 2)

    if V0:  # noqa: SIM108
        quads = (start // 4 + tl.arange(0, U // 4)).to(tl.uint64)
    else:
        quads = (tl.arange(0, 1) + p0 // 4).to(tl.uint64)
    zero = quads - quads
    row_word = zero
    if INDEPENDENT:
        row_word = zero + (tl.load(places + tl.program_id(2)) + 1).to(tl.uint64)
    block = zero + (first // PER_WORD + group).to(tl.uint64)
    outer = zero + (q1 | (q2 << 32)).to(tl.uint64)
    outermost = (zero + q3.to(tl.uint64)) | (row_word << 32)
    k0 = zero + tl.load(words).to(tl.uint64)
    k1 = zero + tl.load(words + 1).to(tl.uint64)
    w0, w1, w2, w3 = _philox(quads, block, outer, outermost, k0, k1)
    if V0:
        word = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    else:
        word = tl.where(p0 % 4 < 2, tl.where(p0 % 4 == 0, w0, w1), tl.where(p0 % 4 == 2, w2, w3))
    high = (word >> 32).to(tl.int64)
    low = (word & _LOW).to(tl.int64)

    unit = start + tl.arange(0, U)
    inside = unit < d0
    row = tl.program_id(2).to(tl.int64) * R + tl.arange(0, R)
    values = value + c3 * v3 + c2 * v2 + c1 * v1 + unit[None, :] * v0 + row[:, None] * vr
    outs = out + c3 * o3 + c2 * o2 + c1 * o1 + unit[None, :] * o0 + row[:, None] * orow
    pattern = low
    if BALANCED:
        more = high < limit
        chosen = ((low * tl.where(more, many, few)) >> 32) + tl.where(more, few, 0)
        pattern = tl.load(patterns + chosen).to(tl.int64)
    for k in tl.static_range(PER_WORD):
        sample = group * PER_WORD + k
        if BALANCED:
            stays = ((pattern >> k) & 1) != 0
        elif k == 0:
            stays = low >= limit
        else:
            stays = high >= limit
        factor = tl.where(stays, scale, 0.0)
        if DITHERED:
            flat = ((q3 * m2 + q2) * m1 + q1) * m0 + unit * V0 + p0
            turns = ((flat * _UNIT_STEP) & _LOW) + (((first + sample) * _SAMPLE_STEP) & _LOW)
            turns = ((turns - _HALF) & _LOW) - _HALF
            factor = tl.where(stays, tl.where(turns < turn_limit, other_scale, scale), 0.0)
        wanted = inside[None, :] & (row < tl.where(sample < samples, rows, 0))[:, None]
        given = tl.load(values + sample * vs, mask=wanted, other=0.0).to(tl.float32)
        tl.store(outs + sample * os, (given * factor[None, :]).to(out.dtype.element_ty), mask=wanted)


def multiplied(
    value: Tensor, out: Tensor, words: Tensor, places: Tensor | None, patterns: Tensor, shape: tuple[int, ...],
    window: tuple[int | None, ...], law: tuple[int, int, int], scales: tuple[float, float, int] | float, balanced: bool,
    per_word: int,
) -> Tensor:
    """Fills `out` with value times mask.

    Args: value, out: (samples, rows, …), at most four axes more. places: (rows,), where rows have masks of their own.
          shape, window: of the mask, as of `Recipe`, for each of those axes. law: of `masks.balance` without the
          patterns, or for iid masks the limit of the dropped and two zeros. scales: what a kept unit is multiplied by;
          or the lower and the upper one of bfloat16, and the turns below which it is the upper.
    """
    samples, rows, *sizes = value.shape
    strides, out_strides = list(value.stride()), list(out.stride())
    pad = [1] * (AXES - len(sizes))
    whole_mask = pad + list(shape)
    offsets = [0] * len(pad) + [place or 0 for place in window]
    flags = [0] * len(pad) + [int(n > 1 and place is None) for n, place in zip(shape, window, strict=True)]
    sizes = pad + sizes
    whole = [strides[:2] + [0] * len(pad) + strides[2:], out_strides[:2] + [0] * len(pad) + out_strides[2:]]
    for axis in (AXES - 2, AXES - 3, AXES - 4):  # axes over which the mask does not vary run as one
        if flags[-1] or flags[axis] or any(s[2 + axis] != sizes[-1] * s[-1] for s in whole):
            break
        sizes[-1], sizes[axis] = sizes[-1] * sizes[axis], 1
    units = min(max(triton.next_power_of_2(sizes[-1]), 4), _MOST_UNITS)
    at_once = 1 if places is not None else min(triton.next_power_of_2(rows), _MOST_ROWS, _MOST_VALUES // units)
    dithered = isinstance(scales, tuple)
    scale, other, turn_limit = scales if isinstance(scales, tuple) else (scales, scales, 0)
    runs = sizes[0] * sizes[1] * sizes[2] * triton.cdiv(sizes[3], units)
    grid = (runs, triton.cdiv(samples, per_word), triton.cdiv(rows, at_once))
    with torch.cuda.device_of(value):
        _multiply[grid](
            value, out, words, words if places is None else places, patterns, samples, rows, *sizes[1:],
            *whole[0], *whole[1], *offsets, *whole_mask[1:], *law, scale, other, turn_limit, *flags, balanced,
            places is not None, dithered, per_word, units, at_once,
        )
    return out
