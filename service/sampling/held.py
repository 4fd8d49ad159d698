"""How much memory weights and constants take."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of tensors together; those that lie in the same place count once."""
    return sum({_place(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters, buffers and tensors that are plain attributes, as of weights in a layout of their own."""
    plain = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return [*module.parameters(), *module.buffers(), *plain]


def _place(tensor: Tensor) -> tuple[str, int]:
    if tensor.is_mkldnn:  # packed by oneDNN: its memory has no address that torch tells
        return "packed", id(tensor)
    return "plain", tensor.data_ptr()
