"""What the scores refuse: one sentence that says what was expected and what came."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SUM_TOLERANCE = 1e-3  # probabilities that were rounded to bfloat16 or to four decimals still add up to 1
PROBABILITY_TOLERANCE = 1e-6  # rounding in float32


def numbers(given: ArrayLike, name: str, axes: str = "rows", finite: bool = True) -> Array:
    """`given` in float64, truth values as 0 and 1, at least one row. axes: its shape in words, as "rows, classes".

    ValueError for other shapes, for no row, for NaN and, where `finite`, for infinities.
    """
    values = _array(given, name)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name}: real numbers expected, got {values.dtype}")
    _check_shape(values, name, axes)
    values = values.astype(np.float64)
    wrong = ~np.isfinite(values) if finite else np.isnan(values)
    if wrong.any():
        at = _first(wrong)
        what = "finite numbers" if finite else "numbers"
        raise ValueError(f"{name}: {what} expected, got {values[at]} at {_place(at)}")
    return values


def positive(given: ArrayLike, name: str, axes: str = "rows") -> Array:
    """`numbers` that are all above 0."""
    values = numbers(given, name, axes)
    if (values <= 0).any():
        at = _first(values <= 0)
        raise ValueError(f"{name}: numbers above 0 expected, got {values[at]:g} at {_place(at)}")
    return values


def probabilities_of(given: ArrayLike, axes: str = "rows, classes", name: str = "probabilities") -> Array:
    """Probabilities, clipped to [0, 1] where rounding left it. Those of classes are not made to add up to exactly 1.

    ValueError for what `numbers` refuses, for numbers outside [0, 1] by more than 1e-6, and over classes for fewer than
    two classes and for rows whose sum is not 1 to within 0.001.
    """
    values = numbers(given, name, axes)
    outside = (values < -PROBABILITY_TOLERANCE) | (values > 1 + PROBABILITY_TOLERANCE)
    if outside.any():
        at = _first(outside)
        raise ValueError(f"{name}: numbers from 0 to 1 expected, got {values[at]:g} at {_place(at)}")
    if axes.endswith("classes"):
        if values.shape[1] < 2:
            raise ValueError(f"{name}: at least two classes expected, got {values.shape[1]}")
        sums = values.sum(1)
        off = np.abs(sums - 1) > SUM_TOLERANCE
        if off.any():
            row = int(off.argmax())
            raise ValueError(f"{name}: every row is expected to add up to 1, got {sums[row]:g} in row {row}")
    return values.clip(0, 1)


def labels_of(given: ArrayLike, rows: int, classes: int) -> NDArray[np.int64]:
    """Indexes of classes, (rows,). ValueError unless they are integers from 0 to classes - 1, one for each row."""
    labels = _array(given, "labels")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels: integers expected, got {labels.dtype}")
    _check_shape(labels, "labels", "rows")
    _check_length(labels, "labels", rows)
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"labels: integers from 0 to {classes - 1} expected, got {labels[row]} in row {row}")
    return labels.astype(np.int64)


def yes_or_no(given: ArrayLike, name: str, axes: str = "rows") -> NDArray[np.bool_]:
    """Truth values, given as such or as 0 and 1. ValueError for anything else."""
    values = _array(given, name)
    if values.dtype.kind != "b":
        values = numbers(values, name, axes)
        other = (values != 0) & (values != 1)
        if other.any():
            at = _first(other)
            raise ValueError(f"{name}: 0 or 1 expected, got {values[at]:g} at {_place(at)}")
    _check_shape(values, name, axes)
    return values.astype(np.bool_)


def same_rows(**named: NDArray[Any]) -> None:
    """ValueError unless all have the shape of the first."""
    (first, like), *others = named.items()
    for name, values in others:
        if values.shape != like.shape:
            raise ValueError(f"{name}: the shape of {first}, {list(like.shape)}, expected, got {list(values.shape)}")


def whole(given: int, name: str, least: int = 1) -> int:
    """An integer that is at least `least`. ValueError otherwise."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < least:
        raise ValueError(f"{name}: an integer of at least {least} expected, got {given!r}")
    return int(given)


def level_of(given: float, name: str = "level") -> float:
    """A share between 0 and 1, neither of them. ValueError otherwise."""
    if not 0 < given < 1:
        raise ValueError(f"{name}: a number between 0 and 1 expected, got {given!r}")
    return float(given)


def _array(given: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except ValueError as e:  # rows of unequal length
        raise ValueError(f"{name}: an array expected, got rows of unequal length") from e


def _check_shape(values: NDArray[Any], name: str, axes: str) -> None:
    if values.ndim != len(axes.split(", ")):
        raise ValueError(f"{name}: the shape ({axes}) expected, got {list(values.shape)}")
    if values.size == 0:
        raise ValueError(f"{name}: at least one row expected, got the shape {list(values.shape)}")


def _check_length(values: NDArray[Any], name: str, rows: int) -> None:
    if len(values) != rows:
        raise ValueError(f"{name}: one for each of {rows} rows expected, got {len(values)}")


def _first(where: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(where.argmax()), where.shape))


def _place(at: tuple[int, ...]) -> str:
    return f"{list(at)}" if len(at) > 1 else f"row {at[0]}"
