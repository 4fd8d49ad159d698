"""Convolutions whose input is the same for every sample but for a mask over its channels.

Of each row, every input channel is convolved once, by itself; a sample is a sum over the channels that it keeps. With
a 3×3 kernel that is about nine times fewer multiplications than a convolution for every sample. The bias, ReLU, a
max-pool and the mask over the output's channels are done as the sums are made. Here such convolutions are found in a
suffix; `service/sampling/partial_maps.py` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn

from service import native
from service.sampling.bank import SeedBank
from service.sampling.folding import masked, masked_broadcast
from service.sampling.kernels import USUAL_SAMPLES, Folded
from service.sampling.layouts import Layout
from service.sampling.lowering import is_product
from service.sampling.partial_maps import ChannelsLastLinear, Geometry, MaskedConvolution, Pair
from service.sampling.passes import takes_channels_last
from service.sampling.plan import Plan, width_of
from service.sampling.products import linear
from service.sampling.sites import Site
from service.sampling.split import Split

_aten: Any = torch.ops.aten
_FLAT = {_aten.flatten.using_ints, _aten.view.default, _aten.reshape.default}
_POOLED = (2, 4)  # numbers of a window of which the largest is taken
_ROWS_FIRST = Layout(0)
_DEFAULTS: Mapping[str, int] = {"stride": 1, "padding": 0, "dilation": 1}


class ChannelSums(Folded):
    """As `Folded`, but such convolutions as sums of partial maps."""

    name = "channel sums"
    _purpose = "channel sums"  # masks are float32 where a lowered plan's are not

    def __init__(self, split: Split, sites: Sequence[Site], bank: SeedBank, device: torch.device) -> None:
        super().__init__(split, sites, bank, device)
        # the partial maps are made anew for every chunk of samples: one chunk for the usual request
        self.rows = max(1, self.working_set_bytes // (self.split.suffix_width * 4 * USUAL_SAMPLES))


def with_channel_sums(plan: Plan) -> Split | None:
    """The plan's split with such convolutions, and what follows them, as one step each. None where there are none, no
    library to run them with, or something in the suffix that cannot be run on what they give, which is channels last.

    Of a lowered plan all is float32 but for the linear layers that read the sums: that is faster than convolutions in
    bfloat16, and closer. None where more products than the last one are left, for which bfloat16 is wanted.
    """
    split = plan.exact or plan.split
    if native.library() is None or not isinstance(split.suffix, fx.GraphModule):
        return None
    if not takes_channels_last(split.suffix.graph):
        return None
    shapes = {site.name: site.mask_shape for site in plan.sites}
    made = _Rewritten(split.suffix, [shapes[name] for name in split.masks], plan.dtype)
    if not made.found or (plan.dtype is not torch.float32 and sum(map(is_product, made.graph.nodes)) > 1):
        return None
    return replace(split, suffix=fx.GraphModule(made.root, made.graph), suffix_width=made.width)


class _Found(NamedTuple):
    """inputs: the value, its mask and, where there is one, the mask behind. last: the node whose result the module
    gives. like: a node whose shape is known, and is that one's."""

    inputs: list[fx.Node]
    module: MaskedConvolution
    last: fx.Node
    like: fx.Node


class _Rewritten:
    """The suffix' graph with such convolutions as modules of `root`. width: of its largest value."""

    def __init__(self, suffix: fx.GraphModule, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> None:
        """shapes: of the masks, in the order of the suffix. dtype: of linear layers that read the sums, but for the
        last in the graph, which is float32."""
        self._dtype = dtype
        self.root: nn.Module = nn.Module()
        for name, value in (*suffix.named_parameters(), *suffix.named_buffers()):
            self.root.register_buffer(name, value.detach())
        self.graph, self.found = fx.Graph(), 0
        output = self.graph.graph_copy(suffix.graph, {})
        self.graph.output(output)
        names = [node for node in self.graph.nodes if node.op == "placeholder"]
        self._masks = dict(zip(names[2:], shapes, strict=False))  # behind samples and rows
        for node in list(self.graph.nodes):
            if node.target is masked_broadcast and (found := self._convolution(node)) is not None:
                self._replace(found)
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op in ("call_function", "get_attr"):
                self.graph.erase_node(node)
        self.width = max((width_of(node) for node in self.graph.nodes if "val" in node.meta), default=1)

    def _convolution(self, site: fx.Node) -> _Found | None:
        value, mask, layout = site.args
        node = _only_user(site)
        if node is None or node.target is not _aten.conv2d.default or node.args[0] is not site:
            return None
        named = dict(zip(("weight", "bias", "stride", "padding", "dilation", "groups"), node.args[1:], strict=False))
        weight, bias = (self._constant(named.get(name)) for name in ("weight", "bias"))
        if weight is None or (bias is None and named.get("bias") is not None) or named.get("groups", 1) != 1:
            return None
        read = (cast(fx.Node, value).meta["val"], weight, bias)
        if any(tensor is not None and tensor.dtype is not torch.float32 for tensor in read):
            return None
        if layout != _ROWS_FIRST or not self._over_channels(mask, weight.shape[1]):
            return None
        pool, rectified, last, inputs = (1, 1), False, node, [cast(fx.Node, value), cast(fx.Node, mask)]
        like = node
        while (user := _only_user(last)) is not None and len(inputs) == 2:
            if user.target is torch.relu:
                rectified = True
            elif pool == (1, 1) and (window := _window(user)) is not None:
                pool = window
            elif user.target is masked and user.args[2] == _ROWS_FIRST and user.args[0] is last and (
                self._over_channels(user.args[1], weight.shape[0])
            ):
                inputs.append(cast(fx.Node, user.args[1]))
            else:
                break
            last = user
            like = user if "val" in user.meta else like
        kernel = cast(Pair, tuple(weight.shape[2:]))
        stride, padding, dilation = (_pair(named.get(name, default)) for name, default in _DEFAULTS.items())
        geometry = Geometry(kernel, stride, padding, dilation, pool)
        return _Found(inputs, MaskedConvolution(weight, bias, geometry, rectified), last, like)

    def _replace(self, found: _Found) -> None:
        self.found += 1
        name = f"channel_sums_{self.found}"
        self.root.add_module(name, found.module)
        with self.graph.inserting_after(found.last):
            made = self.graph.call_module(name, tuple(found.inputs))
        made.meta = {"val": found.like.meta["val"]}
        found.last.replace_all_uses_with(made)
        flat = _only_user(made)
        product = None if flat is None or not _flattens(flat, made) else _only_user(flat)
        if product is None or product.target is not linear or product.args[0] is not flat:
            return
        weight, bias = (self._constant(a) for a in (*product.args[1:], None)[:2])
        if weight is None or (bias is None and product.args[2:] not in ((), (None,))):
            return
        products = [node for node in self.graph.nodes if node.target is linear]
        dtype = torch.float32 if product is products[-1] else self._dtype
        module = ChannelsLastLinear(weight, bias, found.module.outputs, dtype)
        self.root.add_module(f"{name}_linear", module)
        with self.graph.inserting_after(product):
            multiplied = self.graph.call_module(f"{name}_linear", (made,))
        multiplied.meta = product.meta
        product.replace_all_uses_with(multiplied)

    def _over_channels(self, mask: Any, channels: int) -> bool:
        return self._masks.get(mask) == (channels, 1, 1)

    def _constant(self, node: Any) -> Tensor | None:
        known = isinstance(node, fx.Node) and node.op == "get_attr"
        return cast(Tensor, getattr(self.root, str(node.target))) if known else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _window(node: fx.Node) -> Pair | None:
    """Height and width of a max-pool whose windows neither overlap nor leave gaps nor reach over the edge."""
    if node.target is not _aten.max_pool2d.default:
        return None
    named = dict(zip(("kernel", "stride", "padding", "dilation", "ceil"), node.args[1:], strict=False))
    kernel = _pair(named["kernel"])
    plain = _pair(named.get("padding", 0)) == (0, 0) and _pair(named.get("dilation", 1)) == (1, 1)
    if not plain or named.get("ceil", False) or _pair(named.get("stride") or kernel) != kernel:
        return None
    return kernel if prod(kernel) in _POOLED else None


def _flattens(node: fx.Node, source: fx.Node) -> bool:
    """Whether a node makes (n, features) of (n, channels, height, width)."""
    made, shape = node.meta.get("val"), source.meta["val"].shape
    return node.target in _FLAT and isinstance(made, Tensor) and made.dim() == 2 and made.shape[1] == prod(shape[1:])


def _pair(value: Any) -> Pair:
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]
