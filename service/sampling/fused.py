"""Samples × rows through the suffix, each mask made and multiplied in one pass: see `triton_masks`.

It is offered on CUDA devices only, and only once every site's masks came out of it bit by bit as `masks` makes them;
whether it serves is then settled by timing, as for every kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.sampling.bank import Draw, SeedBank
from service.sampling.copies import to_device
from service.sampling.device import working_set_bytes
from service.sampling.dithering import bfloat16_multipliers
from service.sampling.kernels import Places
from service.sampling.masks import Design, mask_key, multipliers
from service.sampling.philox import signed
from service.sampling.recipe import Recipe
from service.sampling.sites import Site
from service.sampling.split import Split
from service.statistics import BLOCK

_TRIED_PLACES = np.array([1, 5])
_GRID = 65535  # rows of a launch, each with masks of its own: the most along a grid's third axis
_DESIGNS: tuple[Design, ...] = ("balanced", "iid")


class Fused:
    """As `Folded`, with recipes in place of masks. Its masks cannot be cut."""

    name = "fused"
    per_row_masks, rows_apart, normalised = True, False, False
    bytes_per_sample = 0
    held = ()

    def __init__(
        self, split: Split, sites: Sequence[Site], bank: SeedBank, device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """As `Folded`."""
        self.split, self._sites, self._bank, self._device, self._dtype = split, sites, bank, device, dtype
        self.working_set_bytes = working_set_bytes(device)
        self.rows = max(1, min(_GRID, self.working_set_bytes // (split.suffix_width * 4 * BLOCK)))

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Any]) -> Tensor:
        output: Tensor = self.split.suffix.forward(samples, samples * rows, *drawn, *values)
        return output.view(samples, rows, *output.shape[1:])

    def drawn(self, draw: Draw, places: Places) -> list[Any]:
        """A `Recipe` a site."""
        (words,) = self._bank.get(self.name, draw, self._words)
        where = None if places is None else to_device(torch.from_numpy(places.astype(np.int64)), self._device)
        return [
            Recipe(own, where, draw.samples, draw.design, site.p, site.scale, site.mask_shape,
                   self._dtype is torch.bfloat16, self._dtype, (None,) * len(site.mask_shape))
            for own, site in zip(words.unbind(0), self._sites, strict=True)
        ]

    def _words(self, draw: Draw) -> list[Tensor]:
        keys = [mask_key(draw.design, draw.seed, site.name) for site in self._sites]
        return [to_device(torch.tensor([[signed(a), signed(b), draw.first] for a, b in keys]), self._device)]

    def wrong_site(self) -> str:
        """The name of a site whose masks are not those of `masks`, bit by bit; empty where all are."""
        make = bfloat16_multipliers if self._dtype is torch.bfloat16 else multipliers
        for design in _DESIGNS:
            draw = Draw(design, 7, BLOCK, 2 * BLOCK, 3 * BLOCK)
            for places in (None, _TRIED_PLACES):
                for site, recipe in zip(self._sites, self.drawn(draw, places), strict=True):
                    true = make(design, draw.seed, site.name, site.p, site.mask_shape, draw.first, draw.samples,
                                places, self._device, site.scale)
                    true = true.unsqueeze(1) if places is None else true
                    ones = torch.ones(1, len(_TRIED_PLACES), *site.mask_shape, dtype=self._dtype, device=self._device)
                    made = recipe.multiplied(ones, 0)
                    if not torch.equal(made, true.expand_as(made)):
                        return site.name
        return ""


def offered(kernel: Fused) -> str:
    """Why a kernel that was made is not offered; empty where it is."""
    try:
        wrong = kernel.wrong_site()
    except ImportError:
        return "Triton is not installed"
    except Exception as e:
        return f"it does not run here: {type(e).__name__}: {str(e).strip().splitlines()[0][:200] if str(e) else ''}"
    return f"its masks of site {wrong!r} are not those of the CPU" if wrong else ""
