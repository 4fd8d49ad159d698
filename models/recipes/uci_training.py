"""Trains many small dropout networks at once: one hidden layer of ReLU, dropout before either layer, Adam.

The networks share a leading axis and nothing else. Each has its own rows, rate, decay, initial weights, order of rows
and masks, all from its own seed, so whom it is trained beside changes nothing. What makes it fast, for 128 rows of 8
inputs and 50 units:

- Dropped units are drawn by the gaps between them (geometric), so a mask costs by the units that it drops, of which
  there are few, and there is no mask to multiply by: those units are set to zero.
- The gradient is written out. Behind one output all that it needs of the hidden layer is which units are on,
  K = (inputs × error)ᵀ · on, and both layers' gradients are sums of K's numbers; see `_Networks._step`.
- numpy multiplies a stack of such matrices in .7 to .1 of torch's time, and one by one, so that a network's numbers do
  not depend on its neighbours'; torch is faster at everything else. Both see the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.recipes.uci_data import Doubles, Indices

BATCH_ROWS = 128
LEARNING_RATE = 1e-3
BETAS = (0.9, 0.999)
EPSILON = 1e-8
LENGTHSCALE = 1e-2
_ROWS_AT_ONCE = 4096  # of a network, that are shuffled and dropped from together

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """One network to train: on standardised inputs (rows, features) and targets (rows,). seed: of its randomness."""

    inputs: Doubles
    targets: Doubles
    rate: float
    tau: float
    seed: tuple[int, ...]

    @property
    def decay(self) -> float:
        """What the sum of squared weights (biases are free) is multiplied by and added to a batch's mean squared error.

        As in the authors' code: lengthscale² (1 - rate) / (2 rows tau), the lengthscale .01 that of the prior of
        standardised inputs, while tau is that of the target in its own unit. It adds twice as much times a weight to
        the gradient, which is what torch's optimisers call `weight_decay`.
        """
        return LENGTHSCALE**2 * (1 - self.rate) / (2 * len(self.targets) * self.tau)


class Weights(NamedTuple):
    """Of a trained network: hidden (units, features), hidden_bias (units,), output (units,), output_bias ()."""

    hidden: Floats
    hidden_bias: Floats
    output: Floats
    output_bias: Floats


class Streams:
    """The randomness of one network. Each stream is one sequence, however many numbers are taken of it at a time."""

    def __init__(self, seed: tuple[int, ...], rate: float) -> None:
        first, order, *dropped = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(4))
        self._first, self._order = first, order
        self.inputs, self.hidden = (Dropped(generator, rate) for generator in dropped)

    def initial(self, features: int, hidden: int) -> tuple[Doubles, Doubles]:
        """Glorot's uniform weights: (features, hidden), (hidden,)."""
        limits = math.sqrt(6 / (features + hidden)), math.sqrt(6 / (hidden + 1))
        return self._first.uniform(-limits[0], limits[0], (features, hidden)), self._first.uniform(
            -limits[1], limits[1], hidden
        )

    def order(self, epochs: int, rows: int) -> Indices:
        """(epochs, rows): which row comes when in each of the next epochs."""
        return self._order.permuted(np.tile(np.arange(rows), (epochs, 1)), axis=1)


class Dropped:
    """Which of an endless row of units are dropped, each by itself with the same chance."""

    def __init__(self, generator: np.random.Generator, rate: float) -> None:
        self._generator, self._rate = generator, rate
        self._mean_gap = -1 / math.log1p(-rate)
        self._waiting = np.empty(0, dtype=np.int64)  # places that were drawn and not yet reached
        self._last = -1

    def take(self, units: int) -> Indices:
        """The places of those dropped among the next so many, ascending."""
        while self._last < units:
            # floor of an exponential variable is the geometric number of units that stay before the next dropped one
            stay = self._generator.standard_exponential(int(1.02 * self._rate * units) + 32) * self._mean_gap
            more = self._last + np.cumsum(stay.astype(np.int64) + 1)
            self._waiting = np.concatenate([self._waiting, more])
            self._last = int(more[-1])
        count = int(np.searchsorted(self._waiting, units))
        taken = self._waiting[:count]
        self._waiting = self._waiting[count:] - units
        self._last -= units
        return taken


def train(tasks: Sequence[Task], hidden: int, epochs: int) -> list[Weights]:
    """Trains all of them together, on one thread. FloatingPointError where a network's weights are not finite."""
    if not tasks:
        return []
    order = sorted(range(len(tasks)), key=lambda i: -len(tasks[i].targets))
    with torch.inference_mode(), one_thread(), _without_denormals():
        networks = _Networks([tasks[i] for i in order], hidden)
        done = 0
        while done < epochs:
            count = min(epochs - done, max(1, _ROWS_AT_ONCE // networks.most_rows))
            networks.train(done, count)
            done += count
    trained = dict(zip(order, networks.weights(), strict=True))
    for i, weights in trained.items():
        if not all(np.isfinite(part).all() for part in weights):
            raise FloatingPointError(f"training went astray at rate {tasks[i].rate:g} and tau {tasks[i].tau:g}")
    return [trained[i] for i in range(len(tasks))]


class _Buffers(NamedTuple):
    """What one step works on, for so many networks and rows, as numpy's and as torch's."""

    hidden: Floats
    hidden_t: Tensor
    out: Floats
    out_t: Tensor
    weighted: Floats
    weighted_t: Tensor


class _State(NamedTuple):
    """Parameters, gradients and moments of so many networks, as numpy's and as torch's."""

    first: Floats  # (networks, features + 1, hidden), the bias last
    output: Floats  # (networks, hidden, 1), times what kept units are multiplied by
    products: Floats  # K: (networks, features + 1, hidden)
    all_t: Tensor  # (networks, parameters), as are the gradient and what follows it
    first_t: Tensor
    second_t: Tensor
    bias_t: Tensor
    output_t: Tensor
    products_t: Tensor
    scratch_t: Tensor
    scale_t: Tensor
    gradient_t: Tensor
    first_gradient_t: Tensor
    second_gradient_t: Tensor
    bias_gradient_t: Tensor
    decay_t: Tensor
    mean_t: Tensor
    square_t: Tensor
    step_t: Tensor


class _Networks:
    """Networks under way, those with most rows first: in the steps that only those still have, they are a prefix."""

    def __init__(self, tasks: Sequence[Task], hidden: int) -> None:
        self._tasks, self._hidden = tasks, hidden
        self._streams = [Streams(task.seed, task.rate) for task in tasks]
        self._rows = np.array([len(task.targets) for task in tasks])
        self._features = tasks[0].inputs.shape[1]
        self.most_rows = int(self._rows[0])
        self._steps = -(-self.most_rows // BATCH_ROWS)
        count, features, wide = len(tasks), self._features, self._features + 1
        # A row holds the inputs, a one for the bias and the target; the last row of each network is only padding.
        self._table = np.zeros((count, self.most_rows + 1, features + 2), dtype=np.float32)
        decay = np.zeros((count, wide * hidden + hidden + 1), dtype=np.float32)
        parameters = np.zeros_like(decay)
        for network, task in enumerate(tasks):
            rows = self._table[network, : len(task.targets)]
            rows[:, :features] = task.inputs / (1 - task.rate)
            rows[:, features] = 1
            rows[:, features + 1] = task.targets
            first, second = self._streams[network].initial(features, hidden)
            parameters[network, : features * hidden] = first.reshape(-1)
            parameters[network, wide * hidden : -1] = second
            decay[network, : features * hidden] = decay[network, wide * hidden : -1] = 2 * task.decay
        scale = np.array([[1 / (1 - task.rate)] for task in tasks], dtype=np.float32)
        self._whole = self._state(parameters, decay, scale)
        self._states = {count: self._whole}
        self._hidden_units = np.zeros((count, BATCH_ROWS, hidden), dtype=np.float32)
        self._flat_units = self._hidden_units.reshape(-1)
        self._out = np.zeros((count, BATCH_ROWS, 1), dtype=np.float32)
        self._weighted = np.zeros((count, BATCH_ROWS, wide), dtype=np.float32)
        self._buffers: dict[tuple[int, int], _Buffers] = {}
        # rows of each network in each step, and what the errors of its rows weigh: two over the rows, or nothing
        self._in_step = np.clip(self._rows[:, None] - BATCH_ROWS * np.arange(self._steps), 0, BATCH_ROWS)
        inside = np.arange(BATCH_ROWS) < self._in_step[:, :, None]
        share = np.where(inside, 2 / np.maximum(self._in_step, 1)[:, :, None], 0).astype(np.float32)
        self._share = torch.from_numpy(share[..., None])

    def weights(self) -> list[Weights]:
        features, units = self._features, self._hidden
        parameters = self._whole.all_t.numpy().copy()
        wide = (features + 1) * units
        return [
            Weights(
                np.ascontiguousarray(row[: features * units].reshape(features, units).T),
                row[features * units : wide], row[wide:-1], row[-1],
            )
            for row in parameters
        ]  # fmt: skip

    def train(self, done: int, epochs: int) -> None:
        """The next few epochs. done: those that were."""
        table = self._shuffled(epochs)
        table_t = torch.from_numpy(table)
        dropped = self._dropped_units(epochs)
        rates, epsilons = self._step_sizes(done, epochs)
        step = 0
        for epoch in range(epochs):
            for at in range(self._steps):
                active = int(np.count_nonzero(self._in_step[:, at]))
                rows = int(self._in_step[0, at])
                start = (epoch * self._steps + at) * BATCH_ROWS
                self._step(
                    self._buffers_of(active, rows), self._states_of(active), table[:active, start : start + rows],
                    table_t[:active, start : start + rows], self._share[:active, at, :rows],
                    np.concatenate([places[cut[step] : cut[step + 1]] for places, cut in dropped[:active]]),
                    rates[:active, step : step + 1], epsilons[:active, step : step + 1],
                )  # fmt: skip
                step += 1

    def _step(
        self, buffers: _Buffers, state: _State, rows: Floats, rows_t: Tensor, share: Tensor, dropped: Indices,
        rate: Tensor, epsilon: Tensor,
    ) -> None:  # fmt: skip
        """One step of Adam for the networks of a batch.

        With x a row's inputs, W and v the layers, s what kept units are multiplied by, and e the error times its share:
        the gradient of W is s v times K, that of v is s times the sum over inputs of W times K, where K is the sum over
        rows of x e for each unit that is on.
        """
        wide = self._features + 1
        np.matmul(rows[..., :wide], state.first, out=buffers.hidden)
        buffers.hidden_t.relu_()
        self._flat_units[dropped] = 0
        np.matmul(buffers.hidden, state.output, out=buffers.out)
        error = buffers.out_t.add_(state.bias_t).sub_(rows_t[..., wide:]).mul_(share)
        torch.mul(rows_t[..., :wide], error, out=buffers.weighted_t)
        buffers.hidden_t.sign_()
        np.matmul(buffers.weighted.transpose(0, 2, 1), buffers.hidden, out=state.products)

        torch.mul(state.products_t, state.output_t, out=state.first_gradient_t)
        torch.mul(state.products_t, state.first_t, out=state.scratch_t)
        torch.sum(state.scratch_t, 1, out=state.second_gradient_t)
        state.second_gradient_t.mul_(state.scale_t)
        torch.sum(error, 1, keepdim=True, out=state.bias_gradient_t)

        gradient = state.gradient_t.addcmul_(state.decay_t, state.all_t)
        state.mean_t.lerp_(gradient, 1 - BETAS[0])
        state.square_t.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        torch.sqrt(state.square_t, out=state.step_t)
        torch.div(state.mean_t, state.step_t.add_(epsilon), out=state.step_t)
        state.all_t.addcmul_(state.step_t, rate, value=-1)
        torch.mul(state.second_t, state.scale_t, out=state.output_t[:, 0])

    def _shuffled(self, epochs: int) -> Floats:
        """(networks, epochs · steps · batch rows, features + 2): the rows in their order, some inputs dropped."""
        count, features = len(self._tasks), self._features
        padded = self._steps * BATCH_ROWS
        index = np.full((count, epochs, padded), self.most_rows)
        dropped = []
        for network, (stream, rows) in enumerate(zip(self._streams, self._rows.tolist(), strict=True)):
            index[network, :, :rows] = stream.order(epochs, rows)
            row, feature = np.divmod(stream.inputs.take(epochs * rows * features), features)
            epoch, row = np.divmod(row, rows)
            dropped.append((((network * epochs + epoch) * padded) + row) * (features + 2) + feature)
        index += (self.most_rows + 1) * np.arange(count)[:, None, None]
        table = np.take(self._table.reshape(-1, features + 2), index.reshape(-1), axis=0, mode="clip")
        table.reshape(-1)[np.concatenate(dropped)] = 0
        return table.reshape(count, epochs * padded, features + 2)

    def _dropped_units(self, epochs: int) -> list[tuple[Indices, list[int]]]:
        """For each network: which places of the hidden units are dropped, and where among them each step begins."""
        found = []
        for network, (stream, rows) in enumerate(zip(self._streams, self._rows.tolist(), strict=True)):
            starts = np.minimum(BATCH_ROWS * np.arange(self._steps), rows) + rows * np.arange(epochs)[:, None]
            starts = starts.reshape(-1) * self._hidden
            places = stream.hidden.take(epochs * rows * self._hidden)
            cuts = np.searchsorted(places, starts)
            counts = np.diff(cuts, append=len(places))
            places = places - np.repeat(starts - network * BATCH_ROWS * self._hidden, counts)
            found.append((places, [*cuts.tolist(), len(places)]))
        return found

    def _step_sizes(self, done: int, epochs: int) -> tuple[Tensor, Tensor]:
        """(networks, steps): the learning rate and the epsilon of each step, with Adam's corrections for its start."""
        own = -(-self._rows // BATCH_ROWS)[:, None, None]
        number = (done + np.arange(epochs)[:, None]) * own + np.arange(1, self._steps + 1)
        root = np.sqrt(1 - BETAS[1] ** number)
        rates, epsilons = LEARNING_RATE * root / (1 - BETAS[0] ** number), EPSILON * root
        one, other = (
            torch.from_numpy(each.reshape(len(self._tasks), -1).astype(np.float32)) for each in (rates, epsilons)
        )
        return one, other

    def _buffers_of(self, networks: int, rows: int) -> _Buffers:
        if (networks, rows) not in self._buffers:
            parts = [each[:networks, :rows] for each in (self._hidden_units, self._out, self._weighted)]
            hidden, out, weighted = parts
            hidden_t, out_t, weighted_t = (torch.from_numpy(each) for each in parts)
            self._buffers[networks, rows] = _Buffers(hidden, hidden_t, out, out_t, weighted, weighted_t)
        return self._buffers[networks, rows]

    def _states_of(self, networks: int) -> _State:
        if networks not in self._states:
            self._states[networks] = _State._make(part[:networks] for part in self._whole)
        return self._states[networks]

    def _state(self, parameters: Floats, decay: Floats, scale: Floats) -> _State:
        count, wide, units = len(parameters), self._features + 1, self._hidden
        gradient, mean, square, step = (np.zeros_like(parameters) for _ in range(4))
        products, scratch = (np.zeros((count, wide, units), dtype=np.float32) for _ in range(2))
        first, second, bias = self._layers(parameters)
        first_gradient, second_gradient, bias_gradient = self._layers(gradient)
        output = (second * scale)[:, :, None]
        of = torch.from_numpy
        return _State(
            first, output, products, of(parameters), of(first), of(second), of(bias), of(output.transpose(0, 2, 1)),
            of(products), of(scratch), of(scale), of(gradient), of(first_gradient), of(second_gradient),
            of(bias_gradient), of(decay), of(mean), of(square), of(step),
        )  # fmt: skip

    def _layers(self, flat: Floats) -> tuple[Floats, Floats, Floats]:
        """Views: (networks, features + 1, hidden), (networks, hidden), (networks, 1, 1)."""
        count, wide = len(flat), (self._features + 1) * self._hidden
        first = flat[:, :wide].reshape(count, self._features + 1, self._hidden)
        assert np.shares_memory(first, flat)
        return first, flat[:, wide:-1], flat[:, -1:, None]


@contextmanager
def one_thread() -> Iterator[None]:
    """The work is small, so threads would only wait for each other; and figures must not depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Numbers too small for full precision count as zero: the moments of a unit that is never on die away to such, and
    they are slow."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
