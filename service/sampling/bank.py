"""What was made of the masks of recent seeds, kept for the next request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from service.sampling.masks import Design

BANK_BYTES = 64 << 20  # for what was asked for more than once
FRESH_BYTES = 8 << 20  # for what was asked for once: a client that never repeats a seed must not push out the others
_REMEMBERED_KEYS = 1024
KEPT_SAMPLES = 500  # the bank serves the usual request; a long one makes its masks as it goes


class Draw(NamedTuple):
    """Some of a seed's samples: `samples` of them, from `first` on, for a request of `total`."""

    design: Design
    seed: int
    first: int
    samples: int
    total: int


_Key = tuple[str, tuple[object, ...]]  # the purpose, and a draw without its total


class SeedBank:
    """Tensors by (what they are for, draw), within two byte budgets, the least recently used ones going first."""

    def __init__(self, budget_bytes: int = BANK_BYTES, fresh_bytes: int = FRESH_BYTES) -> None:
        self._fresh, self._proven = _Shelf(fresh_bytes), _Shelf(budget_bytes)
        self._asked: OrderedDict[_Key, None] = OrderedDict()

    def get(self, purpose: str, draw: Draw, make: Callable[[Draw], list[Tensor]]) -> list[Tensor]:
        """The tensors of that draw, made where they are not at hand."""
        key = (purpose, draw[:4])
        kept = self._proven.get(key)
        if kept is not None:
            return kept
        tensors = self._fresh.take(key) or make(draw)
        if draw.total <= KEPT_SAMPLES:
            (self._proven if key in self._asked else self._fresh).put(key, tensors)
            self._asked[key] = None
            if len(self._asked) > _REMEMBERED_KEYS:
                self._asked.popitem(last=False)
        return tensors


class _Shelf:
    """Tensors by key within a byte budget."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget, self._bytes = budget_bytes, 0
        self._kept: OrderedDict[_Key, tuple[list[Tensor], int]] = OrderedDict()

    def get(self, key: _Key) -> list[Tensor] | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def take(self, key: _Key) -> list[Tensor] | None:
        """Gives the tensors away."""
        tensors, size = self._kept.pop(key, (None, 0))
        self._bytes -= size
        return tensors

    def put(self, key: _Key, tensors: list[Tensor]) -> None:
        size = sum(t.numel() * t.element_size() for t in tensors)
        if size > self._budget // 2:
            return
        self._kept[key] = tensors, size
        self._bytes += size
        while self._bytes > self._budget:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._bytes -= dropped
