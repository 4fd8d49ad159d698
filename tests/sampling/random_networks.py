"""Random networks out of the layers that the engine says it can sample, for tests of laws that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]  # of one row
Draw = Callable[[st.SearchStrategy], object]
MOST_STEPS = 7
NORMED = 6  # features that are normalised together, at least: two alone come out as their difference's sign


@dataclass
class Network:
    """net: built with seeded weights. rows: its inputs, seven rows each. steps: what it is made of, for people."""

    net: nn.Module
    rows: tuple[Tensor, ...]
    task: str
    steps: list[str]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in self.rows)
        return f"{self.task} of {shapes}: {' > '.join(self.steps)}\n{self.net}"


class FunctionalDropout(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)


class DropPath(nn.Module):
    """Stochastic depth around a layer."""

    def __init__(self, inner: nn.Module, p: float) -> None:
        super().__init__()
        self.inner, self.keep = inner, 1 - p

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.training:
            y = y * y.new_empty((y.shape[0],) + (1,) * (y.ndim - 1)).bernoulli_(self.keep).div_(self.keep)
        return x + y


class LockedDropout(nn.Module):
    """One mask for all time steps of a row."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.keep = 1 - p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x.new_empty(x.size(0), 1, x.size(2)).bernoulli_(self.keep).div_(self.keep).expand_as(x) * x


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Beside(nn.Module):
    """A value and what a layer makes of it, side by side."""

    def __init__(self, inner: nn.Module, dim: int) -> None:
        super().__init__()
        self.inner, self.dim = inner, dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], self.dim)


class Attend(nn.Module):
    """Attention of a sequence to itself, by the module."""

    def __init__(self, width: int, heads: int, p: float, batch_first: bool, weights: bool) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, dropout=p, batch_first=batch_first)
        self.batch_first, self.weights = batch_first, weights

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.attend(x, x, x, need_weights=self.weights)[0]
        return y if self.batch_first else y.transpose(0, 1)


class FunctionalAttend(nn.Module):
    """The same by the functional, heads of its own making."""

    def __init__(self, width: int, heads: int, p: float, causal: bool) -> None:
        super().__init__()
        self.mix, self.heads, self.p, self.causal = nn.Linear(width, 3 * width), heads, p, causal

    def forward(self, x: Tensor) -> Tensor:
        rows, time, width = x.shape
        query, key, value = (
            part.view(rows, time, self.heads, width // self.heads).transpose(1, 2) for part in self.mix(x).chunk(3, -1)
        )
        p = self.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=p, is_causal=self.causal)
        return seen.transpose(1, 2).reshape(rows, time, width)


class Recurrent(nn.Module):
    def __init__(self, memory: nn.RNNBase) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        return self.memory(x)[0] if self.memory.batch_first else self.memory(x.transpose(0, 1))[0].transpose(0, 1)


class LastState(nn.Module):
    """The state of a stack of recurrent layers at the end, of its top layer."""

    def __init__(self, memory: nn.RNNBase) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        state = self.memory(x)[1]
        return (state[0] if isinstance(state, tuple) else state)[-1]


class TimeInRows(nn.Module):
    """A layer for vectors on all time steps, folded into the rows from either side."""

    def __init__(self, inner: nn.Module, rows_outer: bool) -> None:
        super().__init__()
        self.inner, self.rows_outer = inner, rows_outer

    def forward(self, x: Tensor) -> Tensor:
        rows, time, width = x.shape
        if self.rows_outer:
            return self.inner(x.reshape(-1, width)).reshape(rows, time, -1)
        return self.inner(x.transpose(0, 1).reshape(-1, width)).reshape(time, rows, -1).transpose(0, 1)


class Mean(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dim)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Branches(nn.Module):
    """One branch an input; what they give goes side by side into a trunk."""

    def __init__(self, branches: list[nn.Module], trunk: nn.Module, named: bool) -> None:
        super().__init__()
        self.branches, self.trunk, self.named = nn.ModuleList(branches), trunk, named

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        hidden = torch.cat([branch(x) for branch, x in zip(self.branches, inputs, strict=True)], 1)
        output = self.trunk(hidden)
        return {"hidden": hidden, "logits": output} if self.named else output


class Builder:
    """Draws layers and follows the shape of a row."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self._draw, self.shape = draw, shape
        self.steps: list[str] = []
        self.layers: list[nn.Module] = []

    def one_of(self, *choices: object) -> object:
        return self._draw(st.sampled_from(choices))

    def rate(self) -> float:
        return self.one_of(0.1, 0.5, 0.3, 0.05, 0.8)

    def grow(self, steps: int) -> None:
        for _ in range(steps):
            self._step(self.one_of(*self._possible()))

    def flatten(self) -> None:
        if len(self.shape) > 1:
            self.add("flatten", nn.Flatten(), (prod(self.shape),))

    def drop(self) -> None:
        self.add("dropout", nn.Dropout(self.rate()), self.shape)

    def add(self, name: str, layer: nn.Module, shape: Shape) -> None:
        self.steps.append(name)
        self.layers.append(layer)
        self.shape = shape

    def built(self) -> nn.Module:
        return nn.Sequential(*self.layers)

    def _possible(self) -> list[str]:
        always = ["linear", "activation", "layer norm", "dropout", "functional dropout", "alpha dropout", "drop path",
                  "residual", "dropout in place"]
        if len(self.shape) == 1:
            more = ["beside", "batch norm"] + ["as sequence"] * (self.shape[0] % 4 == 0)
        elif len(self.shape) == 2:
            more = ["attention", "functional attention", "encoder layer", "recurrent", "last state", "locked dropout",
                    "mean over time", "flatten", "time in rows", "conv", "batch norm", "channel dropout", "beside",
                    "transpose", "pool"]
        else:
            more = ["conv", "batch norm", "channel dropout", "feature alpha dropout", "flatten", "pool", "beside"]
        return always + more

    def _inner(self) -> nn.Module:
        """A layer that keeps the shape, with dropout or not."""
        inside = Builder(self._draw, self.shape)
        inside._step(self.one_of("linear", "layer norm", "conv"))
        if inside.shape != self.shape:
            inside = Builder(self._draw, self.shape)
            inside._step("activation")
        if self.one_of(True, False):
            inside._step(self.one_of("dropout", "functional dropout", "activation"))
        self.steps.append(f"({', '.join(inside.steps)})")
        return inside.built()

    def _step(self, name: str) -> None:
        getattr(self, "_" + name.replace(" ", "_"))()

    def _linear(self) -> None:
        width = self.one_of(self.shape[-1], 8, 12)
        self.add("linear", nn.Linear(self.shape[-1], width), (*self.shape[:-1], width))

    def _activation(self) -> None:
        kind = self.one_of(nn.ReLU, nn.GELU, nn.Tanh, nn.SELU, nn.Sigmoid, nn.LeakyReLU)
        self.add(kind.__name__, kind(), self.shape)

    def _layer_norm(self) -> None:
        if self.shape[-1] < NORMED:
            self.add("linear", nn.Linear(self.shape[-1], NORMED), (*self.shape[:-1], NORMED))
        self.add("layer norm", nn.LayerNorm(self.shape[-1]), self.shape)

    def _batch_norm(self) -> None:
        norm = (nn.BatchNorm1d if len(self.shape) < 3 else nn.BatchNorm2d)(self.shape[0])
        nn.init.normal_(norm.running_mean, std=0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        self.add("batch norm", norm, self.shape)

    def _dropout(self) -> None:
        self.drop()

    def _dropout_in_place(self) -> None:
        self.add("dropout in place", nn.Dropout(self.rate(), inplace=True), self.shape)

    def _functional_dropout(self) -> None:
        self.add("functional dropout", FunctionalDropout(self.rate()), self.shape)

    def _alpha_dropout(self) -> None:
        self.add("alpha dropout", nn.AlphaDropout(self.rate()), self.shape)

    def _feature_alpha_dropout(self) -> None:
        self.add("feature alpha dropout", nn.FeatureAlphaDropout(self.rate()), self.shape)

    def _channel_dropout(self) -> None:
        kind = nn.Dropout1d if len(self.shape) == 2 else nn.Dropout2d
        self.add(kind.__name__, kind(self.rate()), self.shape)

    def _locked_dropout(self) -> None:
        self.add("locked dropout", LockedDropout(self.rate()), self.shape)

    def _drop_path(self) -> None:
        self.add("drop path", DropPath(self._inner(), self.rate()), self.shape)

    def _residual(self) -> None:
        self.add("residual", Residual(self._inner()), self.shape)

    def _beside(self) -> None:
        if prod(self.shape) < 200:
            self.add("beside", Beside(self._inner(), 1), (2 * self.shape[0], *self.shape[1:]))

    def _heads(self) -> int | None:
        possible = [n for n in (1, 2, 4) if self.shape[-1] % n == 0]
        return self.one_of(*possible)

    def _attention(self) -> None:
        self.add("attention", Attend(self.shape[-1], self._heads(), self.rate(), self.one_of(True, False),
                                     self.one_of(False, True)), self.shape)

    def _functional_attention(self) -> None:
        causal = self.one_of(False, True)
        self.add("functional attention", FunctionalAttend(self.shape[-1], self._heads(), self.rate(), causal),
                 self.shape)

    def _encoder_layer(self) -> None:
        if self.shape[-1] < NORMED:
            self.add("linear", nn.Linear(self.shape[-1], NORMED), (*self.shape[:-1], NORMED))
        first = self.one_of(False, True)
        layer = nn.TransformerEncoderLayer(self.shape[-1], self._heads(), 12, self.rate(), batch_first=True,
                                           norm_first=first, activation=self.one_of("relu", "gelu"))
        self.add(f"encoder layer (norm_first={first})", layer, self.shape)

    def _memory(self) -> nn.RNNBase:
        kind, both = self.one_of(nn.LSTM, nn.GRU, nn.RNN), self.one_of(False, True)
        layers = self.one_of(2, 1, 3)
        return kind(self.shape[-1], 6, layers, dropout=self.rate() if layers > 1 else 0.0, bidirectional=both,
                    batch_first=True)

    def _recurrent(self) -> None:
        memory = self._memory()
        memory.batch_first = self.one_of(True, False)
        self.add(type(memory).__name__, Recurrent(memory), (self.shape[0], 6 * (1 + memory.bidirectional)))

    def _last_state(self) -> None:
        memory = self._memory()
        self.add(f"last state of {type(memory).__name__}", LastState(memory), (6,))

    def _mean_over_time(self) -> None:
        self.add("mean over time", Mean(1), self.shape[1:])

    def _flatten(self) -> None:
        self.flatten()

    def _transpose(self) -> None:
        self.add("transpose", Transposed(), self.shape[::-1])

    def _as_sequence(self) -> None:
        shape = (4, self.shape[0] // 4)
        self.add("as sequence", nn.Unflatten(1, shape), shape)

    def _time_in_rows(self) -> None:
        inside = Builder(self._draw, self.shape[1:])
        inside.grow(self.one_of(1, 2))
        inside.flatten()
        self.steps.append(f"({', '.join(inside.steps)})")
        self.add("time in rows", TimeInRows(inside.built(), self.one_of(True, False)), (self.shape[0], *inside.shape))

    def _conv(self) -> None:
        channels = self.one_of(self.shape[0], 4)
        if len(self.shape) == 1:
            self._linear()
        elif len(self.shape) == 2:
            self.add("conv1d", nn.Conv1d(self.shape[0], channels, 3, padding=1), (channels, self.shape[1]))
        else:
            self.add("conv2d", nn.Conv2d(self.shape[0], channels, 3, padding=1), (channels, *self.shape[1:]))

    def _pool(self) -> None:
        if min(self.shape[1:]) < 2:
            return
        kinds = (nn.MaxPool1d, nn.AvgPool1d) if len(self.shape) == 2 else (nn.MaxPool2d, nn.AvgPool2d)
        whole = nn.AdaptiveAvgPool1d if len(self.shape) == 2 else nn.AdaptiveAvgPool2d
        kind = self.one_of(*kinds, whole)
        if kind is whole:
            self.add("adaptive pool", kind(1), (self.shape[0], *[1] * (len(self.shape) - 1)))
        else:
            self.add(kind.__name__, kind(2), (self.shape[0], *[n // 2 for n in self.shape[1:]]))


_SHAPES: tuple[Shape, ...] = ((8,), (5, 8), (2, 6, 6), (3, 8))


@st.composite
def networks(draw: Draw) -> Network:
    """A network with at least one site, and seven rows for it."""
    seed = draw(st.integers(0, 2**16))
    task = draw(st.sampled_from(("classification", "generic", "regression", "multilabel")))
    several = draw(st.sampled_from((False, False, True)))
    steps: list[str] = []
    rows: list[Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if several:
            left = Builder(draw, draw(st.sampled_from(_SHAPES)))
            rows.append(torch.randn(7, *left.shape, generator=generator))
            left.grow(draw(st.integers(0, 2)))
            left.flatten()
            right = Builder(draw, (4, 6))
            right.layers.append(nn.Embedding(9, 6))
            rows.append(torch.randint(9, (7, 4), generator=generator))
            right.grow(draw(st.integers(0, 3)))
            right.flatten()
            trunk = Builder(draw, (left.shape[0] + right.shape[0],))
            steps += [f"[{' > '.join(left.steps)}] beside [{' > '.join(right.steps)}]"]
        else:
            trunk = Builder(draw, draw(st.sampled_from(_SHAPES)))
            rows.append(torch.randn(7, *trunk.shape, generator=generator))
        trunk.grow(draw(st.integers(1, MOST_STEPS)))
        if task != "generic":
            trunk.flatten()
            width = draw(st.sampled_from((3, 2, 5)))
            trunk.add("head", nn.Linear(trunk.shape[0], width), (width,))
        elif draw(st.booleans()):
            trunk._step("linear")
        net = trunk.built()
        if several:
            net = Branches([left.built(), right.built()], net, task != "generic" and draw(st.booleans()))
        if not has_site(net):
            trunk.layers.insert(0, nn.Dropout(0.3))
            net = nn.Sequential(nn.Dropout(0.3), net) if not several else Branches(
                [left.built(), right.built()], trunk.built(), False)
            steps.append("dropout")
    return Network(net, tuple(rows), task, steps + trunk.steps)


def has_site(net: nn.Module) -> bool:
    """Whether any part of it may drop anything."""
    kinds = (nn.modules.dropout._DropoutNd, FunctionalDropout, DropPath, LockedDropout, FunctionalAttend,
             nn.MultiheadAttention)
    return any(isinstance(m, kinds) or (isinstance(m, nn.RNNBase) and m.dropout) for m in net.modules())
