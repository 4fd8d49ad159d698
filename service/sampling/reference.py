"""The slow, obvious way: the module itself, one sample at a time, same masks. The oracle of every fast path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from service.errors import UnservableModel
from service.sampling.arming import Inputs, armed, call, plain_attention
from service.sampling.device import exact_float32

_DROPOUTS: frozenset[Callable[..., Any]] = frozenset({
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d,
    torch.dropout, torch.dropout_, torch.feature_dropout, torch.feature_dropout_,
})


class MaskedDropout(TorchFunctionMode):
    """Multiplies by the next of the given masks wherever dropout is called. Masks: (1 or rows, …) each, in the order
    of the calls; None leaves that call out."""

    def __init__(self, masks: Sequence[Tensor | None]) -> None:
        super().__init__()
        self._masks = list(masks)
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _DROPOUTS:
            return func(*args, **kwargs)
        value = args[0] if args else kwargs["input"]
        p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
        if not training or p == 0:
            return value
        mask = self._masks[self.calls] if self.calls < len(self._masks) else None
        self.calls += 1
        return value if mask is None else value * mask


def reference_sample(module: nn.Module, rows: Inputs, positional: bool, masks: Sequence[Tensor | None]) -> Tensor:
    """One sample's raw outputs (rows, …). masks: one for every site in order, already 0 or 1/(1-p)."""
    device = next(iter(rows.values())).device
    with torch.no_grad(), exact_float32(device), plain_attention(), armed(module), MaskedDropout(masks) as mode:
        output = call(module, rows, positional)
    if mode.calls != len(masks):
        raise UnservableModel(f"the module called dropout {mode.calls} times where its graph has {len(masks)} sites")
    return output
