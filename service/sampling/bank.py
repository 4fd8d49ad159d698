"""Masks as the network takes them, and the ones of recent seeds kept for the next request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.sampling.masks import Design, dropped
from service.sampling.sites import Site

_MASK_BANK_BYTES = 16 << 20
_KEPT_SAMPLES = 500  # the bank serves the usual request; a long one makes its masks as it goes


class MaskBank:
    """Masks as tensors of 0 and 1/(1-p). Shared ones of recent seeds are kept, within a byte budget."""

    def __init__(self, sites: Sequence[Site], order: Sequence[str], device: torch.device) -> None:
        """order: names of the sites whose masks are made, in the order in which they are given."""
        by_name = {site.name: site for site in sites}
        self._sites = [by_name[name] for name in order]
        self._device = device
        self._kept: OrderedDict[tuple[Design, int, int, int], list[Tensor]] = OrderedDict()
        self._kept_bytes = 0
        self.bytes_per_sample = sum(4 * int(np.prod(site.mask_shape)) for site in self._sites)

    def masks(self, design: Design, seed: int, first: int, samples: int, places: np.ndarray | None) -> list[Tensor]:
        """One tensor a site, (samples, rows or 1, *mask_shape), float32."""
        if places is not None:
            return [self._made(site, design, seed, first, samples, places) for site in self._sites]
        key = (design, seed, first, samples)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = [self._made(site, design, seed, first, samples, None).unsqueeze(1) for site in self._sites]
        size = samples * self.bytes_per_sample
        if first < _KEPT_SAMPLES and size <= _MASK_BANK_BYTES // 4:
            self._kept[key] = made
            self._kept_bytes += size
        while self._kept_bytes > _MASK_BANK_BYTES:
            (_, _, _, dropped_samples), _ = self._kept.popitem(last=False)
            self._kept_bytes -= dropped_samples * self.bytes_per_sample
        return made

    def _made(
        self, site: Site, design: Design, seed: int, first: int, samples: int, places: np.ndarray | None
    ) -> Tensor:
        bits = dropped(design, seed, site.name, site.p, site.mask_shape, first, samples, places)
        keep = torch.from_numpy(~bits).to(self._device)
        return keep.to(torch.float32) * (1 / (1 - site.p))
