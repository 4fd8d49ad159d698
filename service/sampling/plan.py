"""What is computed once, and what is computed for every sample.

The graph is split by taint: the *prefix* is what no mask reaches and runs once on the rows; the *suffix* is the rest
and runs on samples × rows, folded into one batch, sample-major (place t·rows + b). Values of the prefix are broadcast
into the first multiply by a mask and copied elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from service.errors import Uncapturable, UnservableModel
from service.sampling.capture import Captured
from service.sampling.conditional import Ending, MaskLaw
from service.sampling.dense import DenseChain, dense_chain
from service.sampling.flops import flops
from service.sampling.folding import masked, masked_broadcast, repeat_rows
from service.sampling.functional import may_share_memory
from service.sampling.layouts import Layout, Layouts
from service.sampling.linear import last_linear_site, matrix_of
from service.sampling.marks import SATURATION, Mark, drop, mark_of, site_input
from service.sampling.masks import MAX_OUTER
from service.sampling.products import with_quick_calls
from service.sampling.sites import Site, selected
from service.sampling.split import Split
from service.sampling.windows import windowed

if TYPE_CHECKING:
    from service.sampling.eager import EagerNetwork

_aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Plan:
    """predict: inputs to output, every dropout off.
    split: the same with dropout on, where the first mask acts; the suffix gives outputs (samples·rows, …).
    chain: the suffix as a chain of linear layers; None where it is anything else.
    ending: the last site with the affine maps that follow it; None where other maps do, or where it was not sought.
    marks, layouts: of every site, in the order of execution.
    deterministic_flop_share: of the operations of a prediction, what the prefix does; None where it is not known.
    network: what runs instead of the graphs, where there are none, for that reason.
    dtype: of the matrix products and of the masks; float32, or bfloat16 once lowered. tf32: whether products of
    float32 may round what they multiply to TF32.
    exact: the split in float32, once lowered.
    """

    predict: nn.Module
    split: Split
    chain: DenseChain | None
    ending: Ending | None
    sites: list[Site]
    marks: list[Mark]
    layouts: list[Layout]
    output_shape: tuple[int, ...]
    deterministic_flop_share: float | None = None
    network: EagerNetwork | None = None
    reason: str = ""
    dtype: torch.dtype = torch.float32
    exact: Split | None = None
    tf32: bool = False


def make_plan(captured: Captured, patterns: Sequence[str] | None, raw_output: bool = False) -> Plan:
    """raw_output: whether the answer is the output itself, so that affine maps behind the last site are of use."""
    marks = captured.sites
    chosen = selected([mark.name for mark in marks.values()], patterns)
    layouts = Layouts(captured.graph, captured.root, captured.rows, captured.examples)
    places = {node: _site_layout(node, mark, layouts) for node, mark in marks.items()}
    active = {node: mark.name for (node, mark), on in zip(marks.items(), chosen, strict=True) if on}
    sites = [
        Site(mark.name, mark.kind, mark.p, on, _mask_shape(node, mark, places[node]),
             "" if on else "left out by the manifest's sites", mark.scale)
        for (node, mark), on in zip(marks.items(), chosen, strict=True)
    ]
    output = cast(fx.Node, captured.graph.output_node().args[0])
    shape = output.meta["val"].shape
    if not shape or not layouts.is_rows(shape[0]) or any(not isinstance(n, int) for n in shape[1:]):
        raise UnservableModel(f"the output's first axis must be the rows and the others fixed, got {tuple(shape)}")
    tainted = _tainted(captured.graph, set(active))
    if active and output not in tainted:
        raise UnservableModel("no site reaches the output: dropout would never change the answer")
    builder = _Suffix(captured, tainted, active, places, layouts)
    split, boundary = builder.split(output)
    predicted = cast(fx.Node, captured.prediction.output_node().args[0])
    root, rows = captured.root, [value[:1] for value in captured.examples.values()]
    before, whole = _without_sites(captured.graph, boundary), _without_sites(captured.prediction, [predicted])
    share = flops(root, before, rows) / max(flops(root, whole, rows), 1)
    return Plan(
        predict=_quick(root, _owning(whole)),
        split=split,
        chain=dense_chain(captured.root, output, active),
        ending=_ending(captured, builder.mask_nodes, places, layouts, sites) if raw_output else None,
        sites=sites,
        marks=list(marks.values()),
        layouts=list(places.values()),
        output_shape=tuple(int(n) for n in shape[1:]),
        deterministic_flop_share=min(share, 1.0),
    )


def _site_layout(node: fx.Node, mark: Mark, layouts: Layouts) -> Layout:
    found = layouts.of(site_input(node))
    shape = node.meta["val"].shape
    if found is None or len(shape) - 1 + (found.per_row > 1) > MAX_OUTER + 1:
        raise Uncapturable(
            f"site {mark.name!r} acts on a tensor of shape {tuple(shape)}, whose rows cannot be told apart"
        )
    return found


def _mask_shape(node: fx.Node, mark: Mark, layout: Layout) -> tuple[int, ...]:
    """Of one row's mask, in the order of the tensor's axes; 1 where it is broadcast."""
    shape = [int(n) if isinstance(n, int) else layout.per_row for n in node.meta["val"].shape]
    shape = [n if varies else 1 for n, varies in zip(shape, mark.varies, strict=True)]
    if layout.per_row == 1:
        del shape[layout.axis]
    return tuple(shape)


def _tainted(graph: fx.Graph, sources: set[fx.Node]) -> set[fx.Node]:
    tainted: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and (node in sources or any(n in tainted for n in node.all_input_nodes)):
            tainted.add(node)
    return tainted


def _ending(
    captured: Captured, active: Sequence[fx.Node], places: dict[fx.Node, Layout], layouts: Layouts,
    sites: Sequence[Site],
) -> Ending | None:
    """active: in the order of execution. sites: of all of `captured.sites`."""
    output = cast(fx.Node, captured.graph.output_node().args[0])
    by_node = dict(zip(captured.sites, sites, strict=True))
    last = last_linear_site(captured.graph, output, active)
    if last is None or places[last].per_row > 1:
        return None
    axis = places[last].axis
    matrix = matrix_of(captured, last, output, axis)
    if matrix is None:
        return None
    others = {node: by_node[node].name for node in active if node is not last}
    tainted = _tainted(captured.graph, set(others))
    builder = _Suffix(captured, tainted, others, places, layouts)
    split, _ = builder.split(output, site_input(last))
    mark = captured.sites[last]
    law = MaskLaw(mark.p, mark.scale, SATURATION if mark.saturates else 0.0)
    return Ending(by_node[last], law, axis, matrix, split)


def width_of(node: fx.Node) -> int:
    """Numbers of a value for one row."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    return max((prod(_per_row(n) for n in v.shape) for v in values if isinstance(v, Tensor)), default=1)


def _per_row(size: object) -> int:
    if isinstance(size, torch.SymInt):
        free = list(size.node.expr.free_symbols)
        return int(size.node.expr.subs({s: 1 for s in free}))
    return int(cast(int, size))


def _quick(root: nn.Module, graph: fx.Graph) -> nn.Module:
    made = fx.GraphModule(root, with_quick_calls(windowed(graph)))
    # found at once, without a module's search for what it is; a plan stays on the device that it was made on
    vars(made).update((str(n.target), getattr(made, str(n.target))) for n in made.graph.nodes if n.op == "get_attr")
    return made


def _without_sites(graph: fx.Graph, wanted: Sequence[fx.Node]) -> fx.Graph:
    """From the inputs to the tuple of wanted values, sites as the identity."""
    made = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in _needed(graph, wanted, keep_inputs=True):
        values[node] = values[site_input(node)] if node.target is drop else made.node_copy(node, lambda n: values[n])
    made.output(tuple(values[n] for n in wanted))
    return made


def _owning(graph: fx.Graph) -> fx.Graph:
    """The graph of a prediction, which is the caller's to change: a copy where it may be a part of the inputs or of the
    weights."""
    output = graph.output_node()
    (result,) = cast(tuple[fx.Node], output.args[0])
    node = result
    while node.op == "call_function" and may_share_memory(node):
        node = cast(fx.Node, node.args[0])
    if node.op != "call_function":
        with graph.inserting_before(output):
            copy = graph.call_function(_aten.clone.default, (result,))
        copy.meta = dict(result.meta)
        output.args = ((copy,),)
    return graph


def _needed(graph: fx.Graph, wanted: Sequence[fx.Node], keep_inputs: bool) -> list[fx.Node]:
    """Nodes that the wanted ones rest on, in order."""
    needed = set(wanted)
    for node in reversed(list(graph.nodes)):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [n for n in graph.nodes if n in needed or (keep_inputs and n.op == "placeholder")]


class _Suffix:
    """Builds the graph that runs on samples × rows, and with it the split."""

    def __init__(
        self, captured: Captured, tainted: set[fx.Node], active: dict[fx.Node, str], places: dict[fx.Node, Layout],
        layouts: Layouts,
    ) -> None:
        self._captured, self._tainted, self._active = captured, tainted, active
        self._places, self._layouts = places, layouts
        self._graph = fx.Graph()
        self._samples = self._graph.placeholder("samples")
        self._folded_rows = self._graph.placeholder("folded_rows")
        self._masks: dict[fx.Node, fx.Node] = {}
        self._boundary: dict[fx.Node, fx.Node] = {}
        self._values: dict[fx.Node, fx.Node] = {}
        self.mask_nodes: list[fx.Node] = []

    def split(self, *outputs: fx.Node) -> tuple[Split, list[fx.Node]]:
        """The suffix, which gives one value or the tuple of them, with its prefix; and the nodes of the values between
        the two."""
        suffix, boundary = self._build(outputs)
        return Split(
            prefix=_quick(self._captured.root, _without_sites(self._captured.graph, boundary)),
            prefix_layouts=[self._layouts.of(n) for n in boundary],
            prefix_width=max(1, sum(width_of(n) for n in boundary)),
            suffix=suffix,
            suffix_width=max((width_of(n) for n in self._tainted), default=1),
            masks=[self._active[n] for n in self.mask_nodes],
        ), boundary

    def _build(self, outputs: Sequence[fx.Node]) -> tuple[nn.Module, list[fx.Node]]:
        order = [n for n in _needed(self._captured.graph, outputs, keep_inputs=False) if n in self._tainted]
        self.mask_nodes = [n for n in order if n in self._active]
        for i, node in enumerate(self.mask_nodes):
            self._masks[node] = self._graph.placeholder(f"mask_{i}")
        read = [n for node in order for n in node.all_input_nodes if n not in self._tainted]
        read += [n for n in outputs if n not in self._tainted]
        boundary = [n for n in dict.fromkeys(read) if n.op != "get_attr" and isinstance(n.meta.get("val"), Tensor)]
        for i, node in enumerate(boundary):
            self._boundary[node] = self._graph.placeholder(f"value_{i}")
            self._boundary[node].meta = {"val": node.meta["val"]}
        for node in order:
            self._values[node] = self._site(node) if node in self._active else self._step(node)
        given = tuple(self._read(n) for n in outputs)
        self._graph.output(given if len(given) > 1 else given[0])
        return _quick(self._captured.root, self._graph), boundary

    def _step(self, node: fx.Node) -> fx.Node:
        if node.target is drop:
            return self._read(site_input(node))
        return self._graph.node_copy(node, self._read)

    def _read(self, node: fx.Node) -> fx.Node:
        """A value as the suffix sees it: with samples × rows in place of rows."""
        if node in self._values:
            return self._values[node]
        if node in self._boundary:
            made = self._expanded(node)
        elif self._layouts.is_rows(node.meta.get("val")):
            made = self._folded_rows
        else:  # a parameter, or arithmetic on sizes
            made = self._graph.node_copy(node, self._read)
        self._values[node] = made
        return made

    def _expanded(self, node: fx.Node) -> fx.Node:
        layout, value = self._layouts.of(node), self._boundary[node]
        return value if layout is None else self._called(node, repeat_rows, value, layout, self._samples)

    def _called(self, like: fx.Node, function: Callable[..., Tensor], *arguments: Any) -> fx.Node:
        """A step whose result has the shape of that node of the captured graph, but for the samples."""
        made = self._graph.call_function(function, arguments)
        made.meta = {"val": like.meta["val"]}
        return made

    def _site(self, node: fx.Node) -> fx.Node:
        source, layout, mark = site_input(node), self._places[node], mark_of(node)
        assert mark is not None
        tainted = source in self._tainted
        value = self._read(source) if tainted else self._boundary[source]
        if mark.saturates:  # scale·(x where it stays, else the saturation) + shift, with one multiplication by the mask
            value = self._called(node, torch.sub, value, SATURATION)
        if tainted:
            value = self._called(node, masked, value, self._masks[node], layout, self._samples)
        else:
            value = self._called(node, masked_broadcast, value, self._masks[node], layout)
        if mark.saturates:
            value = self._called(node, torch.add, value, mark.scale * SATURATION * (1 - mark.p))
        return value
