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
            fits = value.dim() == len(shape) + 1 and value.shape[1:] == shape
            if not fits or _kind(value.dtype) != _kind(dtype):
                raise InvalidInput(f"input {name}: {dtype} of shape (rows, {', '.join(map(str, shape))}) expected, got "
                                   f"{value.dtype} of {tuple(value.shape)}")
        counts = {name: value.shape[0] for name, value in rows.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise InvalidInput(f"every input needs the same number of rows, at least 1, got {counts}")
        return {
            name: to_device(_converted(name, rows[name], dtype), device) for name, (dtype, _) in self._inputs.items()
        }


def _converted(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in that type. InvalidInput where it does not hold them: a whole number would become another, a
    large one infinite."""
    if value.dtype is dtype:
        return value
    made = value.to(dtype)
    if dtype.is_floating_point or dtype.is_complex:
        held = made.isfinite() | ~value.isfinite()
    else:
        whole = value.to(torch.int64)
        held = made.to(torch.int64) == whole
        if torch.uint64 in (value.dtype, dtype):  # half of its numbers are negative ones of int64
            held &= whole >= 0
    if not bool(held.all()):
        raise InvalidInput(f"input {name}: {value[~held][0].item()} of {value.dtype} is beyond what {dtype} holds")
    return made


def _kind(dtype: torch.dtype) -> tuple[bool, bool]:
    return dtype.is_floating_point, dtype.is_complex


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
        return {name: _tensor(name, inputs[name]) for name in names}
    if not isinstance(inputs, Sequence):
        raise InvalidInput(f"a tensor, a sequence or a mapping of tensors expected, got {type(inputs).__name__}")
    if len(inputs) != len(names):
        raise InvalidInput(f"{len(names)} inputs expected ({', '.join(names)}), got {len(inputs)}")
    return {name: _tensor(name, value) for name, value in zip(names, inputs, strict=True)}


def _tensor(name: str, value: object) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as e:
        raise InvalidInput(f"input {name}: a tensor expected, got {type(value).__name__}: {e}") from None
