"""Exact averages over the masks of the last site, where affine maps follow it.

A site gives `gain · (value - centre)` for a unit it keeps and 0 for one it drops, plus a constant: with keep in {0, 1},
it departs from its own mean by gain · (keep - (1 - p)) · (value - centre). Units are independent, so an output that is
affine in them has the variance gain² p (1 - p) Σ_u (Σ_{i in u} w_i (value_i - centre))², the inner sum over the numbers
that share a bit: one for an element-wise site, a channel for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from service.sampling.bank import SeedBank
from service.sampling.kernels import Folded
from service.sampling.sites import Site
from service.sampling.split import Split

_FEW = 6  # units of which all masks are gone through


@dataclass(frozen=True)
class MaskLaw:
    """What a site does to a unit's value, as far as mean and variance go: centre is 0, or for alpha dropout what takes
    the place of a dropped unit."""

    p: float
    gain: float
    centre: float

    @property
    def slope(self) -> float:
        """The mean of what a site gives is this times the value: 1 for dropout, less for AlphaDropout."""
        return self.gain * (1 - self.p)

    @property
    def variance(self) -> float:
        """Of what a site gives for a unit whose value lies 1 from the centre."""
        return self.gain**2 * self.p * (1 - self.p)


class Ending:
    """The last site and what follows it, as one matrix; and how to get there.

    split: its suffix takes the other sites' masks and gives the output with the site as the identity and the value
    that it acts on, both samples·rows; its width counts what is computed from them.
    """

    def __init__(self, site: Site, law: MaskLaw, row_axis: int, matrix: Tensor, split: Split) -> None:
        """matrix: (outputs, *shape of one row of the site)."""
        self.site, self.law = site, law
        self._row_axis = row_axis
        self._matrix = self._by_unit(matrix)
        outputs, units, shared = self._matrix.shape
        self._squares = self._matrix.square().flatten(1).T.contiguous() if shared == 1 else None
        # float64 takes twice the room
        width = max(split.suffix_width, 4 * units * shared, 0 if shared == 1 else 4 * outputs * units)
        self.split = replace(split, suffix_width=width)

    @property
    def held(self) -> list[Tensor]:
        """The matrix, and its squares where they are read."""
        return [self._matrix] if self._squares is None else [self._matrix, self._squares]

    def mean(self, plain: Tensor, value: Tensor) -> Tensor:
        """Of the output over the site's masks, (n, outputs). plain: the output with the site as the identity;
        value: what the site acts on."""
        plain = plain.reshape(plain.shape[0], -1)
        if self.law.slope == 1:
            return plain
        return plain + ((self.law.slope - 1) * self._weighted(self._read(value)).sum(1)).to(plain.dtype)

    def std(self, value: Tensor) -> Tensor:
        """Of the output over the site's masks, (n, outputs), float64: squares of small numbers stay above 0."""
        away = self._read(value)
        if self.law.centre:
            away.sub_(self.law.centre)
        if self._squares is not None:
            return (away.mul_(away).flatten(1) @ self._squares).mul_(self.law.variance).sqrt_()
        return (self._weighted(away).square().sum(1) * self.law.variance).sqrt()

    def deviation(self, value: Tensor, keep: Tensor) -> Tensor:
        """Of the output from its mean over the site's masks, for masks keep (n or 1, *mask shape) in {0, 1}:
        (n, outputs)."""
        bits = keep.flatten(1).double() - (1 - self.law.p)
        return self.law.gain * torch.einsum("nu,nuo->no", bits, self._weighted(self._read(value) - self.law.centre))

    def std_of_few(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`std` where all units but a few are at their centre, and the same by going through all masks of the few:
        two tensors (outputs,), of the first row. For the probe."""
        units = prod(self.site.mask_shape)
        few = torch.linspace(0, units - 1, min(units, _FEW), device=value.device).long()
        chosen = torch.zeros(units, dtype=torch.bool, device=value.device)
        chosen[few] = True
        row = value.movedim(self._row_axis, 0)[:1].double()  # float32 does not hold the centre exactly
        one = torch.where(chosen.view(self.site.mask_shape), row, self.law.centre).movedim(0, self._row_axis)
        masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * len(few)).view(-1, len(few))
        chance = (masks * (1 - self.law.p) + (1 - masks) * self.law.p).prod(1).to(value.device)
        keep = torch.zeros(len(masks), units, dtype=torch.float64, device=value.device)
        keep[:, few] = masks.to(value.device)
        away = self.deviation(one, keep)
        mean = chance @ away
        return self.std(one)[0], (chance @ (away - mean).square()).sqrt()

    def _read(self, value: Tensor) -> Tensor:
        """A copy, (n, units, numbers that share a unit's bit), float64."""
        return self._by_unit(value.movedim(self._row_axis, 0)).to(torch.float64, copy=True)

    def _by_unit(self, value: Tensor) -> Tensor:
        """(n, *shape) to (n, units of the mask, numbers that share a unit's bit)."""
        shape, mask = value.shape[1:], self.site.mask_shape
        shared = [i + 1 for i, (n, m) in enumerate(zip(shape, mask, strict=True)) if m != n]
        own = [i + 1 for i in range(len(shape)) if i + 1 not in shared]
        return value.permute(0, *own, *shared).reshape(value.shape[0], prod(mask), -1)

    def _weighted(self, value: Tensor) -> Tensor:
        """Each unit's part in each output: (n, units, numbers) to (n, units, outputs)."""
        return torch.einsum("nug,oug->nuo", value, self._matrix)


class Conditional(Folded):
    """Samples of the other sites' masks; in place of an output its mean and standard deviation over the last one's."""

    name = _purpose = "conditional"

    def __init__(self, ending: Ending, sites: Sequence[Site], bank: SeedBank, device: torch.device) -> None:
        super().__init__(ending.split, sites, bank, device)
        self.ending = ending

    @property
    def held(self) -> Sequence[Tensor]:
        return self.ending.held

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        """(samples, rows, 2·outputs): means, then standard deviations."""
        mean, value = self.means(values, rows, samples, drawn)
        return torch.cat([mean, self.ending.std(value).to(mean.dtype)], 1).view(samples, rows, -1)

    def means(
        self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Means over the last site's masks, (samples·rows, outputs), and what that site acts on."""
        plain, value = self.split.suffix.forward(samples, samples * rows, *drawn, *values)
        return self.ending.mean(plain, value), value
