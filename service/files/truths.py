"""What is true of the rows of a labelled file: as it stands there, to arrays. InvalidInput names the row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput, cut, nearest
from service.files.lines import NUMBER
from service.repository import ReadyModel

Truths = NDArray[np.float64]
_LARGEST = 1e150  # a target's square is a number too
NAMES = {"classification": "label", "multilabel": "label", "regression": "value"}
"""By task, what the truth is called in a file unless somebody says otherwise: as answers and feedback call it."""


def truths_of(given: Sequence[Any], model: ReadyModel, place: Callable[[int], str], first: int = 0) -> Truths:
    """Classification: places of labels, (rows,). Multilabel: 0 or 1, (rows, labels). Regression: (rows, targets).

    A label is given by its name, or by its place from 0 where no label has that name; several labels by a list of them,
    or by a 0 or 1 for each. first: row of the first of them; place: of a row in the file, for the message.
    """
    read: Callable[[Any], Any] = {
        "classification": _Labels(model).place, "multilabel": _Labels(model).several,
        "regression": lambda value: _targets(value, prod(model.sampler.output_shape)),
    }[model.manifest.task]
    found = []
    for row, value in enumerate(given, first):
        try:
            found.append(read(value))
        except ValueError as e:
            raise InvalidInput(f"{place(row)}: {e}") from e
    return np.array(found, np.float64)


class _Labels:
    def __init__(self, model: ReadyModel) -> None:
        count = prod(model.sampler.output_shape)
        self._names = model.manifest.labels or [str(i) for i in range(count)]
        self._places = {name: i for i, name in enumerate(self._names)}

    def place(self, value: Any) -> int:
        name = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if not isinstance(value, bool | list | dict | None):
            if name in self._places:
                return self._places[name]
            number = float(name) if NUMBER.fullmatch(name) else -1.0  # a table may have 1.0 for 1
            if number.is_integer() and 0 <= number < len(self._names):
                return self._places.get(str(int(number)), int(number))
        raise ValueError(f"a label of this model expected, got {cut(repr(value))}{nearest(name, self._names)}")

    def several(self, value: Any) -> list[int]:
        if not isinstance(value, list):
            raise ValueError(f"a list of labels, or a 0 or 1 for each, expected, got {cut(repr(value))}")
        if len(value) == len(self._names) and all(type(v) in (int, float) and v in (0, 1) for v in value):
            return [int(v) for v in value]
        found = {self.place(v) for v in value}
        return [int(i in found) for i in range(len(self._names))]


def _targets(value: Any, count: int) -> list[float]:
    values = value if isinstance(value, list) else [value]
    try:
        found = [float(v) for v in values if not isinstance(v, bool) and (type(v) is not str or NUMBER.fullmatch(v))]
    except (TypeError, ValueError):
        found = []
    if len(found) != len(values) or len(found) != count or not all(abs(v) <= _LARGEST for v in found):
        expected = "a finite number" if count == 1 else f"{count} finite numbers"
        raise ValueError(f"{expected} expected, got {cut(repr(value))}")
    return found
