"""Convolutions as sums over input channels, each convolved by itself: `service/native/channel_sums.c` as a module."""

from __future__ import annotations

from ctypes import byref, pointer
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service import native
from service.sampling.products import linear, packed

Pair = tuple[int, int]  # height and width
_SLOTS = 8  # positions that are made at a time, as in channel_sums.c


@dataclass(frozen=True)
class Geometry:
    """Of a two-dimensional convolution and the max-pool behind it, (1, 1) where there is none."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    pool: Pair

    def padded(self, size: Pair) -> Pair:
        return size[0] + 2 * self.padding[0], size[1] + 2 * self.padding[1]

    def output(self, size: Pair) -> Pair:
        """Height and width behind the pool, for an input of that height and width."""
        found = (
            ((n - d * (k - 1) - 1) // s + 1) // p
            for n, k, s, d, p in zip(self.padded(size), self.kernel, self.stride, self.dilation, self.pool, strict=True)
        )
        return next(found), next(found)

    def taps(self, size: Pair) -> np.ndarray:
        """Places of a window's numbers in a padded plane, from its first one."""
        down, across = (d * np.arange(k) for d, k in zip(self.dilation, self.kernel, strict=True))
        return (down[:, None] * self.padded(size)[1] + across).ravel().astype(np.int32)

    def slots(self, size: Pair) -> np.ndarray:
        """Where the windows of each output position start, (positions, numbers of the pool's window). The last
        position fills up what is made at a time."""
        height, width = self.output(size)
        count = height * width
        at_once = _SLOTS // prod(self.pool)
        position = np.minimum(np.arange(-(-count // at_once) * at_once), count - 1)
        phase = np.arange(prod(self.pool))
        down = (position // width)[:, None] * self.pool[0] + phase // self.pool[1]
        across = (position % width)[:, None] * self.pool[1] + phase % self.pool[1]
        return (down * self.stride[0] * self.padded(size)[1] + across * self.stride[1]).astype(np.int32)


class MaskedConvolution(nn.Module):
    """Mask over input channels, convolution, and where it is wanted ReLU, max-pool and a mask over output channels."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, geometry: Geometry, rectified: bool, lanes: int | None = None
    ) -> None:
        """weight: (outputs, channels, *kernel). All is float32. lanes: output channels that are computed side by side,
        16 or 8; what the processor has by default."""
        super().__init__()
        library = native.library()
        assert library is not None
        native.check_float32(weight, *([] if bias is None else [bias]))
        self._run, self._lanes = library.errorbar_channel_sums, lanes or int(library.errorbar_channel_lanes())
        self._geometry, self._rectified = geometry, rectified
        self.outputs, self._channels = weight.shape[:2]
        groups = -(-self.outputs // self._lanes)
        spare = groups * self._lanes - self.outputs
        filled = nn.functional.pad(weight.detach().flatten(2), (0, 0, 0, 0, 0, spare))
        by_group = filled.view(groups, self._lanes, self._channels, -1).permute(0, 2, 3, 1)
        self._weight = by_group.contiguous()
        own = weight.new_zeros(self.outputs) if bias is None else bias.detach()
        self._bias = nn.functional.pad(own, (0, spare)).contiguous()
        self._known: dict[Pair, tuple[native.Convolution, Any]] = {}

    def forward(self, value: Tensor, mask: Tensor, after: Tensor | None = None) -> Tensor:
        """value: (rows, channels, height, width); mask: (samples, rows or 1, channels, 1, 1), of 0 and one positive
        number; after: the same for output channels. To (samples·rows, outputs, height, width), channels last."""
        rows, samples = value.shape[0], mask.shape[0]
        native.check_float32(value, mask, *([] if after is None else [after]))
        size = (value.shape[2], value.shape[3])
        if size not in self._known:
            self._known[size] = self._described(size)
        height, width = self._geometry.output(size)
        made = value.new_empty(samples * rows, height, width, self.outputs)
        mask = mask.contiguous()
        after = None if after is None else after.contiguous()
        wanted = native.ChannelSums(
            pointer(self._known[size][0]), rows, samples, value.data_ptr(), value.stride(), mask.data_ptr(),
            mask.shape[1], 0 if after is None else after.data_ptr(), 1 if after is None else after.shape[1],
            made.data_ptr(),
        )
        if self._run(byref(wanted), native.threads(made.numel())):
            raise MemoryError("not enough memory for the partial maps of a convolution")
        return made.permute(0, 3, 1, 2)

    def _described(self, size: Pair) -> tuple[native.Convolution, Any]:
        """The structure, and the arrays it points to."""
        taps, slots = self._geometry.taps(size), self._geometry.slots(size)
        return native.Convolution(
            self._channels, *size, *self._geometry.padded(size), *self._geometry.padding, len(taps), self.outputs,
            prod(self._geometry.output(size)), slots.shape[1], self._rectified, self._lanes, taps.ctypes.data,
            slots.ctypes.data, self._weight.data_ptr(), self._bias.data_ptr(),
        ), (taps, slots)


class ChannelsLastLinear(nn.Module):
    """Flattens (n, channels, height, width), channels last in memory, where it lies, and multiplies that. float32 to
    float32; the product itself is of a dtype of its own."""

    def __init__(self, weight: Tensor, bias: Tensor | None, channels: int, dtype: torch.dtype) -> None:
        """weight: (out, channels·height·width)."""
        super().__init__()
        ordered = weight.detach().unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
        self._weight = packed(ordered.to(dtype).contiguous())
        self._bias, self._dtype = None if bias is None else bias.detach().to(dtype), dtype

    def forward(self, value: Tensor) -> Tensor:
        flat = value.permute(0, 2, 3, 1).flatten(1).to(self._dtype)
        return linear(flat, self._weight, self._bias).float()
