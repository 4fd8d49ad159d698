"""The kernels of a network, and which of them serves how many rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from service.clock import MonotonicClock
from service.errors import InvalidOption
from service.sampling.bank import BANK_BYTES, FRESH_BYTES, SeedBank
from service.sampling.channels import ChannelSums, with_channel_sums
from service.sampling.chunks import MASKS_AT_ONCE_BYTES, chunk
from service.sampling.conditional import Conditional
from service.sampling.device import roomy
from service.sampling.eager import Eager
from service.sampling.fused import Fused, offered
from service.sampling.graphs import Graphs
from service.sampling.kernels import Folded, FoldedChain, Kernel, Stacked, Thinned, Timing, fastest_from
from service.sampling.plan import Plan
from service.sampling.replayed import Replayed, with_replays
from service.sampling.sites import Site
from service.sampling.sparse import Sparse
from service.sampling.tiled import Tiled
from service.sampling.untimed import by_rule
from service.statistics import BLOCK, Task


class Kernels:
    """general: runs everything, rows with masks of their own too. every: those that sample, general first.
    conditional: the one that averages over the last site's masks; None where the plan has no ending.
    serves_from: (rows, kernel), ascending: each serves from so many rows on. timings: by which that was settled."""

    def __init__(self, plan: Plan, device: torch.device, task: Task, graphs: Graphs | None = None) -> None:
        """graphs: where passes are recorded; None where they are not."""
        by_name = {site.name: site for site in plan.sites}
        sites = [by_name[name] for name in plan.split.masks]
        bank = SeedBank(roomy(BANK_BYTES, device), roomy(FRESH_BYTES, device))
        graphs = graphs if plan.network is None and sites else None
        if graphs is not None:
            plan = replace(plan, split=with_replays(plan.split, graphs))
        summed = with_channel_sums(plan) if device.type == "cpu" else None
        if summed is not None and plan.dtype is torch.bfloat16:
            # alone: it rounds less than other kernels, and a row must be itself in any company
            self.general: Kernel = ChannelSums(summed, sites, bank, device)
            summed = None
        else:
            self.general = _general(plan, sites, bank, device)
        self.every: list[Kernel] = [self.general]
        if plan.chain is not None and plan.chain.bytes_per_sample * BLOCK <= MASKS_AT_ONCE_BYTES:
            self.every += [cut(plan.chain, plan.split, sites, bank) for cut in (Thinned, Stacked)]
        for kind in (Sparse, Tiled):
            if plan.chain is not None and kind.fits(plan.chain, device, plan.dtype):
                self.every.append(kind(plan.chain, plan.split, sites, bank, device, task == "classification"))
        if summed is not None:
            self.every.append(ChannelSums(summed, sites, bank, device))
        self._graphs, self._refused = graphs, ""
        if graphs is not None:
            fused = Fused(plan.split, sites, bank, device, plan.dtype)
            self._refused = offered(fused)
            self.every += [] if self._refused else [fused]
            self.every += [Replayed(kernel, graphs) for kernel in self.every]
        self.conditional: Conditional | None = None
        if plan.ending is not None:
            others = [by_name[name] for name in plan.ending.split.masks]
            self.conditional = Conditional(plan.ending, others, bank, device)
        self.serves_from: list[tuple[int, Kernel]] = [(1, self.every[-1])]
        self.timings: list[Timing] = []
        self._left_out: list[str] = []

    @property
    def notes(self) -> list[str]:
        """Kernels that were left out and why, and what a device has of its own: what is replayed, and what is not."""
        if self._graphs is None:
            return self._left_out
        refused = [f"fused: not offered: {self._refused}"] * bool(self._refused)
        return self._left_out + refused + self._graphs.described()

    def leave_out(self, kernel: Kernel, why: str) -> None:
        """Never runs it again. kernel: not the general one."""
        assert kernel is not self.general
        self.every.remove(kernel)
        self.serves_from[:] = [(1, self.every[-1])]
        self._left_out.append(f"{kernel.name}: left out: {why}")
        logging.getLogger(__name__).warning("kernel %s is left out: %s", kernel.name, why)

    def tune(self, given: Sequence[Tensor]) -> None:
        """Times the kernels on copies of some rows and settles which one serves how many rows. Where a rule
        chooses, the last one serves them all. given: by input."""

        def read(kernel: Kernel, rows: int) -> Sequence[Tensor]:
            some = [value.repeat(-(-rows // value.shape[0]), *[1] * (value.dim() - 1))[:rows] for value in given]
            made: Sequence[Tensor] = kernel.split.prefix.forward(*some)
            return made

        if len(self.every) > 1 and not by_rule():
            self.timings = fastest_from(self.every, read, chunk, MonotonicClock())
            self.serves_from[:] = [(timing.rows, timing.fastest) for timing in self.timings]

    def for_rows(self, rows: int, independent: bool, wanted: Kernel | None) -> Kernel:
        """The one that serves so many rows; `wanted` where that is given. independent: whether rows have masks of
        their own. InvalidOption where the wanted one cannot run them, or is not of this network."""
        if wanted is not None:
            self._check_own(wanted)
            if independent and not wanted.per_row_masks:
                raise InvalidOption.at("kernel", f"{wanted.name} cannot run rows that have masks of their own")
            return wanted
        return [self.general, *(k for k in self._serving(rows) if k.per_row_masks or not independent)][-1]

    def for_remaining(self, rows: int, independent: bool, wanted: Kernel | None) -> Kernel:
        """As `for_rows`, for rows that stop early: as they become fewer they change kernels, on values of one prefix,
        the general kernel's."""
        if wanted is not None:
            self._check_own(wanted)
            if not self._shares_prefix(wanted):
                raise InvalidOption.at(
                    "kernel", f"{wanted.name} has a prefix of its own, on which rows cannot stop early")
        kernel = self.for_rows(rows, independent, wanted)
        return kernel if self._shares_prefix(kernel) else self.general

    def _check_own(self, wanted: Kernel) -> None:
        """A kernel of another network would give that one's answers."""
        if not any(kernel is wanted for kernel in self.every):
            names = ", ".join(kernel.name for kernel in self.every)
            raise InvalidOption.at("kernel", f"one of this sampler's own kernels expected ({names})")

    def _shares_prefix(self, kernel: Kernel) -> bool:
        return kernel.split.prefix is self.general.split.prefix

    def _serving(self, rows: int) -> list[Kernel]:
        return [kernel for first, kernel in self.serves_from if rows >= first]


def _general(plan: Plan, sites: Sequence[Site], bank: SeedBank, device: torch.device) -> Kernel:
    """sites: the active ones."""
    if plan.network is not None:
        return Eager(plan.network, plan.split)
    if plan.chain is not None:
        return FoldedChain(plan.chain, plan.split, sites, bank, device, plan.dtype)
    return Folded(plan.split, sites, bank, device, plan.dtype)
