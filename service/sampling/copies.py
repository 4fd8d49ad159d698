"""Copies between the host and a CUDA device, beside what the device computes. On the CPU nothing is copied.

Host memory is pinned, so that a copy needs neither the processor nor a wait. Copies run on a stream of their own: what
is computed next waits for its inputs by an event, and a result's copy waits for what computes it. Memory lives as long
as a stream may use it: torch's allocators are told which streams do, the device's by `record_stream`, the pinned one by
the copy itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """The value there; itself where it is already. Operations launched from here on wait for it."""
    if device.type != "cuda" or value.device.type != "cpu":
        return value.to(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    computes, copies = torch.cuda.current_stream(index), _stream(index)
    with torch.cuda.stream(copies):
        copied = value.pin_memory().to(torch.device("cuda", index), non_blocking=True)
    computes.wait_stream(copies)
    copied.record_stream(computes)
    return copied


def to_host(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values on the CPU, all of them there: waited for once."""
    found: dict[str, Tensor] = {}
    used: list[torch.cuda.Stream] = []
    for name, value in values.items():
        if value.device.type != "cuda":
            found[name] = value.cpu()
            continue
        assert value.device.index is not None
        copies = _stream(value.device.index)
        copies.wait_stream(torch.cuda.current_stream(value.device))
        with torch.cuda.stream(copies):
            found[name] = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
        value.record_stream(copies)
        used.append(copies)
    for stream in dict.fromkeys(used):
        stream.synchronize()
    return found


@cache
def _stream(index: int) -> torch.cuda.Stream:
    """The stream of a device's copies."""
    return torch.cuda.Stream(index)
