"""Work that is recorded once and replayed: on a device a launch costs more than what it computes where rows are few.

A recording reads the buffers that it was made with and no others, so whoever replays it copies what it shall read into
them first. What it was recorded on is no proof: a recording is admitted once it gave what the work itself gives on
other inputs than those, too, and the two results differ. Where it is not admitted, cannot be made or does not fit, the
work runs as it is, and `described` says why.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from service.sampling.memory import ran_out_of_memory

SAME = 1e-5  # of the largest result: how far a replay may be from the work itself
_LONGEST = 200  # letters of a reason
_REMEMBERED = 256  # keys that were asked for once, and ones that are not recorded

Work = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Recording(Protocol):
    """outputs: where a replay leaves what it gives, until the next one. held_bytes: of the device's memory, for these
    and for all that lies between inputs and outputs."""

    held_bytes: int

    @property
    def outputs(self) -> Sequence[Tensor]: ...
    def replay(self) -> None: ...


class Graph:
    """An admitted recording with the buffers that it reads."""

    def __init__(self, recording: Recording, buffers: Sequence[Tensor]) -> None:
        self._recording, self._buffers = recording, list(buffers)
        self.bytes = recording.held_bytes + _bytes(buffers)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """inputs: of the shapes and types that it was recorded with. The results are the caller's to keep."""
        torch._foreach_copy_(self._buffers, list(inputs))
        self._recording.replay()
        return [output.clone() for output in self._recording.outputs]


class Graphs:
    """Recordings by key within a byte budget; the ones that were not used for longest go first."""

    def __init__(self, record: Callable[[Callable[[], Sequence[Tensor]]], Recording], budget_bytes: int) -> None:
        """record: runs what it is given until it is warm, and records it."""
        self._record, self._budget = record, budget_bytes
        self._kept: OrderedDict[Hashable, Graph] = OrderedDict()
        self._met: OrderedDict[Hashable, str] = OrderedDict()
        self._plain: OrderedDict[Hashable, str] = OrderedDict()  # why it is not recorded

    def get(self, key: Hashable, work: Work, inputs: Callable[[], Sequence[Tensor]]) -> Graph | None:
        """The graph of that key, recorded when it is asked for a second time; None where the work shall run as it is.

        inputs: asked for when it is recorded. The work is a pure function of them.
        """
        graph = self._kept.get(key)
        if graph is not None:
            self._kept.move_to_end(key)
            return graph
        if key in self._plain:
            return None
        if key not in self._met:
            _remember(self._met, key)
            return None
        del self._met[key]
        try:
            return self._put(key, self._recorded(work, inputs()))
        except _Unfit as e:
            reason = str(e)
        except Exception as e:
            said = str(e).strip().splitlines()[:1]
            reason = "out of memory" if ran_out_of_memory(e) else ": ".join([type(e).__name__, *said])[:_LONGEST]
        _remember(self._plain, key, reason)
        return None

    def clear(self) -> None:
        """Lets go of all memory, for somebody who needs it more. What is asked for again is recorded again."""
        self._kept.clear()

    @property
    def bytes(self) -> int:
        return sum(graph.bytes for graph in self._kept.values())

    def described(self) -> list[str]:
        """A line for each recording, and for each key that is not recorded, with the reason."""
        return [f"{key}: replayed, {graph.bytes / 2**20:.1f} MiB" for key, graph in self._kept.items()] + [
            f"{key}: not replayed: {reason}" for key, reason in self._plain.items()
        ]

    def _recorded(self, work: Work, inputs: Sequence[Tensor]) -> Graph:
        self._check_room(_bytes(inputs))
        buffers = [torch.empty_like(value).copy_(value) for value in inputs]
        graph = Graph(self._record(lambda: work(buffers)), buffers)
        self._check_room(graph.bytes)
        others = [_other(value) for value in inputs]
        here, there = work(inputs), work(others)
        if _same(there, here):
            raise _Unfit("other inputs do not change what it gives, so nothing shows that a replay reads them")
        if not (_same(graph.run(others), there) and _same(graph.run(inputs), here)):
            raise _Unfit("a replay differs from the run itself")
        return graph

    def _check_room(self, needed: int) -> None:
        if needed > self._budget // 2:
            raise _Unfit(f"it would hold {needed / 2**20:.0f} MiB, more than half of what all may hold")

    def _put(self, key: Hashable, graph: Graph) -> Graph:
        self._kept[key] = graph
        while self.bytes > self._budget:
            gone, _ = self._kept.popitem(last=False)
            _remember(self._met, gone)
        return graph


class _Unfit(Exception):
    """Why a recording is not admitted."""


def _remember(kept: OrderedDict[Hashable, str], key: Hashable, value: str = "") -> None:
    kept[key] = value
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)


def _bytes(values: Sequence[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in values)


def _other(value: Tensor) -> Tensor:
    """Other numbers of the same kind: integers of their own range, floating point ones not larger and of the same
    signs."""
    moved = value.flatten().roll(1).view(value.shape)
    return moved * 0.75 if value.is_floating_point() else moved


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(_close, some, others))


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = one.double(), other.double()
    finite = other[other.isfinite()].abs()
    scale = float(finite.max()) if len(finite) else 0.0
    return torch.allclose(one, other, rtol=0, atol=SAME * scale, equal_nan=True)
