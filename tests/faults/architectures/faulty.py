"""A network that does what its input says: the faults that a server must outlive."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

RAISES, NOT_A_NUMBER, EXITS, HANGS, OUT_OF_MEMORY, SLOW = (666.0, 667.0, 668.0, 669.0, 670.0, 671.0)


class Faulty(nn.Module):
    """A classifier of one number. What it decides by data keeps it from being captured, so it runs as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop, self.outer = nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.outer(self.drop(self.inner(x / 1000).relu()))
        if (x == RAISES).any():
            raise RuntimeError("an input that it cannot bear")
        if (x == NOT_A_NUMBER).any():
            return output * float("nan")
        if (x == EXITS).any():
            raise SystemExit(3)
        if (x == HANGS).any():
            time.sleep(600)
        if (x == OUT_OF_MEMORY).any():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if (x == SLOW).any():
            time.sleep(0.001)
        return output
