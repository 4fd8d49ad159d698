"""Rows as a caller gives them, and as the engine takes them: a tensor for each input, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from service.errors import InvalidInput
from service.sampling.arming import Inputs
from service.sampling.copies import to_device

ExampleInputs = Tensor | np.ndarray | Sequence[Tensor | np.ndarray] | Mapping[str, Tensor | np.ndarray]


class RowShapes:
    """Type and shape of one row of every input, as of the rows that a network was prepared with."""

    def __init__(self, examples: Inputs) -> None:
        self._inputs = {name: (value.dtype, tuple(value.shape[1:])) for name, value in examples.items()}
        self._names = list(self._inputs)
        self._only = next(iter(self._inputs.items())) if len(self._inputs) == 1 else None

    def checked(self, inputs: ExampleInputs, device: torch.device) -> Inputs:
        """The rows on the device. InvalidInput where names, types, shapes or numbers of rows do not fit."""
        if self._only is not None and type(inputs) is Tensor:  # as nearly always: right as it is
            name, (dtype, shape) = self._only
            if inputs.dtype is dtype and inputs.dim() == len(shape) + 1 and inputs.shape[1:] == shape \
                    and inputs.device == device and inputs.size(0):
                return {name: inputs}
        rows = named_inputs(inputs, self._names)
        for name, (dtype, shape) in self._inputs.items():
            value = rows[name]
            if value.shape[1:] != shape or value.is_floating_point() != dtype.is_floating_point:
                raise InvalidInput(f"input {name}: {dtype} of shape (rows, {', '.join(map(str, shape))}) expected, got "
                                   f"{value.dtype} of {tuple(value.shape)}")
        counts = {name: value.shape[0] for name, value in rows.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise InvalidInput(f"every input needs the same number of rows, at least 1, got {counts}")
        return {name: to_device(rows[name], device, dtype) for name, (dtype, _) in self._inputs.items()}


def part_of(rows: Inputs, places: range) -> Inputs:
    """Those rows; without a step of torch's where they are all."""
    whole = len(places) == row_count(rows)
    return rows if whole else {name: value[places.start : places.stop] for name, value in rows.items()}


def row_count(rows: Inputs) -> int:
    return next(iter(rows.values())).size(0)


def named_inputs(inputs: ExampleInputs, names: Sequence[str]) -> dict[str, Tensor]:
    """Inputs by name, in the order of `names`. InvalidInput where they do not fit."""
    if isinstance(inputs, (Tensor, np.ndarray)):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        if set(inputs) != set(names):
            raise InvalidInput(f"inputs {', '.join(names)} expected, got {', '.join(map(str, inputs))}")
        return {name: torch.as_tensor(inputs[name]) for name in names}
    if len(inputs) != len(names):
        raise InvalidInput(f"{len(names)} inputs expected ({', '.join(names)}), got {len(inputs)}")
    return {name: torch.as_tensor(value) for name, value in zip(names, inputs, strict=True)}
