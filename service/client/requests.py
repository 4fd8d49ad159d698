"""What is asked, as a request: arrays as they are, everything else as JSON."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray

from service.errors import Fault, InvalidInput

Rows = NDArray[Any] | Sequence[Any] | Mapping[str, Any]
"""Rows first: nested lists; objects by input or feature name; a numpy array or torch tensor; or several of them, by the
name of the input."""

JSON, NPY, NPZ, EVENTS = "application/json", "application/x-npy", "application/x-npz", "text/event-stream"
_LONGEST_IN_QUERY = 1000  # characters of an option; servers take twice that
_NOT_FINITE = "a finite number expected, got NaN or infinity"


@dataclass(frozen=True)
class Call:
    """One exchange, decided without input or output; the two clients only carry it out."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def infer(
    model: str, mode: str, rows: Rows, version: str | None, options: Mapping[str, Any], stream: bool = False
) -> Call:
    """InvalidInput where rows or options cannot be sent."""
    try:
        return _infer(f"{address(model, version)}:{mode}", rows, options, stream)
    except RecursionError as e:
        raise InvalidInput("rows and options that end expected, got lists or dicts too deep to be written") from e


def _infer(path: str, rows: Rows, options: Mapping[str, Any], stream: bool) -> Call:
    if "instances" in options:
        raise InvalidInput("instances: an option of another name expected; the rows are given as `rows`")
    plain = {name: _as_json(value) for name, value in options.items()}
    arrays = _as_arrays(rows)
    query = {name: _dumped(value, name) for name, value in plain.items()}
    if arrays is None or any(len(text) > _LONGEST_IN_QUERY for text in query.values()):
        kind, accept, body = JSON, JSON, _dumped({**plain, "instances": _as_json(rows)}).encode()
    else:
        _check_finite(arrays)
        kind, accept, body = (NPZ if isinstance(arrays, dict) else NPY), NPZ, _archived(arrays)
        path += f"?{urlencode(query)}" if query else ""
    return Call("POST", path, body, {"Content-Type": kind, "Accept": EVENTS if stream else accept})


def address(model: str, version: str | None) -> str:
    versions = "" if version is None else f"/versions/{quote(str(version), safe='')}"
    return f"/v1/models/{quote(str(model), safe='')}{versions}"


def count(rows: Any) -> int:
    """How many there are, whatever they are: 1 where they do not say."""
    try:
        return len(next(iter(rows.values()))) if isinstance(rows, Mapping) else len(rows)
    except Exception:  # a decision about them must not raise
        return 1


def _as_arrays(rows: Rows) -> NDArray[Any] | dict[str, NDArray[Any]] | None:
    """What goes as it is; None where rows are no arrays of numbers."""
    if not isinstance(rows, Mapping):
        return _as_array(rows)
    arrays = {str(name): _as_array(value) for name, value in rows.items()}
    found = {name: array for name, array in arrays.items() if array is not None}
    if not found or len(found) < len(arrays):
        wrong = next(iter(name for name, array in arrays.items() if array is None), "rows")
        raise InvalidInput(f"{wrong}: inputs by name are arrays of numbers, rows first",
                           faults=[Fault(wrong, "an array of numbers expected")])
    return found


def _as_array(value: Any) -> NDArray[Any] | None:
    if hasattr(value, "detach"):  # a tensor of torch, which need not be here
        value = _of_tensor(value.detach().cpu())
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise InvalidInput("numbers expected, got a masked array; fill what is masked, or leave those rows out")
        value = value.data
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        return None
    return value if value.dtype.itemsize <= 8 else value.astype(np.float64)


def _of_tensor(tensor: Any) -> Any:
    try:
        return tensor.numpy()
    except (TypeError, RuntimeError):
        try:
            return (tensor.float() if tensor.is_floating_point() else tensor.resolve_conj()).numpy()  # as bfloat16
        except (TypeError, RuntimeError) as e:  # the latter where it has no values, as on the device "meta"
            raise InvalidInput(f"a dense tensor of numbers expected: {e}") from e


def _check_finite(arrays: NDArray[Any] | dict[str, NDArray[Any]]) -> None:
    several = isinstance(arrays, dict)
    for name, array in (arrays if isinstance(arrays, dict) else {"": arrays}).items():
        if np.isfinite(array).all():
            continue
        row, place = "", ""
        if array.ndim:
            row, *places = (f"[{i}]" for i in np.argwhere(~np.isfinite(array))[0])
            place = "".join(places)
        path = f"instances{row}" + (f".{name}" if several else "") + place
        raise InvalidInput(f"{path}: {_NOT_FINITE}", faults=[Fault(path, _NOT_FINITE)])


def _archived(arrays: NDArray[Any] | dict[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    if not isinstance(arrays, dict):
        np.save(file, arrays, allow_pickle=False)
        return file.getvalue()
    with zipfile.ZipFile(file, "w") as archive:  # np.savez takes the names as arguments, among which are its own
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.save(entry, array, allow_pickle=False)
    return file.getvalue()


def _dumped(value: Any, path: str = "") -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError as e:
        wrong = _first_not_finite(value, path)
        if wrong is None:
            raise InvalidInput(f"rows and options cannot be sent: {e}") from e
        raise InvalidInput(f"{wrong}: {_NOT_FINITE}", faults=[Fault(wrong, _NOT_FINITE)]) from e
    except TypeError as e:
        raise InvalidInput(f"rows and options of numbers, strings, lists and dicts expected: {e}") from e


def _first_not_finite(value: Any, path: str = "") -> str | None:
    """Where NaN or an infinity stands, as the server would write it."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        inner = ((f"{path}.{key}".lstrip("."), item) for key, item in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{i}]", item) for i, item in enumerate(value))
    return next((found for at, item in inner if (found := _first_not_finite(item, at)) is not None), None)


def _as_json(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.detach().cpu().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    return value
