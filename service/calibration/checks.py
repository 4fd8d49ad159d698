"""What every part asks of its arrays before it trusts them. All raise InvalidInput and name the first wrong place."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.errors import InvalidInput, InvalidOption

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_ABOVE_ONE = 1e-6  # float32 means of probabilities exceed 1 by a few units in the last place


def finite(values: ArrayLike, name: str, axes: int | tuple[int, ...]) -> Floats:
    """As float64, with so many axes (or one of several numbers), none of them empty, every number finite."""
    array = _numbers(values, name)
    wanted = axes if isinstance(axes, tuple) else (axes,)
    if array.ndim not in wanted:
        raise InvalidInput.at(name, f"{' or '.join(map(str, wanted))} axes expected, got {array.ndim}")
    not_empty(array.shape, name)
    floats = array.astype(np.float64)
    refuse(~np.isfinite(floats), floats, name, "a finite number")
    return floats


def not_empty(shape: tuple[int, ...], name: str) -> None:
    if 0 in shape:
        raise InvalidInput.at(name, f"at least one row and one column expected, got the shape {list(shape)}")


def probabilities(values: ArrayLike) -> Floats:
    """(rows, classes), each from 0 to 1. That they add up to 1 is nobody's need here."""
    array = finite(values, "probabilities", 2)
    refuse((array < 0) | (array > 1 + _ABOVE_ONE), array, "probabilities", "a number from 0 to 1")
    return array


def class_labels(values: ArrayLike, rows: int, classes: int) -> Ints:
    """(rows,) of classes, counted from 0."""
    array = _whole(_numbers(values, "labels"), "labels")
    same_shape(array, (rows,), "labels")
    refuse((array < 0) | (array >= classes), array, "labels", f"a class from 0 to {classes - 1}")
    return array


def yes_or_no(values: ArrayLike, shape: tuple[int, ...], name: str) -> Bools:
    """Of this shape, each 0 or 1."""
    array = _numbers(values, name)
    same_shape(array, shape, name)
    refuse((array != 0) & (array != 1), array, name, "0 or 1")
    return array.astype(np.bool_)


def positive(values: ArrayLike, shape: tuple[int, ...], name: str) -> Floats:
    """Of this shape, each over 0 and finite."""
    array = finite(values, name, len(shape))
    same_shape(array, shape, name)
    refuse(array <= 0, array, name, "a number over 0")
    return array


def same_shape(array: NDArray[np.generic], shape: tuple[int, ...], name: str) -> None:
    if array.shape != shape:
        raise InvalidInput.at(name, f"the shape {list(shape)} expected, got {list(array.shape)}")


def share(value: float, name: str) -> None:
    """InvalidOption where it is not between 0 and 1, both left out."""
    if not 0 < value < 1:
        raise InvalidOption.at(name, f"a number over 0 and under 1 expected, got {value}")


def refuse(wrong: Bools, array: NDArray[np.generic], name: str, expected: str) -> None:
    """Where any is wrong, the first of them is named."""
    if wrong.any():
        at = np.unravel_index(int(wrong.argmax()), wrong.shape)
        place = "".join(f"[{i}]" for i in at)
        raise InvalidInput.at(f"{name}{place}", f"{expected} expected, got {array[at]}")


def _numbers(values: ArrayLike, name: str) -> NDArray[np.generic]:
    try:
        array = np.asarray(values)
    except ValueError as e:
        raise InvalidInput.at(name, "rows of one length expected") from e
    if array.dtype.kind not in "biuf":
        raise InvalidInput.at(name, f"numbers expected, got {array.dtype}")
    return array


def _whole(array: NDArray[np.generic], name: str) -> Ints:
    if array.dtype.kind == "f":
        refuse(~np.isfinite(array) | (array != np.floor(array)), array, name, "a whole number")
    return array.astype(np.int64)
