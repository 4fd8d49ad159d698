"""Rewrites that leave what a graph computes as it is, to rounding, and make it cheaper.

Batch normalisation in eval mode goes into the convolution or linear layer before it. Weights of convolutions lie
channels last in memory, where torch's convolutions and pools are fastest. A site moves behind operations that commute
with a multiplication by numbers that are not negative, so that more of the network needs no mask.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from service.sampling.marks import Mark, marked, site_input

_aten: Any = torch.ops.aten
_CONVOLUTIONS = {_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default}
_PLANAR = {_aten.conv2d.default, _aten.conv2d.padding}
_NORMED = {*_CONVOLUTIONS, _aten.linear.default}
_EACH_UNIT = {_aten.relu.default, _aten.leaky_relu.default}  # commute with any mask
_EACH_CHANNEL = {  # commute with a mask that is the same over so many last axes, which they pool
    _aten.max_pool1d.default: 1, _aten.max_pool2d.default: 2, _aten.max_pool3d.default: 3,
    _aten.avg_pool1d.default: 1, _aten.avg_pool2d.default: 2, _aten.avg_pool3d.default: 3,
    _aten.adaptive_avg_pool1d.default: 1, _aten.adaptive_avg_pool2d.default: 2, _aten.adaptive_avg_pool3d.default: 3,
}


def fold_batch_norm(graph: fx.Graph, root: nn.Module) -> None:
    """Batch normalisation into the layer before it, where nothing else reads that layer's output."""
    for node in list(graph.nodes):
        layer = node.args[0] if node.target is _aten.batch_norm.default else None
        if not isinstance(layer, fx.Node) or layer.target not in _NORMED or len(layer.users) > 1:
            continue
        if layer.target is _aten.linear.default and layer.meta["val"].dim() != 2:
            continue  # it normalises another axis than the layer's last
        parameters = (*(*layer.args[1:3], None)[:2], *node.args[1:5])
        weight, bias, gain, shift, mean, variance = held = [_held(root, a) for a in parameters]
        training, _, epsilon = node.args[5:8]
        computed = any(value is None and given is not None for value, given in zip(held, parameters, strict=True))
        if training or computed or weight is None or mean is None or variance is None:
            continue
        factor = (variance.double() + cast(float, epsilon)).rsqrt() * (1.0 if gain is None else gain.double())
        folded = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
        moved = ((0.0 if bias is None else bias.double()) - mean.double()) * factor + (0.0 if shift is None else shift)
        with graph.inserting_before(layer):
            names = [_kept(root, f"{layer.args[1]}_{node.args[3]}_{part}", value.to(weight.dtype))
                     for part, value in (("weight", folded), ("bias", moved))]
            constants = [graph.get_attr(name) for name in names]
        for constant, name in zip(constants, names, strict=True):
            constant.meta = {"val": getattr(root, name)}
        layer.args = (layer.args[0], *constants, *layer.args[3:])
        node.replace_all_uses_with(layer)
        graph.erase_node(node)


def channels_last(graph: fx.Graph, root: nn.Module) -> None:
    """Weights of two-dimensional convolutions channels last; their outputs then are too."""
    if not takes_channels_last(graph):
        return
    for node in graph.nodes:
        weight = _held(root, node.args[1]) if node.target is _aten.conv2d.default else None
        if weight is not None:
            _, channels, height, width = weight.shape
            name = str(cast(fx.Node, node.args[1]).target)
            # torch takes a single channel's own strides for channels first
            strides = (channels * height * width, 1, channels * width, channels)
            root.register_buffer(name, weight.new_empty_strided(weight.shape, strides).copy_(weight))


def takes_channels_last(graph: fx.Graph) -> bool:
    """Whether all of it can be run on values that lie channels last. Where a window of a convolution lies wholly in a
    padding, torch 2.13's library then reads what is not there, and ends the process. A pool over three axes of a value
    without rows of its own refuses them."""
    return not any(
        (node.target in _PLANAR and _reads_padding_only(node))
        or (_EACH_CHANNEL.get(node.target) == 3 and node.meta["val"].dim() == 4) for node in graph.nodes
    )


def _reads_padding_only(node: fx.Node) -> bool:
    """Whether some window of a convolution has no number of its input, or may have none."""
    source, weight = (cast(fx.Node, a).meta["val"].shape for a in node.args[:2])
    settings = dict(zip(("stride", "padding", "dilation"), node.args[3:6], strict=False))
    for axis in range(2, len(weight)):
        size, kernel = source[axis], weight[axis]
        stride, padding, dilation = (
            _of_axis(settings.get(name, default), axis - 2)
            for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
        )
        if not all(isinstance(n, int) for n in (size, kernel)):
            return True
        reach = dilation * (kernel - 1)
        both = {"same": reach, "valid": 0}.get(padding, 2 * padding)  # sides together; the second has the odd one
        starts = range(-(both // 2), size + both - both // 2 - reach, stride)
        if any(all(not 0 <= start + dilation * k < size for k in range(kernel)) for start in starts):
            return True
    return False


def _of_axis(value: Any, axis: int) -> Any:
    return value if isinstance(value, int | str) else value[axis % len(value)]


def sink(graph: fx.Graph, sites: dict[fx.Node, Mark]) -> dict[fx.Node, Mark]:
    """Moves sites behind activations and pools. Returns the sites as they are then, in the order of `sites`, which is
    the one in which the module asks for its noise."""
    moved = {}
    for site, mark in sites.items():
        while (follower := _follower(site, mark)) is not None:
            with graph.inserting_before(follower):
                earlier = graph.node_copy(follower)
                earlier.replace_input_with(site, site_input(site))
                later = marked(graph, earlier, mark)
            follower.replace_all_uses_with(later)
            graph.erase_node(follower)
            graph.erase_node(site)
            site = later
        moved[site] = mark
    return moved


def _follower(site: fx.Node, mark: Mark) -> fx.Node | None:
    """The operation that reads a site's output and can go before it."""
    if mark.saturates or len(site.users) != 1:
        return None
    user = next(iter(site.users))
    pooled = _EACH_CHANNEL.get(user.target)  # of a value with fewer axes torch would pool the channels too
    whole = pooled is not None and mark.varies == (True, True, *[False] * pooled)
    if not whole and user.target not in _EACH_UNIT:
        return None
    if user.target is _aten.leaky_relu.default and any(isinstance(a, fx.Node) for a in user.args[1:]):
        return None
    return user if user.all_input_nodes == [site] else None


def _held(root: nn.Module, node: Any) -> Tensor | None:
    """The tensor of a parameter, buffer or constant; None where the node is anything else."""
    known = isinstance(node, fx.Node) and node.op == "get_attr"
    return cast(Tensor, getattr(root, str(node.target))) if known else None


def _kept(root: nn.Module, name: str, value: Tensor) -> str:
    """The name under which a tensor is registered; the same tensor of another graph is there already."""
    while (held := getattr(root, name, None)) is not None and not torch.equal(held, value):
        name += "_"
    if held is None:
        root.register_buffer(name, value)
    return name
