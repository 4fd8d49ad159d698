"""Where the last site reaches the output through affine maps only, and the matrix of those maps.

Given everything but that site's mask, the output is then `matrix · (what the site gives) + offset`, so its mean and
variance over the mask are sums that need no sampling. The graph must show it: every operation between the site and
the output is affine, with coefficients that are constants of the network. The matrix is the derivative of the output
by what the site gives, which is the same everywhere for an affine map; several places are tried.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from service.sampling.arming import Inputs
from service.sampling.capture import Captured
from service.sampling.marks import drop, site_input

MAX_COEFFICIENTS = 1 << 19  # of the matrix: with its squares, as float64, 8 MiB. A larger one is sampled
_SAME = 1e-5  # of the largest coefficient: how far derivatives of one affine map may differ by rounding
_OUTPUTS_AT_ONCE = 64

_aten: Any = torch.ops.aten
_AFFINE = {  # in all their tensors together
    _aten.add.Tensor, _aten.add.Scalar, _aten.sub.Tensor, _aten.sub.Scalar, _aten.neg.default,
    _aten.cat.default, _aten.stack.default, _aten.pad.default,
    _aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.flatten.using_ints,
    _aten.unflatten.int, _aten.permute.default, _aten.transpose.int, _aten.squeeze.dim, _aten.squeeze.dims,
    _aten.unsqueeze.default, _aten.expand.default, _aten.contiguous.default, _aten.clone.default, _aten.alias.default,
    _aten.select.int, _aten.slice.Tensor, _aten.mean.dim, _aten.sum.dim_IntList,
    _aten.avg_pool1d.default, _aten.avg_pool2d.default, _aten.avg_pool3d.default,
    _aten.adaptive_avg_pool1d.default, _aten.adaptive_avg_pool2d.default, _aten.adaptive_avg_pool3d.default,
}
_AFFINE_IN_ONE: dict[object, tuple[int, ...]] = {  # of the arguments at these places, where the others are constants
    _aten.mul.Tensor: (0, 1), _aten.mul.Scalar: (0,), _aten.div.Tensor: (0,), _aten.div.Scalar: (0,),
    _aten.matmul.default: (0, 1), _aten.mm.default: (0, 1), _aten.bmm.default: (0, 1), _aten.addmm.default: (1, 2),
    _aten.linear.default: (0,), _aten.batch_norm.default: (0,),
    _aten.conv1d.default: (0,), _aten.conv2d.default: (0,), _aten.conv3d.default: (0,),
    _aten.conv1d.padding: (0,), _aten.conv2d.padding: (0,), _aten.conv3d.padding: (0,),
}
_BATCH_NORM_TRAINING = 5  # place of that argument


def last_linear_site(graph: fx.Graph, output: fx.Node, active: Sequence[fx.Node]) -> fx.Node | None:
    """The last of the active sites, given in the order of execution, behind which lie affine maps with constant
    coefficients only and no other active site; None where there is none such."""
    constants = _constants(graph)
    needed = _rests_on(graph, output)
    return next((s for s in reversed(active) if _is_affine_behind(graph, s, needed, set(active), constants)), None)


def _rests_on(graph: fx.Graph, output: fx.Node) -> set[fx.Node]:
    needed = {output}
    for node in reversed(list(graph.nodes)):
        if node in needed:
            needed.update(node.all_input_nodes)
    return needed


def _constants(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that depend neither on the rows nor on their number nor on chance."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        random = node.target is drop or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        made = node.op == "call_function" and not random and all(n in found for n in node.all_input_nodes)
        if node.op == "get_attr" or made:
            found.add(node)
    return found


def _is_affine_behind(
    graph: fx.Graph, site: fx.Node, needed: Set[fx.Node], active: Set[fx.Node], constants: Set[fx.Node]
) -> bool:
    carrying = {site}  # values in which the site's mask shows
    for node in graph.nodes:
        if node not in needed or node.op != "call_function" or not any(n in carrying for n in node.all_input_nodes):
            continue
        if node.target == _aten.sym_size.int:  # a shape shows no mask
            continue
        switched_off = node.target is drop and node not in active
        if not (switched_off or _is_affine(node, carrying, constants)) or not _keeps_rows(node):
            return False
        carrying.add(node)
    return True


def _keeps_rows(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and any(not isinstance(n, int) for n in value.shape)


def _is_affine(node: fx.Node, carrying: Set[fx.Node], constants: Set[fx.Node]) -> bool:
    if node.target in _AFFINE:
        return True
    if node.target == _aten.batch_norm.default and node.args[_BATCH_NORM_TRAINING]:
        return False
    places = [i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a in carrying]
    others = [n for n in node.all_input_nodes if n not in carrying]
    fits = len(places) == 1 and places[0] in _AFFINE_IN_ONE.get(node.target, ())
    return fits and all(n in constants for n in others)


def matrix_of(captured: Captured, site: fx.Node, output: fx.Node, row_axis: int) -> Tensor | None:
    """What multiplies each number that the site gives: (outputs, *shape of one row of the site), float64.

    None where there are more than `MAX_COEFFICIENTS`, or where the derivative is not the same everywhere.
    row_axis: of the site's tensor.
    """
    shape = [int(n) for i, n in enumerate(site.meta["val"].shape) if i != row_axis]
    outputs = prod(int(n) for n in output.meta["val"].shape[1:])
    if outputs * prod(shape) > MAX_COEFFICIENTS:
        return None
    behind = _behind(captured, site, output)
    generator = torch.Generator().manual_seed(0)
    found = [
        _derivative(behind, {name: value[row : row + 1] for name, value in captured.examples.items()}, row_axis,
                    at=scale * torch.randn(shape, generator=generator), outputs=outputs)
        for row, scale in ((0, 0.0), (0, 1.0), (1, 10.0))
    ]
    largest = float(found[0].abs().max())
    alike = all(float((other - found[0]).abs().max()) <= _SAME * largest for other in found[1:])
    return found[0].double() if alike else None


def _derivative(behind: nn.Module, row: Inputs, row_axis: int, at: Tensor, outputs: int) -> Tensor:
    """Of every output of one row by what the site gives, where it gives `at`: (outputs, *at's shape)."""
    slopes = []
    for first in range(0, outputs, _OUTPUTS_AT_ONCE):
        some = torch.arange(first, min(first + _OUTPUTS_AT_ONCE, outputs))  # each in a copy of the row of its own
        copies = [value.repeat(len(some), *[1] * (value.dim() - 1)) for value in row.values()]
        given = at.to(copies[0].device).expand(len(some), *at.shape).movedim(0, row_axis).clone().requires_grad_()
        with torch.enable_grad():
            picked = behind(given, *copies).reshape(len(some), -1)[torch.arange(len(some)), some]
            (slope,) = torch.autograd.grad(picked.sum(), given)
        slopes.append(slope.movedim(row_axis, 0))
    return torch.cat(slopes)


def _behind(captured: Captured, site: fx.Node, output: fx.Node) -> nn.Module:
    """A module from (what the site gives, *inputs) to the output, the other sites as the identity."""
    graph = fx.Graph()
    values = {site: graph.placeholder("given")}
    needed = _rests_on(captured.graph, output)
    for node in captured.graph.nodes:
        if node.op == "output" or node is site or (node not in needed and node.op != "placeholder"):
            continue
        if node.target is drop:
            values[node] = values[site_input(node)]
        else:
            values[node] = graph.node_copy(node, lambda n: values[n])
    graph.output(values[output])
    return fx.GraphModule(captured.root, graph)
