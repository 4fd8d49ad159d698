"""Suffixes that are chains of linear layers: site, linear, activation, site, linear, …

Few rows run as samples × rows, multiplied by masks. For many rows it pays to make a smaller network of each sample:
half of a layer's inputs gone is half of its multiplications gone. Each sample's weights are cut down to the units it
keeps, and all samples run as one batched product on feature-major values (features, rows). The first layer reads the
same values for every sample, so there the weights of all samples can also stand one below the other, their inputs
masked but not cut away: more multiplications, in a single product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from service.sampling.copies import to_device
from service.sampling.marks import drop, mark_of, site_input
from service.sampling.products import linear, packed

_aten = torch.ops.aten
_UNARY = {
    _aten.relu.default: _aten.relu_.default,
    _aten.gelu.default: None, _aten.silu.default: None, _aten.tanh.default: None, _aten.sigmoid.default: None,
    _aten.leaky_relu.default: None, _aten.elu.default: None, _aten.softplus.default: None,
    _aten.hardtanh.default: None, _aten.mish.default: None,
}  # element by element, and the in-place twin where it saves something
_RELU: dict[tuple[Any, ...], bool] = {(): False, (_aten.relu.default,): True}
_BINARY = {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor}
_FINITE = 2.0**126  # and less are numbers of float32 and bfloat16, after any rounding
_DIP = 1.0  # activations are largest at an end of what they are given, but for less than this
_DEVICE_STEP = 16  # units: products of such widths are quick, and draws have few widths between them
_Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """A site, the linear layer that reads it and what follows element by element.

    weight: (out, in); bias: (out, 1); keeps: a unit's chance to stay; steps: on (…, out, rows). relu: whether they are
    a ReLU, or none at all; None where they are anything else.
    """

    site: str
    keeps: float
    weight: Tensor
    bias: Tensor
    steps: tuple[_Step, ...]
    relu: bool | None


class DenseChain:
    """Stages in the order of execution. The first one's site acts on what the prefix gives, (rows, features)."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = list(stages)
        widths = [stage.weight.shape[1] for stage in stages] + [stages[-1].weight.shape[0]]
        self._hidden = [self._ready(stage.weight, stage.bias.squeeze(1)) for stage in stages[:-1]]
        self.largest = _largest_safe(stages)
        self.bytes_per_sample = 4 * sum(a * b for a, b in itertools.pairwise(widths))  # when nothing drops

    def thinned(self, dropped: Sequence[np.ndarray]) -> list[Tensor]:
        """What `run_thinned` reads of some samples. dropped: a stage, (samples, in), True where a unit is dropped.

        Returns the places of the units that the first stage keeps, (samples·kept,), then a weight (samples, out, in)
        and a bias (samples, out, 1) a stage. All samples are padded to the widest; what is padding weighs 0.
        """
        kept = self._kept(dropped)
        return [kept[0][0].flatten(), *self._cut(kept, 0)]

    def run_thinned(self, value: Tensor, thinned: Sequence[Tensor]) -> Tensor:
        """value: (rows, features), what the first site acts on; to (samples, rows, outputs)."""
        places, *layers = thinned
        value = self._guarded(value)
        hidden = value.T.contiguous().index_select(0, places).view(layers[0].shape[0], -1, value.shape[0])
        return self._run_cut(hidden, layers, 0)

    def stacked(self, dropped: Sequence[np.ndarray]) -> list[Tensor]:
        """What `run_stacked` reads of some samples: the first stage's weights (samples·out, in) and biases, then as
        `thinned`."""
        kept = self._kept(dropped)
        first, samples = self.stages[0], len(dropped[0])
        mask = to_device(torch.from_numpy(~dropped[0]), self.device).to(first.weight.dtype).div_(first.keeps)
        if len(kept) > 1:
            places = kept[1][0].flatten()
            weight, bias = first.weight.index_select(0, places), first.bias[places, 0]
        else:
            weight, bias = first.weight.repeat(samples, 1), first.bias[:, 0].repeat(samples)
        weight.view(samples, -1, mask.shape[1]).mul_(mask.unsqueeze(1))
        return [*self._ready(weight, bias), *self._cut(kept, 1)]

    def run_stacked(self, value: Tensor, samples: int, stacked: Sequence[Tensor]) -> Tensor:
        """As `run_thinned`."""
        weight, bias, *layers = stacked
        hidden = linear(self._guarded(value), weight, bias).view(value.shape[0], samples, -1).permute(1, 2, 0)
        return self._run_cut(_after(self.stages[0], hidden), layers, 1)

    def run_masked(self, value: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """As `run_thinned`. masks: a stage, (samples, rows or 1, in)."""
        hidden, last = self._guarded(value) * masks[0], self.stages[-1]
        for stage, layer, mask in zip(self.stages, self._hidden, masks[1:], strict=False):
            hidden = _after(stage, linear(hidden, *layer)).mul_(mask)
        samples, rows, width = hidden.shape
        hidden = _after(last, torch.addmm(last.bias, last.weight, hidden.view(samples * rows, width).T))
        return hidden.view(-1, samples, rows).permute(1, 2, 0)

    def _guarded(self, value: Tensor) -> Tensor:
        """The value, (rows, features), with NaN in rows of which a hidden unit could overflow. Which units are computed
        is a matter of kernel and mask; whether a row fails must not be."""
        # no number is larger than the root of the sum of all squares, which torch finds thirty times as fast
        if value.device.type == "cpu" and float(torch.linalg.vector_norm(value)) <= self.largest:
            return value
        return torch.where(value.abs().amax(1, keepdim=True) <= self.largest, value, torch.nan)

    def _ready(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """As `linear` reads them."""
        return packed(weight), bias

    @property
    def held(self) -> list[Tensor]:
        """Its weights and biases."""
        read = [(stage.weight, stage.bias) for stage in self.stages] + self._hidden
        return [tensor for layer in read for tensor in layer]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.stages[0].weight.device

    def _kept(self, dropped: Sequence[np.ndarray]) -> list[tuple[Tensor, Tensor]]:
        step = _DEVICE_STEP if self.device.type == "cuda" else 1
        kept = [_kept(torch.from_numpy(~bits), step) for bits in dropped]  # on the CPU: widths decide on shapes
        return [(to_device(places, self.device), to_device(present, self.device)) for places, present in kept]

    def _cut(self, kept: Sequence[tuple[Tensor, Tensor]], first: int) -> list[Tensor]:
        """Weights and biases of the stages from `first` on."""
        outputs = [places for places, _ in kept[1:]]
        made: list[Tensor] = []
        for stage, (places, present), after in list(zip(self.stages, kept, [*outputs, None], strict=True))[first:]:
            made += _thinned(stage, places, present, after)
        return made

    def _run_cut(self, hidden: Tensor, layers: Sequence[Tensor], first: int) -> Tensor:
        """Runs the stages from `first` on: (samples, in, rows) to (samples, rows, outputs)."""
        for stage, weight, bias in zip(self.stages[first:], layers[::2], layers[1::2], strict=True):
            hidden = _after(stage, torch.baddbmm(bias, weight, hidden))
        return hidden.transpose(1, 2)


def _largest_safe(stages: Sequence[Stage]) -> float:
    """A power of 2: so large may the numbers be that the first site acts on without any number overflowing before the
    last layer, whatever the masks are; 0 where there is none."""
    bounds = [(float(stage.weight.abs().sum(1).max()), float(stage.bias.abs().max())) for stage in stages[:-1]]

    def largest_hidden(magnitude: float) -> float:
        """A bound on every number before the last layer, for inputs up to that magnitude."""
        largest = magnitude = magnitude / stages[0].keeps
        for stage, after, (slope, shift) in zip(stages, stages[1:], bounds, strict=False):
            weighted = slope * magnitude + shift
            ends = _after(stage, torch.tensor([-weighted, weighted], dtype=torch.float64).view(1, 2, 1))
            magnitude = (float(ends.abs().max()) + _DIP) / after.keeps
            largest = max(largest, weighted, magnitude)
        return largest

    exponents = range(math.frexp(_FINITE)[1], -149, -1)
    return next((2.0**e for e in exponents if largest_hidden(2.0**e) <= _FINITE), 0.0)


def _after(stage: Stage, hidden: Tensor) -> Tensor:
    for step in stage.steps:
        hidden = step(hidden)
    return hidden


def _kept(keep: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Places of the units that stay, ascending and padded to the widest sample, and which of them are no padding:
    (samples, units) to two tensors (samples, widest). step: the width is a multiple of it, or all units."""
    counts = keep.sum(1, keepdim=True)
    widest = min(-(-max(int(counts.max()), 1) // step) * step, keep.shape[1])
    places = torch.sort(keep.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :widest].contiguous()
    return places, torch.arange(widest, device=keep.device) < counts


def _thinned(stage: Stage, places: Tensor, present: Tensor, outputs: Tensor | None) -> list[Tensor]:
    """A stage's weight and bias, cut down to the inputs at `places` and the outputs at `outputs` (None: all)."""
    samples, width = places.shape
    scale = present.to(stage.weight.dtype) / stage.keeps
    if outputs is None:
        rows = stage.weight.T.contiguous().index_select(0, places.flatten()).view(samples, width, -1)
        return [rows.mul_(scale.unsqueeze(2)).transpose(1, 2), stage.bias.unsqueeze(0)]
    wide = stage.weight.index_select(0, outputs.flatten()).view(samples, outputs.shape[1], -1)
    weight = wide.gather(2, places.unsqueeze(1).expand(-1, outputs.shape[1], -1))
    return [weight.mul_(scale.unsqueeze(1)), stage.bias[outputs]]


def dense_chain(root: nn.Module, output: fx.Node, active: Mapping[fx.Node, str]) -> DenseChain | None:
    """The chain from the active sites to `output`, or None where the suffix is anything else: what runs chains reads
    float32 only. root: holds the parameters."""
    stages: list[Stage] = []
    node = output
    while len(stages) < len(active):
        steps: list[_Step] = []
        targets: list[Any] = []
        while node.target != _aten.linear.default:
            if node.target is not drop or node in active:
                step = _elementwise(root, node, per_feature=not stages)
                if step is None:
                    return None
                steps.insert(0, step)
                targets.append(node.target)
            node = cast(fx.Node, node.args[0])
        site, *parameters = node.args
        weight, bias = (_constant(root, p) for p in (*parameters, None)[:2])
        mark = mark_of(site) if isinstance(site, fx.Node) else None
        if not isinstance(site, fx.Node) or site not in active or mark is None or mark.kind != "dropout":
            return None
        if weight is None or (bias is None and parameters[1:] not in ([], [None])) or site.meta["val"].dim() != 2:
            return None
        if any(read is not None and read.dtype is not torch.float32 for read in (site.meta["val"], weight, bias)):
            return None
        column = (weight.new_zeros(len(weight)) if bias is None else bias).unsqueeze(1)
        stages.insert(0, Stage(active[site], 1 - mark.p, weight, column, tuple(steps), _RELU.get(tuple(targets))))
        node = site_input(site)
    return DenseChain(stages) if stages else None


def _elementwise(root: nn.Module, node: fx.Node, per_feature: bool) -> _Step | None:
    """What a node does to (samples, features, rows), or None where it is not element by element. per_feature: whether
    a constant may differ between features, which is so where none is cut away."""
    target = cast(Any, node.target)
    rest = node.args[1:]
    if target in _UNARY and not any(isinstance(a, fx.Node) for a in (*rest, *node.kwargs.values())):
        return partial(_unary, _UNARY[target] or target, rest, dict(node.kwargs))
    if target in _BINARY and not node.kwargs and len(rest) == 1 and isinstance(node.args[0], fx.Node):
        other = _constant(root, rest[0]) if isinstance(rest[0], fx.Node) else rest[0]
        if isinstance(other, int | float) or (isinstance(other, Tensor) and other.dim() == 0):
            return partial(_binary, target, other)
        same_shape = node.meta["val"].shape == node.args[0].meta["val"].shape
        if per_feature and isinstance(other, Tensor) and other.dim() == 1 and same_shape:
            return partial(_binary, target, other.unsqueeze(1))
    return None


def _unary(target: Any, rest: tuple[Any, ...], named: dict[str, Any], value: Tensor) -> Tensor:
    return cast(Tensor, target(value, *rest, **named))


def _binary(target: Any, other: Tensor | float, value: Tensor) -> Tensor:
    return cast(Tensor, target(value, other))


def _constant(root: nn.Module, node: Any) -> Tensor | None:
    """The tensor of a parameter, buffer or constant; None where the node is anything else."""
    known = isinstance(node, fx.Node) and node.op == "get_attr"
    return cast(Tensor, getattr(root, str(node.target))) if known else None
