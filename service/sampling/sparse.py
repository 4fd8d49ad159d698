"""Chains of linear layers with ReLU or nothing between, one sample of a row at a time, in C.

Half of a layer's units are dropped, half of the others are left at 0 by ReLU: their weights are not read, so a sample
costs a quarter of the multiplications, and there is no step of torch between the layers. A row's answer does not depend
on what else runs, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import CDLL, addressof, byref
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from service import native
from service.sampling.bank import Draw, SeedBank
from service.sampling.dense import DenseChain, Stage
from service.sampling.kernels import FoldedChain, Places
from service.sampling.sites import Site
from service.sampling.split import Split

LANES = 16
_ROWS = 256


class Sparse(FoldedChain):
    """Rows may have masks of their own."""

    name = "sparse"
    rows_apart = True
    _purpose = "sparse"
    _dtype = torch.float32
    _work_of_one = 64  # multiplications in the time of one number elsewhere; see `native.threads`

    def __init__(
        self, chain: DenseChain, split: Split, sites: Sequence[Site], bank: SeedBank, device: torch.device,
        classifies: bool,
    ) -> None:
        """classifies: whether the outputs are logits of classes."""
        self._outputs = chain.stages[-1].weight.shape[0]
        # nothing is held but outputs, of which statistics make a few float64 copies
        super().__init__(chain, replace(split, suffix_width=8 * self._outputs), sites, bank, device)
        self.rows = _ROWS
        self._kept: list[Tensor] = []  # what the stages point to
        self._stages = (native.Stage * len(chain.stages))(*map(self._stage, chain.stages))
        self.normalised = classifies and self._outputs <= native.MOST_CLASSES
        self._chain_of_stages = native.Chain(
            count=len(self._stages), softmax=self.normalised, largest=chain.largest, stages=addressof(self._stages)
        )
        self._products = sum(stage.weight.numel() for stage in chain.stages)

    @property
    def held(self) -> Sequence[Tensor]:
        return [*super().held, *self._kept]

    @classmethod
    def fits(cls, chain: DenseChain | None, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether such a chain can run so, here."""
        return (
            chain is not None and device.type == "cpu" and dtype is cls._dtype and native.library() is not None
            and all(stage.relu is not None for stage in chain.stages)
        )

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        value, output = self._readable(values[0]), torch.empty(samples, rows, self._outputs)
        for stage, keeps in zip(self._stages, drawn, strict=True):
            stage.keeps = keeps.data_ptr()
        chain = self._chain_of_stages
        chain.rows, chain.samples, chain.row_masks = rows, samples, drawn[0].shape[1] > 1
        chain.values, chain.output = value.data_ptr(), output.data_ptr()
        library = native.library()
        assert library is not None
        if self._function(library)(byref(chain), native.threads(samples * rows * self._products // self._work_of_one)):
            raise MemoryError("not enough memory for a layer's values")
        return output

    @staticmethod
    def _function(library: CDLL) -> Callable[..., int]:
        found: Callable[..., int] = library.errorbar_dense_chain
        return found

    def _readable(self, value: Tensor) -> Tensor:
        """What the first site acts on, (rows, in), as the function reads it."""
        native.check_float32(value)
        return value.contiguous()

    def _made(self, site: Site, draw: Draw, places: Places) -> Tensor:
        """Sixteen bits a word, 1 where a unit stays: (samples, rows or none, words), int16."""
        keeps = super()._made(site, draw, places).numpy() != 0
        made = np.zeros((*keeps.shape[:-1], words(keeps.shape[-1])), np.int16)
        packed = np.packbits(keeps, -1, "little")
        made.view(np.uint8)[..., : packed.shape[-1]] = packed
        return torch.from_numpy(made)

    def _stage(self, stage: Stage) -> native.Stage:
        outputs, inputs = stage.weight.shape
        width = up_to(outputs, LANES)
        weight, bias = torch.zeros(inputs, width), torch.zeros(width)
        weight[:, :outputs], bias[:outputs] = stage.weight.T / stage.keeps, stage.bias[:, 0]
        sizes = [4 * LANES] * (width // (4 * LANES)) + [n * LANES for n in (2, 1) if width // LANES & n]
        panels = torch.cat([panel.flatten() for panel in weight.split(sizes, 1)])
        self._kept += [panels, bias]
        return native.Stage(
            inputs, outputs, width, words(inputs), panels.data_ptr(), bias.data_ptr(), relu=bool(stage.relu)
        )


def words(units: int) -> int:
    """That hold a bit a unit."""
    return -(-units // LANES)


def up_to(number: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-number // step) * step
