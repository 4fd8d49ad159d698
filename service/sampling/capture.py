"""From a module to a graph in which every dropout is a node that can be named.

The module is captured armed (see `arming`) and in eval mode; the two graphs must agree but for the sites, or the armed
one computes something else than the prediction.
"""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from service.errors import Uncapturable, UnservableModel
from service.sampling.arming import Inputs, armed, call, plain_attention
from service.sampling.device import generator_put_back, global_generator
from service.sampling.expansion import expand, silenced
from service.sampling.functional import RECURRENT, functional
from service.sampling.marks import Mark, drop, sites_of
from service.sampling.noise import collapse
from service.sampling.passes import channels_last, fold_batch_norm, sink
from service.sampling.process_wide import traced_alone
from service.sampling.reference import traceable

_aten = torch.ops.aten
_LAYOUT = {"clone", "contiguous", "detach", "alias"}
_LOGITS = "logits"  # which of several outputs is meant


@dataclass(frozen=True)
class Captured:
    """graph: the armed graph, all functions pure, parameters and constants as `get_attr` of `root`.
    prediction: the same of the module in eval mode. sites: in the order of execution. rows: the row axis' symbol.
    examples: the rows it was captured with."""

    graph: fx.Graph
    prediction: fx.Graph
    root: nn.Module
    sites: dict[fx.Node, Mark]
    rows: torch.SymInt
    examples: Inputs


def capture(module: nn.Module, rows: Inputs, positional: bool) -> Captured:
    """Captures a private copy. rows: at least two example rows an input.

    UnservableModel, with the site and the reason, where the graph could compute anything else than the module.
    """
    with generator_put_back(next(iter(rows.values())).device), plain_attention(), _quiet(), traced_alone():
        evaluated = _export(module, rows, positional)
        with armed(module):
            program = _export(module, rows, positional)
            with traceable():
                _check_stochastic_twin(module, program, rows, positional)
        output = _wanted_output(program)
        with torch.no_grad(), traceable():
            one, other = (_flat(call(module.eval(), rows, positional))[output] for _ in range(2))
        if not torch.equal(one, other):
            raise UnservableModel("two passes in eval mode differ: the network is random even with dropout off")
    with _quiet(), traced_alone():
        mutated = program.run_decompositions({}).graph_signature.buffers_to_mutate
    if mutated:
        raise UnservableModel(f"the forward pass changes the model's state ({', '.join(map(str, mutated.values()))})")
    root = nn.Module()
    graph, prediction = (functional(p, root, list(rows), output) for p in (program, evaluated))
    graph.owning_module = prediction.owning_module = cast(Any, root)
    collapse(graph)
    _check_twins(graph, prediction)
    expand(graph)
    for each in (graph, prediction):
        fold_batch_norm(each, root)
        channels_last(each, root)
    symbol = next(n for n in graph.nodes if n.op == "placeholder").meta["val"].shape[0]
    return Captured(graph, prediction, root, sink(graph, sites_of(graph)), symbol, rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.export says of its own use of a class that torch deprecates, and without the pages that it
    prints on why a network cannot be captured: the error has the reason."""
    talkative = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = talkative.level
    talkative.setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        try:
            yield
        finally:
            talkative.setLevel(level)


def _export(module: nn.Module, rows: Inputs, positional: bool) -> torch.export.ExportedProgram:
    axis = torch.export.Dim("rows")
    args = tuple(rows.values()) if positional else ()
    kwargs = {} if positional else dict(rows)
    try:
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments  # *inputs is one of them, a tuple
        shapes = pytree.tree_map(lambda _: {0: axis}, dict(given))
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as e:
        reason = str(e).strip().split("\n")[0][:300]
        raise Uncapturable(f"the network cannot be captured by torch.export: {type(e).__name__}: {reason}") from e


def output_of(result: Any) -> Tensor:
    """The tensor that is meant: the only one, or the one called "logits"."""
    return _flat(result)[_place(result)]


def _flat(result: Any) -> list[Any]:
    return pytree.tree_flatten(result)[0]


def _place(result: Any) -> int:
    """Where in the flat outputs the one that is meant stands."""
    paths = [(path, value) for path, value in pytree.tree_flatten_with_path(result)[0]]
    tensors = [i for i, (_, value) in enumerate(paths) if isinstance(value, Tensor) and value.is_floating_point()]
    named = [i for i in tensors if _LOGITS in pytree.keystr(paths[i][0])]
    found = named if len(named) == 1 else tensors
    if len(found) != 1:
        names = ", ".join(pytree.keystr(path) or "output" for path, _ in paths) or "none"
        raise UnservableModel(f"one tensor, or one that is called {_LOGITS!r}, is expected from the network; "
                              f"its outputs are: {names}")
    return found[0]


def _wanted_output(program: torch.export.ExportedProgram) -> int:
    specification = program.call_spec.out_spec
    assert specification is not None
    node = program.graph.output_node()
    values = [n.meta["val"] if isinstance(n, fx.Node) else n for n in cast(Any, node.args[0])]
    return _place(pytree.tree_unflatten(values, specification))


def _check_stochastic_twin(
    module: nn.Module, program: torch.export.ExportedProgram, rows: Inputs, positional: bool
) -> None:
    """Same torch seed, armed module against captured graph: no site was lost, doubled or changed."""
    generator, results = global_generator(next(iter(rows.values())).device), []
    for twin in (module, program.module(check_guards=False)):
        generator.manual_seed(20)
        with torch.no_grad():
            results.append((_flat(call(twin, rows, positional)), generator.get_state()))
    (one, state), (other, other_state) = results
    if not torch.equal(state, other_state) or any(
        not torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor)
    ):
        raise UnservableModel("with dropout on, the captured graph and the module differ under the same random seed")


def _steps(graph: fx.Graph) -> list[str]:
    """What a graph computes, without sites, layout and the numbering of names."""
    needed = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed:
            needed.update([node, *node.all_input_nodes])
    place: dict[fx.Node, str] = {}
    steps: list[str] = []
    for node in graph.nodes:
        if node.op != "call_function":
            place[node] = str(node.target)
        elif node not in needed:
            continue
        elif node.target is drop or str(getattr(node.target, "__name__", "")).split(".")[0] in _LAYOUT:
            place[node] = place[cast(fx.Node, node.args[0])]
        else:
            place[node] = f"%{len(steps)}"
            arguments = fx.node.map_arg(_settled(node), lambda n: place[n])
            steps.append(f"{node.target}{arguments}")
    return steps


def _settled(node: fx.Node) -> tuple[Any, ...]:
    """A node's arguments, with the dropout inside the operation switched off."""
    if node.target is not _aten.scaled_dot_product_attention.default and node.target not in RECURRENT:
        return node.args, dict(node.kwargs)
    named = dict(node.kwargs)
    arguments = list(node.args)
    rest = cast(Any, node.target)._schema.arguments[len(arguments) :]
    arguments += [named.pop(a.name, a.default_value) for a in rest]
    return silenced(node, arguments), named


def _check_twins(with_dropout: fx.Graph, without: fx.Graph) -> None:
    one, other = _steps(with_dropout), _steps(without)
    if one != other:
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        step = (one if at < len(one) else other)[at]
        raise UnservableModel(
            f"with dropout on the network computes something else than in eval mode, not only dropout (at {step[:200]})"
        )

