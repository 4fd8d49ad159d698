"""Rows and answers as numpy arrays: .npy and .npz bodies in, .npz out. Nothing is ever unpickled."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from service.api.bodies import NPZ
from service.errors import ErrorbarError, Fault, InvalidInput, MalformedBody, TooLarge, cut, nearest, reason
from service.repository import Input, Manifest

_HEADER_BYTES = 4096


def read_arrays(body: bytes, kind: str, manifest: Manifest, most_bytes: int) -> dict[str, NDArray[Any]]:
    """One array for each input of the model, rows first, of the shape that the manifest says. An .npy body is the one
    input; in an .npz body arrays have the inputs' names, or any name where there is one. most_bytes: that an archive
    may unpack to. MalformedBody, InvalidInput, TooLarge."""
    inputs = {spec.name: spec for spec in manifest.inputs}
    if kind == NPZ:
        found = dict(_archived(body, inputs, most_bytes))
    elif len(inputs) > 1:
        raise InvalidInput(f"an .npz body with an array for each of the inputs {', '.join(inputs)} expected")
    else:
        found = {name: _array(body) for name in inputs}
    for name, spec in inputs.items():
        if name not in found:
            _wrong(name, "missing; an array of this name expected")
        _check(found[name], spec)
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        _wrong("instances", f"as many rows of each input expected, got {lengths}")
    return found


def rows_of(body: bytes) -> int | None:
    """Of an .npy body, by its header; None where it has none that can be read."""
    try:
        shape, _, _, _ = _header(body)
        return shape[0] if shape else None
    except Exception:
        return None


def _archived(body: bytes, inputs: Mapping[str, Input], most_bytes: int) -> Iterator[tuple[str, NDArray[Any]]]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            entries = archive.infolist()
            if len(entries) > len(inputs):
                raise InvalidInput(f"arrays for the inputs {', '.join(inputs)} expected, got {len(entries)} arrays")
            if sum(entry.file_size for entry in entries) > most_bytes:
                raise TooLarge(f"arrays of at most {most_bytes} bytes in all expected, got more")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name not in inputs and len(inputs) == 1:
                    name = next(iter(inputs))
                if name not in inputs:
                    _wrong(cut(name), f"not an input of this model{nearest(name, inputs)}")
                yield name, _array(archive.read(entry))
    except ErrorbarError:
        raise
    except Exception as e:  # readers of archives and of Python's literals raise no closed list of errors on rubbish
        raise MalformedBody(f"the body is not an .npz archive that can be read: {reason(e)}") from e


def _array(content: bytes) -> NDArray[Any]:
    """Without a copy where it can be."""
    try:
        shape, fortran, dtype, start = _header(content)
        if dtype.hasobject or dtype.kind not in "fiu":
            _wrong("instances", f"numbers expected, got an array of {dtype}")
        count = 1
        for size in shape:
            count *= size
        if len(content) - start != count * dtype.itemsize:
            raise ValueError(f"{count * dtype.itemsize} bytes of data expected, got {len(content) - start}")
        flat = np.frombuffer(content, dtype, count, start)
        return flat.reshape(shape, order="F" if fortran else "C")
    except ErrorbarError:
        raise
    except Exception as e:
        raise MalformedBody(f"the body is not an .npy array that can be read: {reason(e)}") from e


def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """As `npy_header`, and where the data begin."""
    file = io.BytesIO(content)
    return (*npy_header(file), file.tell())


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of an .npy; the file then stands at the data. ValueError."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version 1.0 or 2.0 of the format expected, got {version}")
    shape, fortran, dtype = read(file, max_header_size=_HEADER_BYTES)
    if any(size < 0 for size in shape):
        raise ValueError(f"a shape expected, got {shape}")
    return shape, fortran, dtype


def _check(array: NDArray[Any], spec: Input) -> None:
    if array.ndim == 0 or array.shape[1:] != spec.shape:
        _wrong(spec.name, f"an array of shape {('rows', *spec.shape)} expected, got {array.shape}")
    if not len(array):
        _wrong("instances", "at least one row expected, got none")
    if spec.dtype == "int64" and array.dtype.kind not in "iu":
        _wrong(spec.name, f"integers expected, got an array of {array.dtype}")


def write_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An .npz archive, not compressed: digits of samples hardly shrink, and shrinking costs more than sending."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _wrong(path: str, message: str) -> Any:
    raise InvalidInput(f"{path}: {message}", faults=[Fault(path, message)])
