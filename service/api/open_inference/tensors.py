"""Tensors of the protocol, as JSON or as bytes, to and from numpy. BYTES are object arrays of `bytes`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput, MalformedBody, TooLarge, cut, nearest

BINARY_SIZE = "binary_data_size"
BF16, BYTES = "BF16", "BYTES"
_TYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(kind) for name, kind in {
        "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
        "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    }.items()
}
_DATATYPES = (*_TYPES, BF16, BYTES)
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_LONGEST_SHAPE = 32
_LENGTH = struct.Struct("<I")


class Given(NamedTuple):
    """An input tensor. in_json: BYTES that came as text."""

    name: str
    datatype: str
    values: NDArray[Any]
    in_json: bool


class Binary:
    """The bytes behind the JSON of a body, taken one tensor after the other."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._at = content, 0

    def take(self, size: int, path: str) -> memoryview:
        """MalformedBody where there are not so many left."""
        left = len(self._content) - self._at
        if size > left:
            raise MalformedBody(f"{path}: {size} bytes of binary data expected, got {left}")
        found = self._content[self._at : self._at + size]
        self._at += size
        return found

    def check_empty(self) -> None:
        """MalformedBody where bytes are left that belong to no tensor."""
        if left := len(self._content) - self._at:
            raise MalformedBody(f"{left} bytes of binary data are left that belong to no input")


def read_tensor(entry: Any, place: int, binary: Binary, most_texts: int) -> Given:
    """One of the request's `inputs`. most_texts: elements of BYTES. MalformedBody, TooLarge; InvalidInput with the
    tensor's name."""
    path = f"inputs[{place}]"
    if not isinstance(entry, dict):
        raise InvalidInput.at(path, "an object with name, shape, datatype and data expected")
    name = entry.get("name")
    if not isinstance(name, str):
        raise InvalidInput.at(f"{path}.name", "a string expected")
    whole, name = name, cut(name)
    datatype, shape = entry.get("datatype"), _shape(entry.get("shape"), name)
    if not isinstance(datatype, str) or datatype not in _DATATYPES:
        hint = nearest(datatype, _DATATYPES) if isinstance(datatype, str) else ""
        raise InvalidInput.at(f"{name}.datatype", f"one of {', '.join(_DATATYPES)} expected{hint}")
    if datatype == BYTES and prod(shape) > most_texts:
        raise TooLarge.at(f"{name}.shape", f"at most {most_texts} elements of BYTES expected")
    parameters = entry.get("parameters") or {}
    size = parameters.get(BINARY_SIZE) if isinstance(parameters, dict) else None
    if size is None:
        if "data" not in entry:
            raise InvalidInput.at(name, f"data, or {BINARY_SIZE} among its parameters, expected")
        return Given(whole, datatype, _of_json(entry["data"], datatype, shape, name), in_json=True)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InvalidInput.at(f"{name}.parameters.{BINARY_SIZE}", "a number of bytes expected")
    if "data" in entry:
        raise InvalidInput.at(name, f"data or {BINARY_SIZE} expected, got both")
    return Given(whole, datatype, _of_bytes(binary.take(size, name), datatype, shape, name), in_json=False)


def _shape(given: Any, name: str) -> tuple[int, ...]:
    sizes = given if isinstance(given, list) else []
    if not 1 <= len(sizes) <= _LONGEST_SHAPE or not all(type(n) is int and 1 <= n < 2**31 for n in sizes):
        raise InvalidInput.at(f"{name}.shape", "a list of sizes expected, each at least 1, rows first")
    return tuple(sizes)


def _of_json(data: Any, datatype: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """data: row-major, flat or nested as the shape says."""
    flat = _flat(data, shape, name)
    if datatype == BYTES:
        _only(flat, {str}, "a string", name, shape)
        return _objects([text.encode("utf-8", "surrogatepass") for text in flat], shape)
    if datatype == "BOOL":
        _only(flat, {bool}, "true or false", name, shape)
    elif "INT" in datatype:
        _only(flat, {int}, "an integer", name, shape)
    else:
        _only(flat, {int, float}, "a number", name, shape)
    try:
        if not datatype.startswith(("FP", "BF")):
            return np.array(flat, _TYPES[datatype]).reshape(shape)
        values = np.array(flat, np.float64).reshape(shape)
        if datatype != "FP16":
            return values
        with np.errstate(over="raise"):
            return values.astype(np.float16)
    except (OverflowError, FloatingPointError) as e:
        raise InvalidInput.at(name, f"numbers that {datatype} can hold expected") from e


def _flat(data: Any, shape: tuple[int, ...], name: str) -> Sequence[Any]:
    if not isinstance(data, list):
        raise InvalidInput.at(f"{name}.data", "a list expected")
    wanted = prod(shape)
    if len(shape) > 1 and data and isinstance(data[0], list):
        for size in shape[1:]:
            if not all(isinstance(inner, list) and len(inner) == size for inner in data):
                raise InvalidInput.at(f"{name}.data", f"lists nested as the shape {list(shape)} says expected")
            data = list(chain.from_iterable(data))
    if len(data) != wanted:
        raise InvalidInput.at(f"{name}.data", f"{wanted} values for the shape {list(shape)} expected, got {len(data)}")
    return data


def _only(flat: Sequence[Any], allowed: set[type], what: str, name: str, shape: tuple[int, ...]) -> None:
    if set(map(type, flat)) - allowed:
        wrong = next(place for place, value in enumerate(flat) if type(value) not in allowed)
        row, *rest = (int(n) for n in np.unravel_index(wrong, shape))
        raise InvalidInput.at(f"{name}[{row}]" + "".join(f"[{n}]" for n in rest), f"{what} expected")


def _of_bytes(content: memoryview, datatype: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """Numbers without a copy."""
    if datatype == BYTES:
        return _objects(_elements(content, prod(shape), name), shape)
    dtype = _TYPES.get(datatype, np.dtype("<u2"))
    wanted = prod(shape) * dtype.itemsize
    if wanted != len(content):
        raise InvalidInput.at(
            name, f"{wanted} bytes expected for {datatype} of shape {list(shape)}, got {len(content)}")
    if datatype == "BOOL":
        flags = np.frombuffer(content, np.uint8)
        if flags.size and flags.max() > 1:
            raise InvalidInput.at(name, "bytes of 0 or 1 expected")
        return flags.astype(bool).reshape(shape)
    values = np.frombuffer(content, dtype).reshape(shape)
    if datatype == BF16:  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _elements(content: memoryview, count: int, name: str) -> list[bytes]:
    """Of BYTES: each with its length before it, four bytes, the least first."""
    found, at = list[bytes](), 0
    while at < len(content):
        end = at + _LENGTH.size
        size = _LENGTH.unpack_from(content, at)[0] if end <= len(content) else len(content)
        if end + size > len(content):
            raise InvalidInput.at(name, f"its binary data end within element {len(found)}")
        if len(found) == count:
            raise InvalidInput.at(name, f"{count} elements expected for its shape, got more")
        found.append(bytes(content[end : end + size]))
        at = end + size
    if len(found) != count:
        raise InvalidInput.at(name, f"{count} elements expected for its shape, got {len(found)}")
    return found


def _objects(elements: Sequence[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    found = np.empty(len(elements), object)
    found[:] = elements
    return found.reshape(shape)


def datatype_of(values: NDArray[Any]) -> str:
    """Of an output: text is BYTES."""
    return BYTES if values.dtype.kind in "US" else _NAMES[values.dtype]


def json_of(values: NDArray[Any]) -> Any:
    """An output's `data`, flat: an array that orjson writes, or strings."""
    return values.reshape(-1).tolist() if values.dtype.kind in "US" else np.ascontiguousarray(values).reshape(-1)


def bytes_of(values: NDArray[Any]) -> bytes:
    """An output as binary data."""
    if values.dtype.kind not in "US":
        return values.tobytes()
    texts = [str(text).encode() for text in values.reshape(-1)]
    return b"".join([_LENGTH.pack(len(text)) + text for text in texts])
