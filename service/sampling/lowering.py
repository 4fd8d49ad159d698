"""A plan's graphs in bfloat16: matrix products read it, and what follows a product element by element stays in it.

What no product gives (embeddings, sums with positions, the residual stream that starts there) stays float32, as do the
parameters that no product reads. Where the two meet outside a product, float32 wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn

from service.sampling.dense import DenseChain, Stage
from service.sampling.functional import RECURRENT, base_name
from service.sampling.plan import Plan

LAST_SHARE = 0.1  # of the multiplications by weights: up to it the last products run in float32

_PRODUCTS = {
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "scaled_dot_product_attention", "attention_weights", "attended",
}
_MIXES = {"batch_norm"}  # reads bfloat16 beside float32 parameters
_MASK_AT = {"scaled_dot_product_attention": 3, "attention_weights": 2}  # place of the mask among the arguments
Cast = Callable[[Tensor], Tensor]


class Last(NamedTuple):
    """The products behind which no product lies, by the names of their weights, and whether they run in float32."""

    weights: frozenset[str]
    exact: bool

    def has(self, node: fx.Node) -> bool:
        return any(n.op == "get_attr" and str(n.target) in self.weights for n in node.all_input_nodes)


def lowered_plan(plan: Plan, rows: Sequence[Tensor]) -> Plan:
    """The plan with its products in bfloat16. rows: examples, by which it is seen what type each value has.

    The last products run in float32 where that is cheap (`LAST_SHARE`), and what follows them always does: nothing that
    comes later averages over their rounding. Exact endings stay float32: their Monte-Carlo error may be 0.
    """
    predict = cast(fx.GraphModule, plan.predict)
    last = _last_products(predict, rows)
    store = _Store()
    with torch.no_grad():
        lowered_predict, _ = _lowered(predict, rows, last, store)
        prefix, values = _lowered(cast(fx.GraphModule, plan.split.prefix), rows, last, store)
        count = len(rows[0])
        shapes = {site.name: site.mask_shape for site in plan.sites}
        masks = [torch.ones(1, 1, *shapes[name], device=rows[0].device).bfloat16() for name in plan.split.masks]
        suffix, _ = _lowered(cast(fx.GraphModule, plan.split.suffix), [1, count, *masks, *values], last, store)
    chain = LoweredChain(plan.chain.stages) if plan.chain is not None and last.exact else None
    split = replace(plan.split, prefix=prefix, suffix=suffix)
    return replace(plan, predict=lowered_predict, split=split, chain=chain, dtype=torch.bfloat16, exact=plan.split)


class LoweredChain(DenseChain):
    """A chain whose weights are scaled in float32 and then rounded once. The last stage stays float32."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        """stages: float32."""
        stages = list(stages)
        self._types = [*[torch.bfloat16] * (len(stages) - 1), torch.float32]
        if len(stages) > 1:
            stages[-2] = replace(stages[-2], steps=(*stages[-2].steps, widen))
        super().__init__(stages)

    def run_thinned(self, value: Tensor, thinned: Sequence[Tensor]) -> Tensor:
        return super().run_thinned(value.to(self._types[0]), thinned)

    def run_stacked(self, value: Tensor, samples: int, stacked: Sequence[Tensor]) -> Tensor:
        return super().run_stacked(value.to(self._types[0]), samples, stacked)

    def run_masked(self, value: Tensor, masks: Sequence[Tensor]) -> Tensor:
        return super().run_masked(value.to(self._types[0]), masks)

    def _ready(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight.to(self._types[0]), bias.to(self._types[0])

    def _cut(self, kept: Sequence[tuple[Tensor, Tensor]], first: int) -> list[Tensor]:
        types = [dtype for dtype in self._types[first:] for _ in range(2)]
        return [made.to(dtype) for made, dtype in zip(super()._cut(kept, first), types, strict=True)]


def _last_products(predict: fx.GraphModule, rows: Sequence[Tensor]) -> Last:
    last = set()
    seen, todo = set(), [predict.graph.output_node()]
    while todo:
        node = todo.pop()
        if is_product(node):
            last.add(node)
        else:
            new = [n for n in node.all_input_nodes if n not in seen]
            seen.update(new)
            todo += new
    counter = _Counter(predict)
    with torch.no_grad():
        counter.run(*rows)
    counts = counter.multiplications
    return Last(
        frozenset(str(n.target) for node in last for n in node.all_input_nodes if n.op == "get_attr"),
        sum(counts[node] for node in last) <= LAST_SHARE * sum(counts.values()),
    )


class _Counter(fx.Interpreter):
    """Counts multiplications by weights, for each product."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.multiplications: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if is_product(n):
            weights = [getattr(self.module, str(w.target)) for w in n.all_input_nodes if w.op == "get_attr"]
            output = result[0] if isinstance(result, tuple | list) else result
            features = output.shape[1 if base_name(n).startswith("conv") else -1]
            each = sum(weight.numel() for weight in weights if weight.dim() > 1)
            self.multiplications[n] = each * output.numel() // features
        return result


def is_product(node: fx.Node) -> bool:
    """Whether a node multiplies matrices: what runs in bfloat16."""
    return node.op == "call_function" and (base_name(node) in _PRODUCTS or node.target in RECURRENT)


def _lowered(
    module: fx.GraphModule, inputs: Sequence[Any], last: Last, store: _Store
) -> tuple[nn.Module, Any]:
    """The graph with casts where they are needed, and what it gives for `inputs`. What depends on no input is computed
    here, once."""
    made = _Made(last, store)
    given = iter(inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            made.values[node] = next(given)
            made.nodes[node] = made.graph.placeholder(node.name)
        elif node.op == "get_attr":
            made.constants[node] = getattr(module, str(node.target))
        elif node.op == "call_function":
            made.step(node)
    output = module.graph.output_node().args[0]
    made.graph.output(fx.node.map_arg(output, made.read))
    return fx.GraphModule(made.root, made.graph), fx.node.map_arg(output, made.value)


class _Store:
    """Constants after their casts, so that graphs with the same weights hold them once."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Cast | None, Tensor]] = []

    def get(self, value: Tensor, change: Cast | None) -> Tensor:
        for source, known, changed in self._kept:
            if source is value and known is change:
                return changed
        changed = value if change is None else change(value)
        self._kept.append((value, change, changed))
        return changed


class _Made:
    """A lowered graph in the making."""

    def __init__(self, last: Last, store: _Store) -> None:
        self.graph, self.root = fx.Graph(), nn.Module()
        self.constants: dict[fx.Node, Any] = {}
        self.values: dict[fx.Node, Any] = {}  # for the examples, of what is no constant
        self.nodes: dict[fx.Node, fx.Node] = {}
        self._last, self._store = last, store
        self._read: dict[tuple[fx.Node, Cast | None], Any] = {}

    def value(self, node: fx.Node) -> Any:
        return self.constants[node] if node in self.constants else self.values[node]

    def step(self, node: fx.Node) -> None:
        casts = self._casts(node)
        target = cast(Callable[..., Any], node.target)

        def changed(n: fx.Node) -> Any:
            return casts[n](self.value(n)) if n in casts else self.value(n)

        result = target(*fx.node.map_arg(node.args, changed), **fx.node.map_arg(dict(node.kwargs), changed))
        if all(n in self.constants for n in node.all_input_nodes):
            self.constants[node] = result
            return
        arguments = fx.node.map_arg(node.args, lambda n: self.read(n, casts.get(n)))
        made = self.graph.call_function(
            target, arguments, fx.node.map_arg(dict(node.kwargs), lambda n: self.read(n, casts.get(n)))
        )
        if is_product(node) and self._last.has(node) and _floating(result) and not self._last.exact:
            result, made = widen(result), self.graph.call_function(widen, (made,))
        self.values[node], self.nodes[node] = result, made

    def _casts(self, node: fx.Node) -> dict[fx.Node, Cast]:
        """What must be done to a node's inputs."""
        types = {n: self.value(n).dtype for n in node.all_input_nodes if _floating(self.value(n))}
        if is_product(node):
            exact = self._last.exact and self._last.has(node)
            mask = _mask_of(node)
            casts: dict[fx.Node, Cast] = {
                n: widen if exact else narrow_mask if n is mask else narrow
                for n, dtype in types.items() if dtype is not (torch.float32 if exact else torch.bfloat16)
            }
            rows = node.args[0]
            if not exact and base_name(node) == "linear" and isinstance(rows, fx.Node) and self.value(rows).dim() > 2:
                casts[rows] = narrow_in_order
            return casts
        if len(set(types.values())) < 2 or base_name(node) in _MIXES:
            return {}
        return {n: widen for n, dtype in types.items() if dtype is torch.bfloat16}

    def read(self, node: fx.Node, change: Cast | None = None) -> Any:
        """A value in the new graph, after its cast."""
        if (node, change) not in self._read:
            if node in self.constants:
                found = self._constant(node, change)
            else:
                found = self.nodes[node] if change is None else self.graph.call_function(change, (self.nodes[node],))
            self._read[node, change] = found
        return self._read[node, change]

    def _constant(self, node: fx.Node, change: Cast | None) -> Any:
        value = self.constants[node]
        if not isinstance(value, Tensor):
            return value
        name = str(node.target) if node.op == "get_attr" else f"constant_{node.name}"
        name += "" if change is None else f"_{change.__name__}"
        self.root.register_buffer(name, self._store.get(value, change))
        return self.graph.get_attr(name)


def narrow(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16)


def narrow_in_order(value: Tensor) -> Tensor:
    """With rows one after the other in memory: a linear layer of others is a batch of small products."""
    return value.to(torch.bfloat16).contiguous()


def widen(value: Tensor) -> Tensor:
    return value.to(torch.float32)


def narrow_mask(mask: Tensor) -> Tensor:
    """What is added to scores of attention: the least float32 stays finite, so that a query that may see nothing still
    has weights."""
    least = torch.finfo(torch.bfloat16).min
    return torch.where(mask.isneginf(), mask, mask.clamp_min(least)).to(torch.bfloat16)


def _mask_of(node: fx.Node) -> fx.Node | None:
    place = _MASK_AT.get(base_name(node), len(node.args))
    found = node.kwargs.get("attn_mask", node.args[place] if place < len(node.args) else None)
    return found if isinstance(found, fx.Node) else None


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16)
