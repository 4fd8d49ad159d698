"""Kernels whose passes are recorded and replayed, a recording for each number of rows that is a power of two.

Other numbers of rows are filled up to the next one by copies of the last row, and what comes of those is left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from service.sampling.bank import Draw
from service.sampling.graphs import Graphs
from service.sampling.kernels import Kernel, Places
from service.sampling.layouts import Layout
from service.sampling.split import Split

LONG_PREFIX = 8  # operations: with fewer, the copies into and out of a recording cost what it saves


class Shape(NamedTuple):
    """What a recording is for. fixed: of what is drawn, all that is no tensor, and the tensors' shapes."""

    name: str
    rows: int
    samples: int
    fixed: tuple[Hashable, ...]

    def __str__(self) -> str:
        return f"{self.name}, {self.rows} rows" + (f", {self.samples} samples" if self.samples else "")


class Replayed:
    """As another kernel, for masks that all rows share."""

    def __init__(self, kernel: Kernel, graphs: Graphs) -> None:
        self._kernel, self._graphs, self.split = kernel, graphs, kernel.split
        self.per_row_masks, self.rows_apart, self.normalised = False, False, kernel.normalised
        self.name = f"{kernel.name}, replayed"
        self.rows = 1 << (kernel.rows.bit_length() - 1)
        self.bytes_per_sample, self.working_set_bytes = kernel.bytes_per_sample, kernel.working_set_bytes

    @property
    def held(self) -> Sequence[Tensor]:
        return self._kernel.held

    def drawn(self, draw: Draw, places: Places) -> list[Tensor]:
        assert places is None
        return self._kernel.drawn(draw, None)

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Any]) -> Tensor:
        bucket = filled_up(rows)
        leaves, form = pytree.tree_flatten(list(drawn))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        fixed = tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in leaves)

        def work(inputs: Sequence[Tensor]) -> list[Tensor]:
            own = iter(inputs[len(values) :])
            masks = pytree.tree_unflatten([next(own) if isinstance(x, Tensor) else x for x in leaves], form)
            return [self._kernel.run(inputs[: len(values)], bucket, samples, masks)]

        def inputs() -> list[Tensor]:
            return [*_filled(values, self.split.prefix_layouts, rows), *tensors]

        graph = self._graphs.get(Shape(self._kernel.name, bucket, samples, fixed), work, inputs)
        if graph is None:
            return self._kernel.run(values, rows, samples, drawn)
        (output,) = graph.run(inputs())
        return output if bucket == rows else output[:, :rows]


class ReplayedPrefix(nn.Module):
    """A prefix that is recorded and replayed."""

    def __init__(self, prefix: nn.Module, layouts: Sequence[Layout | None], graphs: Graphs) -> None:
        """layouts: where what it gives has its rows; None where it has none."""
        super().__init__()
        self._prefix, self._layouts, self._graphs = prefix, list(layouts), graphs

    def forward(self, *inputs: Tensor) -> Sequence[Tensor]:
        rows = inputs[0].shape[0]
        bucket, first = filled_up(rows), [Layout(0)] * len(inputs)
        fixed = tuple((tuple(value.shape[1:]), value.dtype) for value in inputs)
        graph = self._graphs.get(Shape("prefix", bucket, 0, fixed), self._made, lambda: _filled(inputs, first, rows))
        if graph is None:
            return self._made(inputs)
        values = graph.run(_filled(inputs, first, rows))
        if bucket == rows:
            return values
        return [
            value if layout is None else layout.part(value, range(rows))
            for value, layout in zip(values, self._layouts, strict=True)
        ]

    def _made(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        made: Sequence[Tensor] = self._prefix.forward(*inputs)
        return made


def with_replays(split: Split, graphs: Graphs) -> Split:
    """The same split, its prefix replayed where it is long enough to gain by it."""
    graph = split.prefix.graph if isinstance(split.prefix, fx.GraphModule) else None
    if graph is None or sum(node.op == "call_function" for node in graph.nodes) < LONG_PREFIX:
        return split
    return replace(split, prefix=ReplayedPrefix(split.prefix, split.prefix_layouts, graphs))


def filled_up(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()


def _filled(values: Sequence[Tensor], layouts: Sequence[Layout | None], rows: int) -> list[Tensor]:
    """The values with so many rows as are recorded. layouts: where they have their rows; None where they have none."""
    bucket = filled_up(rows)
    if rows == bucket:
        return list(values)
    where = torch.arange(bucket, device=values[0].device).clamp_(max=rows - 1)
    return [
        value if layout is None else layout.picked(value, where) for value, layout in zip(values, layouts, strict=True)
    ]
