"""From a module to a graph in which every dropout is a node that can be named.

The module is captured armed (see `arming`) and in eval mode; the two graphs must agree but for the sites, or the armed
one computes something else than the prediction.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from service.errors import UnservableModel
from service.sampling.arming import Inputs, armed, call, plain_attention, state_digest
from service.sampling.device import generator_put_back, global_generator

_aten = torch.ops.aten
_SITE_KINDS: dict[object, str] = {
    _aten.dropout.default: "dropout",
    _aten.dropout_.default: "dropout",
    _aten.feature_dropout.default: "feature_dropout",
    _aten.feature_dropout_.default: "feature_dropout",
}
# random ops that draw nothing when this argument (name, position) is 0, None or False
_QUIET_WHEN_ZERO = {
    "scaled_dot_product_attention": ("dropout_p", 4),
    "alpha_dropout": ("p", 1), "alpha_dropout_": ("p", 1),
    "feature_alpha_dropout": ("p", 1), "feature_alpha_dropout_": ("p", 1),
    "lstm": ("dropout", 5), "gru": ("dropout", 5), "rnn_tanh": ("dropout", 5), "rnn_relu": ("dropout", 5),
}
_LAYOUT = {"clone", "contiguous", "detach", "detach_", "alias"}


def site_kind(node: fx.Node) -> str | None:
    """What kind of dropout a node is, on or off; None for every other node."""
    return _SITE_KINDS.get(node.target)


def site_input(node: fx.Node) -> fx.Node:
    """What a dropout acts on."""
    value = node.args[0]
    assert isinstance(value, fx.Node)
    return value


def site_rate(node: fx.Node) -> float:
    """The chance that a unit is dropped; 0 where the dropout is off."""
    _, p, train = node.args
    return float(cast(float, p)) if train else 0.0


@dataclass(frozen=True)
class Captured:
    """graph: the armed graph, in-place operations made functional, parameters and constants as `get_attr` of `root`.
    sites: (name, node) in the order of execution. inputs: names, in the graph's order. rows: the row axis' symbol."""

    graph: fx.Graph
    root: nn.Module
    sites: list[tuple[str, fx.Node]]
    inputs: list[str]
    rows: object


def capture(module: nn.Module, rows: Inputs, positional: bool) -> Captured:
    """Captures a private copy. rows: at least two example rows an input.

    UnservableModel, with the site and the reason, where the graph could compute anything else than the module.
    """
    before = state_digest(module)
    foreign = (random.getstate(), np.random.get_state())
    with generator_put_back(next(iter(rows.values())).device), plain_attention(), _quiet():
        evaluated = _export(module, rows, positional)
        with armed(module):
            program = _export(module, rows, positional)
            for node in program.graph.nodes:
                _refuse_if_unsupported(node)
            _check_stochastic_twin(module, program, rows, positional)
        if len({tuple(t.flatten().tolist()) for t in _two_eval_passes(module, rows, positional)}) != 1:
            raise UnservableModel("two passes in eval mode differ: the network is random even with dropout off")
    now = (random.getstate(), np.random.get_state())
    if foreign[0] != now[0] or any(not np.array_equal(a, b) for a, b in zip(foreign[1], now[1], strict=True)):
        raise UnservableModel("the forward pass draws from Python's or numpy's generator: capture freezes one draw")
    with _quiet():
        mutated = program.run_decompositions({}).graph_signature.buffers_to_mutate
    if mutated or state_digest(module) != before:
        what = ", ".join(mutated.values()) or "weights"
        raise UnservableModel(f"the forward pass changes the model's state ({what})")
    _check_twins(program.graph, evaluated.graph)
    return _rewritten(program, rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.export says of its own use of a class that torch deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        yield


def _two_eval_passes(module: nn.Module, rows: Inputs, positional: bool) -> list[Tensor]:
    with torch.no_grad():
        return [call(module.eval(), rows, positional) for _ in range(2)]


def _export(module: nn.Module, rows: Inputs, positional: bool) -> torch.export.ExportedProgram:
    axis = torch.export.Dim("rows")
    args = tuple(rows.values()) if positional else ()
    kwargs = {} if positional else dict(rows)
    shapes = tuple({0: axis} for _ in args) if positional else {name: {0: axis} for name in kwargs}
    try:
        program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as e:
        reason = str(e).strip().split("\n")[0][:300]
        raise UnservableModel(f"the network cannot be captured by torch.export: {type(e).__name__}: {reason}") from e
    outputs = program.graph_signature.user_outputs
    if len(outputs) != 1 or outputs[0] is None:
        raise UnservableModel(f"one tensor is expected from the network, {len(outputs)} outputs came")
    return program


def _check_stochastic_twin(
    module: nn.Module, program: torch.export.ExportedProgram, rows: Inputs, positional: bool
) -> None:
    """Same torch seed, armed module against captured graph: no site was lost, doubled or changed."""
    generator, results = global_generator(next(iter(rows.values())).device), []
    for twin in (module, program.module(check_guards=False)):
        generator.manual_seed(20)
        with torch.no_grad():
            results.append((call(twin, rows, positional), generator.get_state()))
    (one, state), (other, other_state) = results
    if not torch.equal(one, other) or not torch.equal(state, other_state):
        raise UnservableModel("with dropout on, the captured graph and the module differ under the same random seed")


def _steps(graph: fx.Graph) -> list[str]:
    """What a graph computes, without sites, layout and the numbering of names."""
    place: dict[fx.Node, str] = {}
    steps: list[str] = []
    for node in graph.nodes:
        if node.op != "call_function":
            place[node] = node.name if node.op == "placeholder" else ""
            continue
        base = str(getattr(node.target, "__name__", node.target)).split(".")[0]
        if site_kind(node) or base in _LAYOUT:
            place[node] = place[site_input(node)]
            continue
        place[node] = f"%{len(steps)}"
        arguments = fx.node.map_arg((node.args, node.kwargs), lambda n: place[n])
        steps.append(f"{node.target}{arguments}")
    return steps


def _check_twins(with_dropout: fx.Graph, without: fx.Graph) -> None:
    one, other = _steps(with_dropout), _steps(without)
    if one != other:
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        step = (one if at < len(one) else other)[at]
        raise UnservableModel(
            f"with dropout on the network computes something else than in eval mode, not only dropout (at {step[:200]})"
        )


def _owner(node: fx.Node) -> tuple[str, str]:
    """Path and class name of the module whose forward made this node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    return path, str(getattr(kind, "__name__", kind)).rsplit(".", 1)[-1]


def _site_name(node: fx.Node, taken: Sequence[str]) -> str:
    path, owner = _owner(node)
    is_module = owner.startswith("Dropout") or "Dropout" in owner
    name = path if is_module and path else f"{path}.dropout".lstrip(".")
    same = sum(t == name or t.startswith(f"{name}#") for t in taken)
    return f"{name}#{same + 1}" if same else name


def _argument(node: fx.Node, name: str, position: int, default: object) -> object:
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def _is_random(node: fx.Node) -> bool:
    """Whether this node draws random numbers when it runs."""
    target = cast(Any, node.target)
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    base = str(getattr(target, "__name__", "")).split(".")[0]
    if base in _QUIET_WHEN_ZERO and not _argument(node, *_QUIET_WHEN_ZERO[base], 0.0):
        return False
    train = next((i for i, a in enumerate(target._schema.arguments) if a.name == "train"), None)
    return train is None or bool(_argument(node, "train", train, True))


def _rewritten(program: torch.export.ExportedProgram, rows: Inputs) -> Captured:
    graph = fx.Graph()
    root = nn.Module()
    values: dict[fx.Node, fx.Node] = {}
    sites: list[tuple[str, fx.Node]] = []
    inputs: list[str] = []
    symbol: object = None
    constants = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.target is not None}
    stored = {**program.state_dict, **program.constants}
    wanted = list(rows)
    result: fx.Node | None = None
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in constants:
                value = stored[constants[node.name]]
                attribute = f"constant_{node.name}"
                root.register_buffer(attribute, value.detach().clone())
                values[node] = graph.get_attr(attribute)
            else:
                values[node] = graph.placeholder(wanted[len(inputs)])
                inputs.append(wanted[len(inputs)])
                symbol = node.meta["val"].shape[0]
        elif node.op == "output":
            result = values[cast(Any, node.args[0])[0]]
        elif _is_check(node):
            continue
        else:
            values[node] = _copied(graph, node, values)
            if site_kind(node) and site_rate(node) > 0:
                sites.append((_site_name(node, [name for name, _ in sites]), values[node]))
        if node in values:
            values[node].meta = dict(node.meta)
    assert result is not None
    graph.output(result)
    return Captured(graph, root, sites, inputs, symbol)


def _is_check(node: fx.Node) -> bool:
    base = str(getattr(node.target, "__name__", "")).split(".")[0]
    return base in {"_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range_for_size"}


def _refuse_if_unsupported(node: fx.Node) -> None:
    if node.op in ("placeholder", "output"):
        return
    if node.op != "call_function":
        raise UnservableModel(f"the graph has a {node.op} ({node.target}), which is not supported")
    if any(isinstance(a, fx.GraphModule) for a in node.args):
        raise UnservableModel(f"control flow that depends on data ({node.target}) is not supported")
    if site_kind(node):
        if site_rate(node) >= 1:
            raise UnservableModel(f"site {_site_name(node, [])!r} drops everything (p = {site_rate(node)})")
        return
    if _is_random(node):
        path, owner = _owner(node)
        raise UnservableModel(
            f"{path or 'the network'} ({owner}) draws random numbers by {node.target}, which is not supported yet: "
            "it would be served with that site silently off"
        )


def _copied(graph: fx.Graph, node: fx.Node, values: dict[fx.Node, fx.Node]) -> fx.Node:
    """The node in the new graph; an in-place operation becomes its functional twin, and later readers of what it
    overwrote read the twin."""
    copied = graph.node_copy(node, lambda n: values[n])
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return copied
    base, overload = str(node.target).removeprefix("aten.").split(".")
    written = node.args[0]
    functional = getattr(getattr(_aten, base.rstrip("_"), None), overload, None)
    if not base.endswith("_") or functional is None or not isinstance(written, fx.Node):
        raise UnservableModel(f"{node.target} writes into a tensor in a way that is not supported")
    stale = [n for n in [written, *written.users] if n is not node and n in values and _shares_memory(n)]
    if stale:
        raise UnservableModel(f"{node.target} writes through a view ({stale[0].name}), which is not supported")
    copied.target = functional
    values[written] = copied
    return copied


def _shares_memory(node: fx.Node) -> bool:
    """Whether a node's result may be a view of something else."""
    if node.op != "call_function":
        return node.op == "get_attr"
    schema = getattr(node.target, "_schema", None)
    if schema is not None and any(r.alias_info is not None for r in schema.returns) and not schema.is_mutable:
        return True
    return str(node.target) in {"aten.reshape.default", "aten.flatten.using_ints", "aten.contiguous.default"}
