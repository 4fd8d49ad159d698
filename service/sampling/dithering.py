"""Multipliers in bfloat16. The bits of the masks are those of float32.

Few scales 1/(1-p) are bfloat16 numbers: for p = 0.1 the nearest one is 0.16 % off, in every unit of every sample, and
that does not average out. So a unit that stays gets one of the two neighbours of the scale, in turns whose mean is the
scale: over units and over samples. Which one it gets is a function of (sample, unit), the same under any chunking.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from functools import partial
from math import prod

import torch
from torch import Tensor

from service import native
from service.sampling.masks import Design, Places, multipliers

# Fractions of 2³² whose multiples fill the circle evenly, however many there are: the golden section for units, and for
# samples the first of the two that do so together (Roberts 2018, the plastic number)
UNIT_STEP, SAMPLE_STEP = round(0.6180339887498949 * 2**32), round(0.7548776662466927 * 2**32)


def bfloat16_multipliers(
    design: Design, seed: int, site: str, p: float, shape: Sequence[int], first: int, samples: int,
    rows: Places | None = None, device: torch.device | None = None, scale: float | None = None,
) -> Tensor:
    """As `service.sampling.masks.multipliers`, bfloat16: 0, or one of the two neighbours of `scale`."""
    scale = 1 / (1 - p) if scale is None else scale
    stays = partial(multipliers, design, seed, site, p, shape, first, samples, rows, device)
    low, high, share = neighbours(scale)
    if low == high:
        return stays(low).bfloat16()
    kept = stays(1.0)
    if native.reads(kept):
        return _natively(kept, prod(shape), first, low, high, share)
    turns = _turns(first, samples, SAMPLE_STEP, device).unsqueeze(1) + _turns(0, prod(shape), UNIT_STEP, device)
    upper, lower = (torch.full((), n, dtype=torch.bfloat16, device=device) for n in (high, low))
    scales = torch.where(turns < turn_limit(share), upper, lower)
    lead = () if rows is None else (1,)
    return kept.bfloat16().mul_(scales.view(samples, *lead, *shape))


def _natively(kept: Tensor, units: int, first: int, low: float, high: float, share: float) -> Tensor:
    """kept: (samples, …, units), not 0 where a unit stays."""
    library = native.library()
    assert library is not None
    made = torch.empty_like(kept, dtype=torch.bfloat16)
    samples = kept.shape[0]
    bits = torch.tensor([low, high], dtype=torch.bfloat16).view(torch.uint16).tolist()
    wanted = native.Dither(
        samples, kept.numel() // (samples * units), units, first * SAMPLE_STEP % 2**32, SAMPLE_STEP, UNIT_STEP,
        turn_limit(share), *bits, kept.data_ptr(), made.data_ptr())
    library.errorbar_dither(byref(wanted), native.threads(kept.numel()))
    return made


def _turns(first: int, count: int, step: int, device: torch.device | None) -> Tensor:
    """Multiples of a step around the circle, from -2³¹ to 2³¹ - 1: int32, whose sums go around it too."""
    multiples = torch.arange(first, first + count, dtype=torch.int64, device=device) * step
    return ((multiples & 0xFFFFFFFF) - 2**31).to(torch.int32)


def turn_limit(share: float) -> int:
    """The turns under which a unit gets the upper neighbour, for the share of units that shall. An int32: what int32s
    are compared with wraps around."""
    return min(round((share - 0.5) * 2**32), 2**31 - 1)


def neighbours(scale: float) -> tuple[float, float, float]:
    """The bfloat16 numbers next to a positive one, below and above, and the share of the upper one that makes their
    mean the number; the number itself twice where it is one."""
    nearest = torch.tensor(scale).bfloat16()
    other = torch.nextafter(nearest, nearest.new_tensor(torch.inf if float(nearest) < scale else 0.0))
    if float(nearest) == scale:
        return scale, scale, 0.0
    low, high = sorted((float(nearest), float(other)))
    return low, high, (scale - low) / (high - low)
