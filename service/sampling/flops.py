"""How much of a network's arithmetic no mask reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode


def flops(root: nn.Module, graph: fx.Graph, rows: Sequence[Tensor]) -> int:
    """Floating point operations of matrix products and convolutions, for those rows."""
    counter = FlopCounterMode(display=False)
    backend: Any = torch.backends.mkldnn
    before = backend.enabled
    backend.enabled = False  # recurrent layers then run as products that are counted
    try:
        with torch.no_grad(), counter:
            fx.Interpreter(root, graph=graph).run(*rows)
    finally:
        backend.enabled = before
    return int(counter.get_total_flops())
