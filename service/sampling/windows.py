"""Nothing is computed that nobody reads.

A network that classifies a sequence by one of its places (`hidden[:, 0]`) computes all places of its last layers and
drops all but one. Here that choice moves towards the inputs, through whatever treats places alike: activations, sums,
linear layers, layer normalisation and masks. A *window* is one place of one axis; a value whose readers all want the
same window is computed in that window only.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx

from service.sampling.folding import masked, masked_broadcast, repeat_rows
from service.sampling.functional import base_name
from service.sampling.layouts import Layout
from service.sampling.recipe import Recipe

_aten: Any = torch.ops.aten
_EACH_NUMBER = {
    "relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu", "elu", "selu", "hardtanh", "hardswish", "hardsigmoid",
    "mish", "softplus", "exp", "neg", "abs", "contiguous", "clone",
}
_SUMS = {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, torch.add, torch.sub}
_FOLDED = {masked, masked_broadcast, repeat_rows}


class Window(NamedTuple):
    axis: int
    place: int


def windowed(graph: fx.Graph) -> fx.Graph:
    """The graph with every value that is read in one window only computed there; the same graph where there is none.
    Nodes need their shapes (`meta["val"]`)."""
    own = _windows(graph)
    if not any(own.values()):
        return graph
    made = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    cut: dict[tuple[fx.Node, Window], fx.Node] = {}

    def read(node: fx.Node, wanted: Window | None) -> fx.Node:
        if wanted is None or own[node] == wanted:
            return values[node]
        if (node, wanted) not in cut:
            cut[node, wanted] = made.call_function(window_of, (values[node], *wanted))
        return cut[node, wanted]

    def copied(node: fx.Node) -> fx.Node:
        window, chosen = own[node], _chosen(node)
        wanted = _wanted(node, window) or {}
        copy = made.node_copy(node, lambda n: read(n, wanted.get(n)))
        source, *rest = copy.args or (None,)
        if chosen is not None and own[node.all_input_nodes[0]] == chosen:
            copy.args = (source, chosen.axis, 0)
        elif window is not None and node.target in (masked, masked_broadcast):
            mask, layout, *rest = rest
            axis = 2 + window.axis - (window.axis > cast(Layout, layout).axis)  # behind samples and rows
            with made.inserting_before(copy):
                copy.args = (source, made.call_function(window_of, (mask, axis, window.place)), layout, *rest)
        return copy

    for node in graph.nodes:
        values[node] = copied(node)
    return made


def window_of(value: Tensor | Recipe, axis: int, place: int) -> Tensor | Recipe:
    """That one place of an axis, which stays; a broadcast axis stays as it is."""
    if isinstance(value, Recipe):
        return value.at(axis, place)
    return value if value.shape[axis] == 1 else value.narrow(axis, place, 1).contiguous()


fx.wrap("window_of")


def _windows(graph: fx.Graph) -> dict[fx.Node, Window | None]:
    """For each node the window in which it is computed; None where all of it is."""
    demands: dict[fx.Node, set[Window | None]] = defaultdict(set)
    own: dict[fx.Node, Window | None] = {}
    for node in reversed(list(graph.nodes)):
        wanted = next(iter(demands[node])) if len(demands[node]) == 1 else None
        operands = _wanted(node, wanted)
        own[node] = wanted if operands is not None and _chosen(node) is None else None
        chosen = _chosen(node)
        for source in node.all_input_nodes:
            if chosen is not None:
                demands[source].add(chosen)
            else:
                demands[source].add(None if operands is None else operands.get(source))
    return own


def _chosen(node: fx.Node) -> Window | None:
    """What a node that takes one place of an axis reads."""
    if node.target is not _aten.select.int or not all(isinstance(a, int) for a in node.args[1:]):
        return None
    source, axis, place = cast(tuple[fx.Node, int, int], node.args)
    shape = _shape(source)
    if shape is None:
        return None
    axis %= len(shape)
    size = shape[axis]
    return Window(axis, place % size) if isinstance(size, int) and size > 1 else None


def _wanted(node: fx.Node, window: Window | None) -> dict[fx.Node, Window | None] | None:
    """What a node reads of its operands to give that window: those that are not named it reads whole. None where the
    window cannot move through it."""
    shape = _shape(node)
    if window is None or node.op != "call_function" or shape is None or not isinstance(shape[window.axis], int):
        return None
    name, source = base_name(node), node.args[0] if node.args else None
    rest = node.args[1:]
    if node.target in _SUMS:
        return _broadcast(node, window, len(shape))
    if not isinstance(source, fx.Node):
        return None
    if node.target in _FOLDED:
        layout = next(a for a in node.args if isinstance(a, Layout))
        return {source: window} if layout.per_row == 1 and layout.axis != window.axis else None
    if name in _EACH_NUMBER and node.all_input_nodes == [source]:
        return {source: window}
    if name == "linear" and window.axis < len(shape) - 1:
        return {source: window}
    if name == "layer_norm" and window.axis < len(shape) - len(cast(list[int], rest[0])):
        return {source: window}
    if name == "slice" and node.all_input_nodes == [source]:
        axis = cast(int, rest[0] if rest else 0) % len(shape)
        return {source: window} if axis != window.axis else None
    if name == "transpose":
        axes = [cast(int, a) % len(shape) for a in rest]
        moved = axes[1 - axes.index(window.axis)] if window.axis in axes else window.axis
        return {source: Window(moved, window.place)}
    if name == "permute":
        return {source: Window(cast(list[int], rest[0])[window.axis] % len(shape), window.place)}
    return None


def _broadcast(node: fx.Node, window: Window, axes: int) -> dict[fx.Node, Window | None] | None:
    """Of a sum or product of tensors and numbers."""
    found: dict[fx.Node, Window | None] = {}
    for source in node.all_input_nodes:
        shape = _shape(source)
        if shape is None:
            return None
        axis = window.axis - (axes - len(shape))
        if axis >= 0 and shape[axis] != 1:
            found[source] = Window(axis, window.place)
    return found


def _shape(node: fx.Node) -> torch.Size | None:
    value = node.meta.get("val")
    return value.shape if isinstance(value, Tensor) else None

