"""What is computed once, and what is computed for every sample.

The graph is split by taint: the *prefix* is what no mask reaches and runs once on the rows; the *suffix* is the rest
and runs on samples × rows, folded into one batch, sample-major (place t·rows + b). Values of the prefix are broadcast
into the first multiply by a mask and copied elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor, fx, nn

from service.errors import UnservableModel
from service.sampling.capture import Captured, site_input, site_kind, site_rate
from service.sampling.dense import DenseChain, dense_chain
from service.sampling.masks import MAX_OUTER
from service.sampling.sites import Site, selected


@dataclass(frozen=True)
class Plan:
    """predict: inputs to output, every dropout off.
    prefix: inputs to the list of values that the suffix reads.
    suffix: (samples, rows, masks, prefix values) to outputs (samples·rows, …).
    chain: the suffix as a chain of linear layers; None where it is anything else.
    masks: names of the active sites in the order in which the suffix takes them.
    """

    predict: nn.Module
    prefix: nn.Module
    suffix: nn.Module
    chain: DenseChain | None
    sites: list[Site]
    masks: list[str]
    row_axes: dict[str, int]  # where each site's tensor has its rows
    prefix_row_axes: list[int | None]  # where the values of the prefix have their rows; None where they have none
    prefix_width: int  # numbers in all values of the prefix that the suffix reads, for one row
    suffix_width: int  # numbers in the largest value of the suffix, for one row and one sample
    output_shape: tuple[int, ...]


def make_plan(captured: Captured, patterns: Sequence[str] | None) -> Plan:
    names = [name for name, _ in captured.sites]
    chosen = selected(names, patterns)
    layouts = {node: _Layout.of(name, node, captured.rows) for name, node in captured.sites}
    active = {node: name for (name, node), on in zip(captured.sites, chosen, strict=True) if on}
    sites = [
        Site(name, str(site_kind(node)), site_rate(node), on, layouts[node].mask_shape,
             "" if on else "left out by the manifest's sites")
        for (name, node), on in zip(captured.sites, chosen, strict=True)
    ]
    output = cast(fx.Node, captured.graph.output_node().args[0])
    shape = output.meta["val"].shape
    if shape[0] != captured.rows or any(not isinstance(n, int) for n in shape[1:]):
        raise UnservableModel(f"the output's first axis must be the rows and the others fixed, got {tuple(shape)}")
    tainted = _tainted(captured.graph, set(active))
    if active and output not in tainted:
        raise UnservableModel("no site reaches the output: dropout would never change the answer")
    builder = _Suffix(captured, tainted, active, layouts)
    suffix, boundary = builder.build(output)
    return Plan(
        predict=_predict_module(captured, [output]),
        prefix=_predict_module(captured, boundary),
        suffix=suffix,
        chain=dense_chain(captured.root, output, active),
        sites=sites,
        masks=[active[node] for node in builder.mask_nodes],
        row_axes={name: layouts[node].row_axis for name, node in captured.sites},
        prefix_row_axes=[_row_axis(n, captured.rows) for n in boundary],
        prefix_width=max(1, sum(_width(n) for n in boundary)),
        suffix_width=max((_width(n) for n in tainted), default=1),
        output_shape=tuple(int(n) for n in shape[1:]),
    )


@dataclass(frozen=True)
class _Layout:
    """Where the row axis of a site's input is, and the shape of one row's mask, broadcast axes as 1."""

    row_axis: int
    mask_shape: tuple[int, ...]

    @staticmethod
    def of(name: str, node: fx.Node, rows: object) -> _Layout:
        shape = site_input(node).meta["val"].shape
        axes = [i for i, n in enumerate(shape) if n == rows]
        others = [n for i, n in enumerate(shape) if i not in axes[:1]]
        if not axes or any(not isinstance(n, int) for n in others) or len(others) > MAX_OUTER + 1:
            raise UnservableModel(
                f"site {name!r} acts on a tensor of shape {tuple(shape)}, whose rows cannot be told apart"
            )
        kept = range(2) if site_kind(node) == "feature_dropout" else range(len(shape))
        mask = tuple(int(n) if i in kept else 1 for i, n in enumerate(shape) if i != axes[0])
        return _Layout(axes[0], mask)


def _tainted(graph: fx.Graph, sources: set[fx.Node]) -> set[fx.Node]:
    tainted: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and (node in sources or any(n in tainted for n in node.all_input_nodes)):
            tainted.add(node)
    return tainted


def _width(node: fx.Node) -> int:
    value = node.meta.get("val")
    return prod(int(n) for n in value.shape if isinstance(n, int)) if isinstance(value, Tensor) else 1


def _predict_module(captured: Captured, wanted: Sequence[fx.Node]) -> nn.Module:
    """A module from the inputs to the tuple of wanted values, sites as the identity."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in _needed(captured.graph, wanted, keep_inputs=True):
        if site_kind(node):
            values[node] = values[site_input(node)]
        else:
            values[node] = graph.node_copy(node, lambda n: values[n])
    graph.output(tuple(values[n] for n in wanted))
    return fx.GraphModule(captured.root, graph)


def _needed(graph: fx.Graph, wanted: Sequence[fx.Node], keep_inputs: bool) -> list[fx.Node]:
    """Nodes that the wanted ones rest on, in order."""
    needed = set(wanted)
    for node in reversed(list(graph.nodes)):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [n for n in graph.nodes if n in needed or (keep_inputs and n.op == "placeholder")]


class _Suffix:
    """Builds the graph that runs on samples × rows."""

    def __init__(
        self, captured: Captured, tainted: set[fx.Node], active: dict[fx.Node, str], layouts: dict[fx.Node, _Layout]
    ) -> None:
        self._captured, self._tainted, self._active, self._layouts = captured, tainted, active, layouts
        self._graph = fx.Graph()
        self._samples = self._graph.placeholder("samples")
        self._folded_rows = self._graph.placeholder("folded_rows")
        self._masks: dict[fx.Node, fx.Node] = {}
        self._boundary: dict[fx.Node, fx.Node] = {}
        self._values: dict[fx.Node, fx.Node] = {}
        self.mask_nodes = [n for n in captured.graph.nodes if n in active]

    def build(self, output: fx.Node) -> tuple[nn.Module, list[fx.Node]]:
        order = [n for n in _needed(self._captured.graph, [output], keep_inputs=False) if n in self._tainted]
        self.mask_nodes = [n for n in order if n in self._active]
        for i, node in enumerate(self.mask_nodes):
            self._masks[node] = self._graph.placeholder(f"mask_{i}")
        read = [n for node in order for n in node.all_input_nodes if n not in self._tainted]
        boundary = [n for n in dict.fromkeys(read) if n.op != "get_attr" and isinstance(n.meta.get("val"), Tensor)]
        for i, node in enumerate(boundary):
            self._boundary[node] = self._graph.placeholder(f"value_{i}")
        for node in order:
            self._values[node] = self._site(node) if node in self._active else self._step(node)
        self._graph.output(self._values.get(output))
        return fx.GraphModule(self._captured.root, self._graph), boundary

    def _step(self, node: fx.Node) -> fx.Node:
        if site_kind(node):
            return self._read(site_input(node))
        return self._graph.node_copy(node, self._read)

    def _read(self, node: fx.Node) -> fx.Node:
        """A value as the suffix sees it: with samples × rows in place of rows."""
        if node in self._values:
            return self._values[node]
        if node in self._boundary:
            made = self._expanded(node)
        elif isinstance(node.meta.get("val"), torch.SymInt) and node.meta["val"] == self._captured.rows:
            made = self._folded_rows
        else:  # a parameter, or arithmetic on sizes
            made = self._graph.node_copy(node, self._read)
        self._values[node] = made
        return made

    def _expanded(self, node: fx.Node) -> fx.Node:
        axis = _row_axis(node, self._captured.rows)
        value = self._boundary[node]
        return value if axis is None else self._graph.call_function(repeat_rows, (value, axis, self._samples))

    def _site(self, node: fx.Node) -> fx.Node:
        source = site_input(node)
        axis = self._layouts[node].row_axis
        if source in self._tainted:
            return self._graph.call_function(masked, (self._read(source), self._masks[node], axis, self._samples))
        return self._graph.call_function(masked_broadcast, (self._boundary[source], self._masks[node], axis))


def _row_axis(node: fx.Node, rows: object) -> int | None:
    shape = node.meta["val"].shape
    axes = [i for i, n in enumerate(shape) if not isinstance(n, int)]
    if not axes:
        return None
    if len(axes) > 1 or shape[axes[0]] != rows:
        raise UnservableModel(f"{node.name} has rows in a way that is not supported yet: shape {tuple(shape)}")
    return axes[0]


def repeat_rows(value: Tensor, axis: int, samples: int) -> Tensor:
    """(…, rows, …) to (…, samples·rows, …), sample-major."""
    shape = list(value.shape)
    return value.unsqueeze(axis).expand(*shape[:axis], samples, *shape[axis:]).flatten(axis, axis + 1)


def masked(value: Tensor, mask: Tensor, axis: int, samples: int) -> Tensor:
    """value: (…, samples·rows, …); mask: (samples, rows or 1, …) with the other axes in value's order."""
    shape = value.shape
    folded = value.reshape(*shape[:axis], samples, -1, *shape[axis + 1 :])
    return (folded * _placed(mask, axis)).view(shape)


def masked_broadcast(value: Tensor, mask: Tensor, axis: int) -> Tensor:
    """value: (…, rows, …), the same for every sample; mask: (samples, rows or 1, …)."""
    return (value.unsqueeze(axis) * _placed(mask, axis)).flatten(axis, axis + 1)


def _placed(mask: Tensor, axis: int) -> Tensor:
    return mask if axis == 0 else mask.movedim((0, 1), (axis, axis + 1))


for _function in (repeat_rows, masked, masked_broadcast):
    fx.wrap(_function.__name__)
