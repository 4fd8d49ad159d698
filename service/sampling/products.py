"""Matrix products by the faster of torch's two libraries, and operations by their quicker names.

On the CPU torch multiplies float32 matrices with MKL, which leaves half of some processors' vector units idle; oneDNN,
in the same torch, does not. Which one is faster here is timed once in a process, unless a rule chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import cast

import torch
from torch import Tensor, fx

from service.clock import MonotonicClock
from service.sampling.untimed import by_rule

_LARGE = 2 << 20  # multiplications: smaller products are quicker without oneDNN's set-up
_TRIES = 9
_onednn = torch.ops.mkldnn


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (…, in), weight (out, in) or what `packed` made of it, bias (out,): as `torch.nn.functional.linear`, within
    rounding."""
    if weight.is_mkldnn or (
        rows.numel() * weight.shape[0] >= _LARGE and _plain(rows) and _plain(weight) and onednn_is_faster()
    ):
        return cast(Tensor, _onednn._linear_pointwise(rows, weight, bias, "none", [], ""))
    return torch.nn.functional.linear(rows, weight, bias)


def packed(weight: Tensor) -> Tensor:
    """A weight in the layout that its products read, which nothing else can read."""
    if _plain(weight) and onednn_is_faster():
        return cast(Tensor, _onednn._reorder_linear_weight(weight))
    return weight


def _plain(tensor: Tensor) -> bool:
    return tensor.dtype is torch.float32 and tensor.device.type == "cpu"


def onednn_is_faster() -> bool:
    """Whether oneDNN is to multiply matrices: it is there, and is faster than torch by itself, or a rule chooses."""
    return _has_onednn() and (by_rule() or _onednn_won())


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(_onednn, "_linear_pointwise")


@cache
def _onednn_won() -> bool:
    """Of matrices of a usual size."""
    rows, weight = torch.ones(128, 256), torch.ones(256, 256)
    products: tuple[Callable[[], Tensor], ...] = (
        partial(torch.nn.functional.linear, rows, weight),
        partial(_onednn._linear_pointwise, rows, weight, None, "none", [], ""),
    )
    clock = MonotonicClock()
    best = [float("inf")] * 2
    with torch.no_grad():
        for _ in range(_TRIES):
            for i, product in enumerate(products):
                started = clock.now()
                product()
                best[i] = min(best[i], clock.now() - started)
    return best[1] < best[0]


_aten = torch.ops.aten
# torch's own functions take a call from Python in two thirds of the time of the same operation under torch.ops
_QUICK = {
    _aten.linear.default: linear, _aten.relu.default: torch.relu, _aten.add.Tensor: torch.add,
    _aten.sub.Tensor: torch.sub, _aten.mul.Tensor: torch.mul, _aten.div.Tensor: torch.div,
}


def with_quick_calls(graph: fx.Graph) -> fx.Graph:
    """The same graph, its linear layers by `linear` and other frequent operations by torch's own functions."""
    for node in graph.nodes:
        node.target = _QUICK.get(node.target, node.target)
    return graph
