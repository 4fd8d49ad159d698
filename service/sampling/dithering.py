"""Multipliers in bfloat16. The bits of the masks are those of float32.

Few scales 1/(1-p) are bfloat16 numbers: for p = 0.1 the nearest one is 0.16 % off, in every unit of every sample, and
that does not average out. So a unit that stays gets one of the two neighbours of the scale, in turns whose mean is the
scale: over units and over samples. Which one it gets is a function of (sample, unit), the same under any chunking.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from service.sampling.masks import Design, Places, multipliers

_STEP = 0.6180339887498949  # golden section: its multiples fill the unit interval evenly, however many there are
_SAMPLE_STEP = 0.7548776662466927  # the same for two at once (Roberts 2018, the plastic number)


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
    units = prod(shape)
    places = torch.arange(units, dtype=torch.float64) * _STEP
    turns = (torch.arange(first, first + samples, dtype=torch.float64) * _SAMPLE_STEP).unsqueeze(1) + places
    scales = torch.where(turns.frac() < share, high, low).bfloat16()
    lead = () if rows is None else (1,)
    return stays(1.0).bfloat16().mul_(scales.to(device).view(samples, *lead, *shape))


def neighbours(scale: float) -> tuple[float, float, float]:
    """The bfloat16 numbers next to a positive one, below and above, and the share of the upper one that makes their
    mean the number; the number itself twice where it is one."""
    nearest = torch.tensor(scale).bfloat16()
    other = torch.nextafter(nearest, nearest.new_tensor(torch.inf if float(nearest) < scale else 0.0))
    if float(nearest) == scale:
        return scale, scale, 0.0
    low, high = sorted((float(nearest), float(other)))
    return low, high, (scale - low) / (high - low)
