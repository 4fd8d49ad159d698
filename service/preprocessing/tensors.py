"""Numbers in base64: raw bytes, little-endian, the last axis fastest."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput, cut, nearest

PNG, JPEG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff"  # how every one begins
TENSOR_TYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")


def read_base64(text: Any, path: str) -> bytes:
    """Of the standard alphabet with its padding. InvalidInput names path."""
    if not isinstance(text, str):
        raise InvalidInput.at(path, f"a string of base64 expected, got a {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise InvalidInput.at(path, f"base64 expected: {e}") from e


def read_tensor(content: bytes, given: Any, dtype: str, shape: Sequence[int], path: str) -> NDArray[Any]:
    """The numbers of one row, in the input's shape, as int64, float32 or float64: whichever holds them as they are.
    given: their type; None is the input's, `dtype`. InvalidInput names path."""
    kind = dtype if given is None else given
    if kind not in TENSOR_TYPES:
        near = nearest(given, TENSOR_TYPES) if isinstance(given, str) else ""
        raise InvalidInput.at(f"{path}.dtype", f"one of {', '.join(TENSOR_TYPES)} expected, got "
                                               f"{cut(repr(given))}{near}")
    if dtype == "int64" and kind.startswith("float"):
        raise InvalidInput.at(f"{path}.dtype", f"integers expected, got {kind}")
    stored = np.dtype(kind).newbyteorder("<")
    expected = prod(shape) * stored.itemsize
    if len(content) != expected:
        what = (" of a PNG or JPEG, and this input takes none: its manifest has no [inputs.image]"
                if given is None and content.startswith((PNG, JPEG)) else "")
        raise InvalidInput.at(path, f"{expected} bytes, {kind} of shape {list(shape)}, expected, got "
                                    f"{len(content)}{what}")
    array = np.frombuffer(content, stored).reshape(shape)
    if dtype == "int64":
        return array.astype(np.int64)
    return array.astype(np.float32 if kind in ("float16", "float32") else np.float64)
