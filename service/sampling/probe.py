"""The admission probe: what a network must show before it is served. Runs in `prepare`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from service.errors import UnservableModel
from service.sampling.kernels import Kernel
from service.sampling.masks import dropped
from service.sampling.options import MaskSharing
from service.sampling.sampler import Sampler
from service.statistics import BLOCK

AGREEMENT = 1e-5  # of the output's scale: fast path against reference
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


def _scale(values: Tensor, sampler: Sampler) -> float:
    if sampler.task in ("classification", "multilabel"):
        return 1.0
    return max(float(values.abs().max()), 1e-30)


def _check_prediction(sampler: Sampler, rows: dict[str, Tensor]) -> None:
    fast = sampler.predict(rows)
    slow = sampler.predict_reference(rows)
    scale = _scale(slow, sampler)
    if float((fast - slow).abs().max()) > AGREEMENT * scale:
        raise UnservableModel("the captured prediction differs from the module's in eval mode")
    alone = torch.cat([sampler.predict({k: v[i : i + 1] for k, v in rows.items()}) for i in range(len(fast))])
    if float((fast - alone).abs().max()) > AGREEMENT * scale:
        raise UnservableModel("a row's prediction depends on its neighbours in the batch")


def _check_agreement(sampler: Sampler, rows: dict[str, Tensor]) -> None:
    ways: list[tuple[Kernel | None, MaskSharing]] = [(kernel, "shared") for kernel in sampler.kernels]
    general = sampler.kernels[0]
    for kernel, masks in [*ways, (None, "independent")]:
        fast = sampler.uncertainty(rows, samples=10, masks=masks, include_samples=True, kernel=kernel).draws
        slow = sampler.reference(rows, samples=10, masks=masks).draws
        assert fast is not None
        assert slow is not None
        apart = float((fast - slow).abs().max())
        if apart <= AGREEMENT * _scale(slow, sampler):
            continue
        if kernel is None or kernel is general:
            raise UnservableModel(f"with {masks} masks the fast path differs from one eager pass a sample")
        sampler.leave_out(kernel, f"on the example rows it is {apart:.2g} off one eager pass a sample")


def _check_ending(sampler: Sampler, rows: dict[str, Tensor]) -> None:
    """Where the last site's masks are averaged over exactly: each sample of the reference must be that average plus
    what the sample's own mask adds, and the standard deviation must be the one of all masks of a few units."""
    count = len(next(iter(rows.values())))
    modes: tuple[MaskSharing, ...] = ("shared", "independent")
    for masks in modes:
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
        if float((told - slow.reshape(told.shape)).abs().max()) > AGREEMENT * _scale(slow, sampler):
            raise UnservableModel(f"site {site.name!r}: what follows it is not the affine map it was taken for")
    told_std, exact = ending.std_of_few(value)
    if not torch.allclose(told_std, exact, rtol=AGREEMENT, atol=0):
        raise UnservableModel(f"site {site.name!r}: its exact standard deviation is not that of all its masks")


def _moves_output(sampler: Sampler, rows: dict[str, Tensor], name: str) -> bool:
    return any(sampler.differs_with_only(name, rows, seed) for seed in range(3))

