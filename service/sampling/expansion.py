"""Operations with dropout inside, taken apart so that the dropout is a node by itself.

Attention becomes weights, site, product with the values. A stack of recurrent layers becomes single layers with a site
between two, so that the first layer needs no mask.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor

from service.errors import Uncapturable
from service.sampling.functional import RECURRENT, argument, owner, site_name
from service.sampling.marks import Mark, checked_rate, marked, sites_of

_aten = torch.ops.aten


def expand(graph: fx.Graph) -> None:
    """Takes apart what has dropout inside and switched on; what has it switched off stays whole."""
    taken = [mark.name for mark in sites_of(graph).values()]
    for node in list(graph.nodes):
        if node.target is _aten.scaled_dot_product_attention.default and argument(node, "dropout_p", 0.0):
            _expand_attention(graph, node, taken)
        elif node.target in RECURRENT and argument(node, "train") and argument(node, "dropout"):
            _expand_recurrent(graph, node, taken)


def silenced(node: fx.Node, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The positional arguments of an operation with the dropout inside it switched off."""
    arguments = list(arguments)
    names = [a.name for a in cast(Any, node.target)._schema.arguments]
    for name, off in (("dropout_p", 0.0), ("dropout", 0.0), ("train", False)):
        if name in names and names.index(name) < len(arguments):
            arguments[names.index(name)] = off
    return tuple(arguments)


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None, grouped: bool
) -> Tensor:
    """What each query attends to: (…, queries, keys), rows that sum to 1, or to 0 where a mask leaves nothing.

    mask: True where a key may be seen, or a number to add. grouped: a key head serves several query heads.
    """
    if grouped:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores.softmax(-1)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return cast(Tensor, _aten._safe_softmax(scores, -1))


def attended(weights: Tensor, value: Tensor, grouped: bool) -> Tensor:
    """The values, weighted: (…, queries, keys) and (…, keys, features) to (…, queries, features)."""
    if grouped:
        value = value.repeat_interleave(weights.shape[-3] // value.shape[-3], -3)
    return weights @ value


def _added(graph: fx.Graph, function: Any, arguments: tuple[Any, ...], like: fx.Node) -> fx.Node:
    """A node with what it gives for symbolic rows, made by the module that made `like`."""
    node = graph.call_function(function, arguments)
    seen = fx.node.map_arg(arguments, lambda n: n.meta["val"])
    values = [v for v in (like.meta["val"],) if isinstance(v, Tensor)] or list(like.meta["val"])
    with cast(FakeTensor, values[0]).fake_mode, enable_python_dispatcher():
        node.meta = {"val": function(*seen), "nn_module_stack": like.meta.get("nn_module_stack")}
    return node


def _between(graph: fx.Graph, value: fx.Node, kind: str, p: float, like: fx.Node, taken: list[str]) -> fx.Node:
    name = site_name(like, taken)
    p = checked_rate(name, p)
    varies = (True,) * value.meta["val"].dim()
    return marked(graph, value, Mark(name, kind, p, 1 / (1 - p), varies, (0.0, 1.0), 1 - p, owner(like)[0]))


def _expand_attention(graph: fx.Graph, node: fx.Node, taken: list[str]) -> None:
    query, key, value = node.args[:3]
    grouped = argument(node, "enable_gqa", False)
    options = (argument(node, "attn_mask"), argument(node, "is_causal", False), argument(node, "scale"), grouped)
    with graph.inserting_before(node):
        weights = _added(graph, attention_weights, (query, key, *options), node)
        site = _between(graph, weights, "attention", argument(node, "dropout_p"), node, taken)
        node.replace_all_uses_with(_added(graph, attended, (site, value, grouped), node))
    graph.erase_node(node)


def _expand_recurrent(graph: fx.Graph, node: fx.Node, taken: list[str]) -> None:
    """Time first inside, as the operation itself works: its masks are of that shape."""
    value, state, parameters, biases, layers, p, _, both, batch_first = cast(tuple[Any, ...], node.args)
    directions = 2 if both else 1
    each = len(parameters) // layers
    ends: list[list[fx.Node]] = []
    with graph.inserting_before(node):
        if batch_first:
            value = _added(graph, _aten.transpose.int, (value, 0, 1), node)
        for layer in range(layers):
            part = [
                _added(graph, _aten.slice.Tensor, (s, 0, layer * directions, (layer + 1) * directions), node)
                for s in (state if isinstance(state, list | tuple) else [state])
            ]
            own = list(parameters[layer * each : (layer + 1) * each])
            start: Any = part if isinstance(state, list | tuple) else part[0]
            ran = _added(graph, node.target, (value, start, own, biases, 1, 0.0, False, both, False), node)
            value, *end = (_got(graph, ran, i) for i in range(len(ran.meta["val"])))
            ends.append(end)
            if layer < layers - 1:
                value = _between(graph, value, "recurrent", p, node, taken)
        if batch_first:
            value = _added(graph, _aten.transpose.int, (value, 0, 1), node)
        results = [value, *(_added(graph, _aten.cat.default, (list(e), 0), node) for e in zip(*ends, strict=True))]
    for user in list(node.users):
        if user.target is not operator.getitem:
            raise Uncapturable(f"{owner(node)[0]}: its results are read in a way that is not supported")
        user.replace_all_uses_with(results[cast(int, user.args[1])])
        graph.erase_node(user)
    graph.erase_node(node)


def _got(graph: fx.Graph, node: fx.Node, place: int) -> fx.Node:
    found = graph.call_function(operator.getitem, (node, place))
    found.meta = {"val": node.meta["val"][place], "nn_module_stack": node.meta.get("nn_module_stack")}
    return found
