"""Chains of linear layers in bfloat16, with ReLU or nothing between, by the processor's matrix tiles, in C.

Sixteen passes stand side by side as the columns of a tile, masked once they are in the nearest cache. Every weight is
multiplied, also those of units that are dropped, at sixteen times the speed of float32. A row's answer does not depend
on what else runs, to the last bit. The last layer is float32, as in `LoweredChain`.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CDLL

import torch
from torch import Tensor, nn

from service import native
from service.sampling.dense import DenseChain, Stage
from service.sampling.sparse import LANES, Sparse, up_to, words

_DEPTH = 32  # inputs of a tile


class Tiled(Sparse):
    """Rows may have masks of their own."""

    name = "tiled"
    _dtype = torch.bfloat16
    _work_of_one = 512

    @classmethod
    def fits(cls, chain: DenseChain | None, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether such a chain can run so, here."""
        return super().fits(chain, device, dtype) and chain is not None and len(chain.stages) > 1 and cls._has_tiles()

    @staticmethod
    def _has_tiles() -> bool:
        library = native.library()
        return library is not None and bool(library.errorbar_has_tiles())

    @staticmethod
    def _function(library: CDLL) -> Callable[..., int]:
        found: Callable[..., int] = library.errorbar_tile_chain
        return found

    def _readable(self, value: Tensor) -> Tensor:
        missing = self._stages[0].width - value.shape[1]
        value = value.to(torch.bfloat16)
        return nn.functional.pad(value, (0, missing)) if missing else value.contiguous()

    def _stage(self, stage: Stage) -> native.Stage:
        outputs, inputs = stage.weight.shape
        scaled, width = stage.weight / stage.keeps, up_to(inputs, _DEPTH)
        if stage is self._chain.stages[-1]:
            made = torch.zeros(up_to(outputs, LANES), inputs)
            made[:outputs] = scaled
            weight = made.view(-1, LANES, inputs).transpose(1, 2).contiguous()
        else:
            made = torch.zeros(up_to(outputs, 2 * LANES), width)
            made[:outputs, :inputs] = scaled
            weight = made.view(-1, LANES, width // _DEPTH, _DEPTH).transpose(1, 2).to(torch.bfloat16).contiguous()
        bias = torch.zeros(len(made))
        bias[:outputs] = stage.bias[:, 0]
        self._kept += [weight, bias]
        return native.Stage(
            inputs, outputs, width, words(inputs), weight.data_ptr(), bias.data_ptr(), relu=bool(stage.relu))
