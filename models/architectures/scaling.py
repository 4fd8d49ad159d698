"""Scaling that travels with the weights, so that a network takes and gives numbers in their own units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Numbers = Sequence[float] | float


class Standardise(nn.Module):
    """Rows in their own units to rows of about zero mean and unit spread: (x - shift) / scale.

    `shift` and `scale` are buffers of shape `shape`, so `weights.safetensors` holds them and a manifest need not.
    A single number stands for all entries. ValueError where a scale is zero: a constant feature has nothing to
    scale by and wants scale 1. NaN stays NaN.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], shift: Numbers = 0.0, scale: Numbers = 1.0) -> None:
        super().__init__()
        self.register_buffer("shift", _spread(shift, shape))
        self.register_buffer("scale", _spread(scale, shape))
        if bool((self.scale == 0).any()):
            raise ValueError("scale holds a zero; give 1 for a feature that does not vary")

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.shift) / self.scale


class Restore(nn.Module):
    """A standardised target back to the target's own unit: x * scale + shift.

    The shift comes last: what was computed before it is small, so it keeps its digits under any order of summation.
    `shift` and `scale` are buffers of shape (outputs,). A single number stands for all entries.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, outputs: int, shift: Numbers = 0.0, scale: Numbers = 1.0) -> None:
        super().__init__()
        self.register_buffer("shift", _spread(shift, (outputs,)))
        self.register_buffer("scale", _spread(scale, (outputs,)))

    def forward(self, standardised: Tensor) -> Tensor:
        return standardised * self.scale + self.shift


def _spread(value: Numbers, shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape)).copy_(torch.as_tensor(value, dtype=torch.float32))
