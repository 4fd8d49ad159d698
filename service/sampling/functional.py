"""From an exported program to a graph of pure functions in which every dropout is a marked node.

In-place operations become their functional twins, parameters and constants attributes of one root, and dropout that is
off is left out.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from service.errors import Uncapturable
from service.sampling.marks import Mark, alpha_scale, checked_rate, marked

_aten = torch.ops.aten
_DROPOUTS: dict[object, str] = {
    getattr(_aten, f"{kind}{in_place}").default: kind
    for kind in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout") for in_place in ("", "_")
}
SOURCES = {_aten.bernoulli_.float, _aten.bernoulli.p, _aten.rand.default, _aten.rand_like.default}
RECURRENT = {_aten.lstm.input, _aten.gru.input, _aten.rnn_tanh.input, _aten.rnn_relu.input}
_CHECKS = {"_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range_for_size"}


def functional(program: torch.export.ExportedProgram, root: nn.Module, inputs: Sequence[str], output: int) -> fx.Graph:
    """The graph from inputs, by name, to one of the program's outputs. root: takes the parameters and constants.

    UnservableModel, with the place and the reason, where the graph could not be run on other rows.
    """
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    taken: list[str] = []
    stored = {**program.state_dict, **program.constants}
    constants = {s.arg.name: str(s.target) for s in program.graph_signature.input_specs if s.target is not None}
    names = iter(inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = (
                graph.get_attr(_stored(root, constants[node.name], stored[constants[node.name]]))
                if node.name in constants else graph.placeholder(next(names))
            )
        elif node.op == "output":
            graph.output(values[cast(Any, node.args[0])[output]])
            continue
        elif base_name(node) in _CHECKS:
            continue
        elif node.target in _DROPOUTS:
            values[node] = _dropout(graph, node, values, taken)
            continue
        else:
            _refuse_if_unsupported(node)
            values[node] = _copied(graph, node, values)
        values[node].meta = dict(node.meta)
    return graph


def base_name(node: fx.Node) -> str:
    """`dropout_` of `aten.dropout_.default`."""
    return str(getattr(node.target, "__name__", "")).split(".")[0]


def is_random(node: fx.Node) -> bool:
    """Whether this node draws random numbers when it runs."""
    target = cast(Any, node.target)
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    if target is _aten.scaled_dot_product_attention.default:
        return bool(argument(node, "dropout_p", 0.0))
    arguments = [a.name for a in target._schema.arguments]
    quiet = ("dropout" in arguments and not argument(node, "dropout", 0.0)) or (
        "train" in arguments and not argument(node, "train", True))
    return not quiet


def argument(node: fx.Node, name: str, default: object = None) -> Any:
    """An argument of an operation, by the name that its schema gives it."""
    names = [a.name for a in cast(Any, node.target)._schema.arguments]
    place = names.index(name)
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else default)


def owner(node: fx.Node) -> tuple[str, str]:
    """Path and class name of the module whose forward made this node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    return path, str(getattr(kind, "__name__", kind)).rsplit(".", 1)[-1]


def site_name(node: fx.Node, taken: list[str]) -> str:
    """Path of the dropout module, or of the module that calls dropout, followed by ".dropout"; a second one of the
    same is "…#2". `taken` remembers it."""
    path, kind = owner(node)
    name = path if "Drop" in kind and path else f"{path}.dropout".lstrip(".")
    same = sum(t == name or t.startswith(f"{name}#") for t in taken)
    taken.append(f"{name}#{same + 1}" if same else name)
    return taken[-1]


def _stored(root: nn.Module, name: str, value: Any) -> str:
    """The attribute of `root` that holds a constant. Two programs of one module share what is the same."""
    if not isinstance(value, Tensor):
        raise Uncapturable(f"the network holds {name}, a {type(value).__name__}, which is not supported")
    attribute = "constant_" + name.replace(".", "_")
    while (held := getattr(root, attribute, None)) is not None and not _same(held, value):
        attribute += "_"
    if held is None:
        root.register_buffer(attribute, value.detach())
    return attribute


def _same(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr() == other.data_ptr() and one.shape == other.shape) or torch.equal(one, other)


def _dropout(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, fx.Node], taken: list[str]) -> fx.Node:
    """A marked node where dropout is on, else what it acts on."""
    written, p, train = cast(tuple[fx.Node, float, bool], node.args)
    value = values[written]
    kind = _DROPOUTS[node.target]
    if train and p:
        name = site_name(node, taken)
        p = checked_rate(name, p)
        alpha = "alpha" in kind
        axes = len(node.meta["val"].shape)
        varies = tuple(i < 2 or not kind.startswith("feature") for i in range(axes))
        scale = alpha_scale(p) if alpha else 1 / (1 - p)
        mark = Mark(name, kind, p, scale, varies, (0.0, 1.0), None if alpha else 1 - p, owner(node)[0])
        value = marked(graph, value, mark)
        value.meta |= {k: v for k, v in node.meta.items() if k != "mark"}
    if cast(Any, node.target)._schema.is_mutable:
        _overwrite(node, written, value, values)
    return value


def _refuse_if_unsupported(node: fx.Node) -> None:
    if node.op != "call_function":
        raise Uncapturable(f"the graph has a {node.op} ({node.target}), which is not supported")
    if any(isinstance(a, fx.GraphModule) for a in node.args):
        raise Uncapturable(f"control flow that depends on data ({node.target}) is not supported")
    known = node.target in SOURCES or node.target in RECURRENT
    if is_random(node) and not known and node.target is not _aten.scaled_dot_product_attention.default:
        path, kind = owner(node)
        raise Uncapturable(
            f"{path or 'the network'} ({kind}) draws random numbers by {node.target}, which is not supported: "
            "it would be served with that site silently off"
        )


def _copied(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, fx.Node]) -> fx.Node:
    """The node in the new graph; an in-place operation becomes its functional twin, and later readers of what it
    overwrote read the twin."""
    copied = graph.node_copy(node, lambda n: values[n])
    if node.target is _aten.view.default:
        copied.target = _aten.reshape.default  # the layout in memory may be another here
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return copied
    written = node.args[0]
    base, overload = str(node.target).removeprefix("aten.").split(".")
    twin = getattr(getattr(_aten, base.rstrip("_"), None), overload, None)
    if node.target not in SOURCES:
        if not base.endswith("_") or twin is None:
            raise Uncapturable(f"{node.target} writes into a tensor in a way that is not supported")
        copied.target = twin
    assert isinstance(written, fx.Node)
    _overwrite(node, written, copied, values)
    return copied


def _overwrite(node: fx.Node, written: fx.Node, result: fx.Node, values: dict[fx.Node, fx.Node]) -> None:
    """Whoever reads later what an in-place operation wrote into reads its result. Uncapturable where another view of
    the same memory is read later."""
    for other in _same_memory(written):
        if other not in values:  # made later, of the result
            continue
        if _overwritten(other) is _overwritten(written):
            values[other] = result
            continue
        later = [u for u in other.users if u is not node and u not in values and base_name(u) not in _CHECKS]
        if later:
            raise Uncapturable(f"{node.target} writes through a view ({other.name}), which is not supported")


def _same_memory(node: fx.Node) -> set[fx.Node]:
    """Nodes whose results may be views of what this one gives, or of what it is a view of; itself among them."""
    found, todo = set(), [node]
    while todo:
        here = todo.pop()
        if here in found:
            continue
        found.add(here)
        readers = [u for u in here.users if u.args and u.args[0] is here]
        todo += [u for u in readers if may_share_memory(u) or _in_place(u)]
        if (may_share_memory(here) or _in_place(here)) and isinstance(here.args[0], fx.Node):
            todo.append(here.args[0])
    return found


def _overwritten(node: fx.Node) -> fx.Node:
    """The node whose tensor a chain of in-place operations gives."""
    while _in_place(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def may_share_memory(node: fx.Node) -> bool:
    """Whether a node's result may be a view of something else."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:  # one of several views, as of a split
        return isinstance(node.args[0], fx.Node) and may_share_memory(node.args[0])
    schema = getattr(node.target, "_schema", None)
    if schema is not None and any(r.alias_info is not None for r in schema.returns) and not schema.is_mutable:
        return True
    return str(node.target) in {"aten.reshape.default", "aten.flatten.using_ints", "aten.contiguous.default"}
