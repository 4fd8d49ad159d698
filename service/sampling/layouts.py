"""Where a tensor of the graph has its rows.

Mostly they are an axis of their own. Some networks fold them into another axis: heads, windows or time steps times
rows. Such an axis is a multiple of the rows, and whether rows are its outer or its inner part is settled by changing
one row and seeing what moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from service.errors import Uncapturable
from service.sampling.arming import Inputs


class Layout(NamedTuple):
    """axis: which one has the rows. per_row: how many places of it a row takes. rows_outer: whether a row's places lie
    together."""

    axis: int
    per_row: int = 1
    rows_outer: bool = True

    def split(self, value: Tensor, *rows: int) -> Tensor:
        """The axis as (…, *rows, per row, …), or with the rows inside; per_row of 1 has no axis of its own."""
        if self.per_row == 1:
            return value.unflatten(self.axis, rows) if len(rows) > 1 else value
        return value.unflatten(self.axis, (*rows, self.per_row) if self.rows_outer else (self.per_row, *rows))

    @property
    def lead(self) -> int:
        """The first axis of the rows, once split."""
        return self.axis if self.rows_outer else self.axis + 1

    def joined(self, value: Tensor, rows: int) -> Tensor:
        """Undoes `split` with that many numbers of rows."""
        last = self.axis + rows + (self.per_row > 1) - 1
        return value.flatten(self.axis, last) if last > self.axis else value

    def picked(self, value: Tensor, rows: Tensor) -> Tensor:
        """Those rows only."""
        return self.joined(self.split(value, -1).index_select(self.lead, rows), 1)

    def part(self, value: Tensor, rows: range) -> Tensor:
        """Rows that lie together."""
        return self.joined(self.split(value, -1).narrow(self.lead, rows.start, len(rows)), 1).contiguous()

    def together(self, values: Sequence[Tensor]) -> Tensor:
        """Parts one after the other."""
        if len(values) == 1:
            return values[0]
        return self.joined(torch.cat([self.split(value, -1) for value in values], self.lead), 1)


class Layouts:
    """Layouts of the nodes of one captured graph."""

    def __init__(self, graph: fx.Graph, root: nn.Module, rows: torch.SymInt, examples: Inputs) -> None:
        self._graph, self._root, self._rows, self._examples = graph, root, rows, examples
        self._moved: list[dict[fx.Node, Tensor]] | None = None

    def is_rows(self, size: Any) -> bool:
        """Whether a size is the number of rows."""
        return isinstance(size, torch.SymInt) and size.node.expr == self._rows.node.expr

    def of(self, node: fx.Node) -> Layout | None:
        """None where the tensor has no rows. UnservableModel where they cannot be told apart."""
        shape = node.meta["val"].shape
        symbolic = [(i, n) for i, n in enumerate(shape) if isinstance(n, torch.SymInt)]
        if not symbolic:
            return None
        axis, size = symbolic[0]
        ratio = size.node.expr / self._rows.node.expr
        if len(symbolic) > 1 or not ratio.is_Integer:
            raise Uncapturable(f"{node.name} has rows in a way that is not supported: shape {tuple(shape)}")
        per_row = int(ratio)
        return Layout(axis, per_row, per_row == 1 or self._rows_outer(node, axis, per_row))

    def _rows_outer(self, node: fx.Node, axis: int, per_row: int) -> bool:
        if self._moved is None:
            changed = [self._values(row) for row in range(len(next(iter(self._examples.values()))))]
            plain = self._values(None)
            self._moved = [{n: v != plain[n] for n, v in values.items()} for values in changed]
        rows = len(self._moved)
        inner = outer = True
        for row, moved in enumerate(self._moved):
            others = [i for i in range(moved[node].dim()) if i != axis]
            places = (moved[node].any(others) if others else moved[node]).nonzero().flatten().tolist()
            outer = outer and all(i // per_row == row for i in places)
            inner = inner and all(i % rows == row for i in places)
        if inner == outer:
            raise Uncapturable(f"{node.name}: its axis {axis} has {per_row} places a row, in an unknown order")
        return outer

    def _values(self, changed_row: int | None) -> dict[fx.Node, Tensor]:
        """All tensors of the graph for the examples, one row of which may be another one."""
        recorder = _Recorder(self._root, self._graph)
        rows = [value.clone() for value in self._examples.values()]
        if changed_row is not None:
            for value in rows:
                value[changed_row] = value[changed_row - 1] + (1 if value.is_floating_point() else 0)
        with torch.no_grad():
            recorder.run(*rows)
        return recorder.seen


class _Recorder(fx.Interpreter):
    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph)
        self.seen: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.seen[n] = result.clone()
        return result
