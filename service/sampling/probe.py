"""The admission probe: what a network must show before it is served. Runs in `prepare`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from service.errors import ModelFailed, UnservableModel
from service.sampling.agreement import AGREEMENT, agree, furthest, scale_of
from service.sampling.kernels import Kernel
from service.sampling.masks import dropped
from service.sampling.options import MaskSharing
from service.sampling.sampler import Sampler
from service.statistics import BLOCK

_SHARINGS: tuple[MaskSharing, ...] = ("shared", "independent")
INERT = "no mask changes the output on the probe rows"


def admit(sampler: Sampler, rows: dict[str, Tensor]) -> None:
    """Holds the fast path against the reference and tries every site alone. UnservableModel where they differ, or
    where no site does anything. A kernel that alone differs is left out. A site that does nothing is marked inert."""
    _check_prediction(sampler, rows)
    if not sampler.samples_something:
        return
    _check_agreement(sampler, rows)
    _check_ending(sampler, rows)
    sampler.sites[:] = [
        replace(site, note=INERT) if site.active and not _moves_output(sampler, rows, site.name) else site
        for site in sampler.sites
    ]
    if all(site.note for site in sampler.sites):
        names = ", ".join(site.name for site in sampler.sites)
        raise UnservableModel(f"no site can change the output on the example rows: {names}")


def _check_prediction(sampler: Sampler, rows: dict[str, Tensor]) -> None:
    fast = sampler.predict(rows)
    slow = sampler.predict_reference(rows)
    scale = scale_of(slow, sampler.task)
    if not agree(fast, slow, scale):
        raise UnservableModel("the captured prediction differs from the module's in eval mode")
    alone = torch.cat([sampler.predict({k: v[i : i + 1] for k, v in rows.items()}) for i in range(len(fast))])
    if not agree(fast, alone, scale):
        raise UnservableModel("a row's prediction depends on its neighbours in the batch")


def _check_agreement(sampler: Sampler, rows: dict[str, Tensor]) -> None:
    """Every kernel with all the masks that it may ever run."""
    general = sampler.kernels[0]
    for masks in _SHARINGS:
        slow = sampler.reference(rows, BLOCK, masks=masks).draws
        assert slow is not None
        scale = scale_of(slow.flatten(0, 1), sampler.task)
        for kernel in list(sampler.kernels):
            if masks == "independent" and not kernel.per_row_masks:
                continue
            apart = _apart(sampler, rows, masks, kernel, slow, scale)
            if apart <= AGREEMENT:
                continue
            if kernel is general:
                raise UnservableModel(f"with {masks} masks the fast path differs from one eager pass a sample")
            sampler.leave_out(kernel, f"on the example rows with {masks} masks it is {apart:.2g} of the output's scale "
                                      "off one eager pass a sample")


def _apart(
    sampler: Sampler, rows: dict[str, Tensor], masks: MaskSharing, kernel: Kernel, slow: Tensor, scale: Tensor | float
) -> float:
    """How far a kernel's samples are from the reference's, in scales; infinity where they are no numbers."""
    try:
        fast = sampler.uncertainty(rows, BLOCK, masks=masks, include_samples=True, kernel=kernel).draws
    except ModelFailed:
        return float("inf")
    assert fast is not None
    return furthest(fast, slow, scale)


def _check_ending(sampler: Sampler, rows: dict[str, Tensor]) -> None:
    """Where the last site's masks are averaged over exactly: each sample of the reference must be that average plus
    what the sample's own mask adds, and the standard deviation must be the one of all masks of a few units."""
    count = len(next(iter(rows.values())))
    for masks in _SHARINGS:
        found = sampler.conditional_means(rows, BLOCK, masks)
        if found is None:
            return
        ending, mean, value = found
        site = ending.site
        places = np.arange(count) if masks == "independent" else None
        bits = torch.from_numpy(~dropped("balanced", 0, site.name, site.p, site.mask_shape, 0, BLOCK, places))
        bits = bits.to(mean.device).view(BLOCK, -1, *site.mask_shape).expand(BLOCK, count, *site.mask_shape)
        slow = sampler.reference(rows, samples=BLOCK, masks=masks).draws
        assert slow is not None
        told = (mean + ending.deviation(value, bits.flatten(0, 1))).view(BLOCK, count, -1).transpose(0, 1)
        slow = slow.reshape(told.shape)
        if not agree(told, slow, scale_of(slow.flatten(0, 1))):
            raise UnservableModel(f"site {site.name!r}: what follows it is not the affine map it was taken for")
    told_std, exact = ending.std_of_few(value)
    if not torch.allclose(told_std, exact, rtol=AGREEMENT, atol=0):
        raise UnservableModel(f"site {site.name!r}: its exact standard deviation is not that of all its masks")


def _moves_output(sampler: Sampler, rows: dict[str, Tensor], name: str) -> bool:
    return any(sampler.differs_with_only(name, rows, seed) for seed in range(3))

