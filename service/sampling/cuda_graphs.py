"""Recordings on a CUDA device: the one place that captures CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from service.sampling.device import release
from service.sampling.graphs import Graphs

_WARM_UPS = 3  # libraries pick their kernels and set themselves up in the first runs, which must not be recorded
_MOST_BYTES, _SHARE = 1 << 30, 16  # of a device's memory for the recordings of one network: at most a sixteenth of it


class CudaGraph:
    """What some work launches, captured with memory of its own."""

    def __init__(self, device: torch.device, work: Callable[[], Sequence[Tensor]]) -> None:
        with torch.cuda.device(device):
            computes, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(computes)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    work()
            computes.wait_stream(aside)
            torch.cuda.synchronize()
            release(device)
            before = torch.cuda.memory_reserved()
            self._graph = torch.cuda.CUDAGraph()
            # other threads may use the device meanwhile: only what this one does wrong ends the capture
            with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
                self.outputs = list(work())
            self.held_bytes = max(torch.cuda.memory_reserved() - before, 0)

    def replay(self) -> None:
        self._graph.replay()


def graphs_of(device: torch.device) -> Graphs | None:
    """An empty store of recordings for one network; None where the device records nothing."""
    if device.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    return Graphs(partial(CudaGraph, device), min(_MOST_BYTES, total // _SHARE))
