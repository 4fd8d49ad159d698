"""A mask that is not made: what it would be made of, for a kernel that makes and multiplies it in one pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from service.sampling.dithering import neighbours, turn_limit
from service.sampling.masks import Design, balance, patterns_on
from service.statistics import BLOCK

_PAIR = 2  # samples that a word serves in the iid design


class Recipe(NamedTuple):
    """words: (3,), int64: the key's two words and the first sample. places: (rows,), int64, of the rows in their
    request where each has a mask of its own, else None. dithered: whether kept units get the scale's two neighbours
    in bfloat16, in turns. dtype: that the mask would have. window: of each axis of the shape, the one place that is
    wanted; None where all are. The tensors are what differs between draws of one design and size."""

    words: Tensor
    places: Tensor | None
    samples: int
    design: Design
    p: float
    scale: float
    shape: tuple[int, ...]
    dithered: bool
    dtype: torch.dtype
    window: tuple[int | None, ...]

    def at(self, axis: int, place: int) -> Recipe:
        """That one place of an axis of the mask, (samples, rows or 1, *shape), which stays."""
        whole = self.shape[axis - 2] == 1
        window = list(self.window)
        window[axis - 2] = None if whole else place
        return self._replace(window=tuple(window))

    def to(self, dtype: torch.dtype) -> Recipe:
        """As a tensor's."""
        return self._replace(dtype=dtype)

    def multiplied(self, value: Tensor, lead: int) -> Tensor:
        """What `value * mask` gives. value: (…, samples or 1, rows, …) with the samples at axis `lead`, otherwise the
        axes of the mask."""
        from service.sampling.triton_masks import multiplied

        value = value.expand(*value.shape[:lead], self.samples, *value.shape[lead + 1 :])
        out = torch.empty_like(value, dtype=torch.promote_types(value.dtype, self.dtype))
        per_row = [axis for axis in range(value.dim()) if axis not in (lead, lead + 1)]
        order = [lead, lead + 1, *per_row]
        balanced = self.design == "balanced"
        law = balance(self.p)[:3] if balanced else (round(self.p * 2**32), 0, 0)
        multiplied(
            value.permute(order), out.permute(order), self.words, self.places, patterns_on(self.p, value.device),
            self.shape, self.window, law, self._scales(), balanced, BLOCK if balanced else _PAIR,
        )
        return out

    def _scales(self) -> tuple[float, float, int] | float:
        if not self.dithered:
            return self.scale
        low, high, share = neighbours(self.scale)
        return low if low == high else (low, high, turn_limit(share))
