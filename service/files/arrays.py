"""Rows as arrays: .npy and .npz, read as they are needed. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from math import prod
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.api.arrays import npy_header
from service.errors import nearest, reason
from service.files.parts import Arrays, TruthAt
from service.repository import Input, Manifest

_SKIPPED_BYTES = 16 << 20  # at once


class Member:
    """One array, rows first. ValueError, with its name, where it holds no rows of numbers; EOFError where it is cut
    short or no array."""

    def __init__(self, name: str, file: IO[bytes], spooled: bool = False) -> None:
        """name: in its archive; "" where there is none. spooled: file cannot be mapped into memory, so that what is
        stored column by column is unpacked first."""
        self.name, self.shown = name, f"array {name!r}" if name else "the array"
        self._file, self._at = file, 0
        try:
            shape, by_column, dtype = npy_header(file)
        except ValueError as e:
            raise EOFError(reason(e)) from e
        if dtype.hasobject or dtype.kind not in "iuf":
            raise ValueError(f"{self.shown}: numbers expected, got {dtype}")
        if not shape:
            raise ValueError(f"{self.shown}: rows first expected, got a single number")
        self.rows, self.row_shape, self.dtype = shape[0], shape[1:], dtype
        self.row_bytes = prod(self.row_shape) * dtype.itemsize
        self._hash = hashlib.sha256(repr((name, self.row_shape, dtype.str)).encode())
        self._mapped: NDArray[Any] | None = None
        if by_column and len(shape) > 1 and 0 not in shape:
            whole = _spooled(file) if spooled else file
            self._mapped = np.memmap(whole, dtype, "r", whole.tell(), shape, "F")

    def read(self, count: int) -> NDArray[Any]:
        count = min(count, self.rows - self._at)
        if self._mapped is not None:
            found = np.ascontiguousarray(self._mapped[self._at : self._at + count])
        else:
            size = count * self.row_bytes
            content = self._file.read(size)
            if len(content) != size:
                raise EOFError(f"{self.shown} ends after {self._at + len(content) // max(1, self.row_bytes)} of "
                               f"{self.rows} rows")
            found = np.frombuffer(content, self.dtype).reshape(count, *self.row_shape)
        self._hash.update(found.data)
        self._at += count
        if self._at == self.rows and self._mapped is None:
            self._file.read(1)  # an archive's checksum is looked at behind the last byte
        return found

    def digest(self) -> bytes:
        return self._hash.digest()

    @property
    def share(self) -> float:
        return self._at / self.rows if self.rows else 1.0


def _spooled(file: IO[bytes]) -> IO[bytes]:
    whole = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as what is mapped
    shutil.copyfileobj(file, whole)
    whole.seek(0)
    return whole


class ArrayFile:
    """Several arrays of as many rows: one an input, or one a feature, or any single one that is the one input. truth:
    one more, that is no input."""

    def __init__(
        self, file: BinaryIO, members: Sequence[Member], manifest: Manifest, truth: TruthAt | None = None
    ) -> None:
        self._file, self._members = file, list(members)
        self._truth = None if truth is None else truth.name
        lengths = {member.name: member.rows for member in members}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"arrays of one length expected, got {lengths}")
        if truth is not None and truth.needed and truth.name not in lengths:
            raise ValueError(f"array {truth.name!r} with the truth: missing{nearest(truth.name, lengths)}")
        self._inputs = _inputs_of([member for member in members if member.name != self._truth], manifest)

    def read(self, count: int) -> Arrays:
        parts = {member.name: member.read(count) for member in self._members}
        inputs = {name: _joined([parts[n] for n in names]) for name, names in self._inputs.items()}
        return Arrays(inputs, parts.get(self._truth or ""))

    def skip(self, count: int) -> int:
        done = 0
        step = max(1, _SKIPPED_BYTES // max(1, sum(member.row_bytes for member in self._members)))
        while done < count and (part := len(self.read(min(step, count - done)))):
            done += part
        return done

    def share(self) -> float | None:
        return self._members[0].share

    def digest(self) -> str:
        return hashlib.sha256(b"".join(member.digest() for member in self._members)).hexdigest()

    def close(self) -> None:
        self._file.close()


def npy_file(file: BinaryIO, manifest: Manifest, truth: TruthAt | None = None) -> ArrayFile:
    if truth is not None and truth.needed:
        raise ValueError(f"an archive with an array {truth.name!r} expected, got one array; call it .npz")
    if _begins_as_archive(file):
        if zipfile.is_zipfile(file):
            raise ValueError("one array expected, got an archive of them; call it .npz")
        raise EOFError("it is no array")
    return ArrayFile(file, [Member("", file)], manifest)


def npz_file(file: BinaryIO, manifest: Manifest, truth: TruthAt | None = None) -> ArrayFile:
    if file.read(1) == b"\x93":
        raise ValueError("an archive of arrays expected, got one array; call it .npy")
    archive = zipfile.ZipFile(file)
    members = [
        Member(entry.filename.removesuffix(".npy"), archive.open(entry), spooled=True)
        for entry in archive.infolist()
    ]
    if not members:
        raise ValueError("no rows")
    return ArrayFile(file, members, manifest, truth)


def _begins_as_archive(file: BinaryIO) -> bool:
    archived = file.read(2) == b"PK"
    file.seek(0)
    return archived


def _inputs_of(members: Sequence[Member], manifest: Manifest) -> dict[str, list[str]]:
    """For each input, the arrays that hold it: one, or the features in their order. ValueError where others came."""
    inputs = {spec.name: spec for spec in manifest.inputs}
    if len(members) == 1 and len(inputs) == 1:
        (spec,) = inputs.values()
        _check(members[0], spec, spec.shape)
        return {spec.name: [members[0].name]}
    found = {member.name: member for member in members}
    known = list(inputs)
    if manifest.features is not None and not any(name in found for name in inputs):
        known = [f.name for f in manifest.features]
    for name, member in found.items():
        if name not in known:
            raise ValueError(f"{member.shown} is not one of {', '.join(known)}{nearest(name, known)}")
    for name in known:
        if name not in found:
            raise ValueError(f"array {name!r}: missing")
    if known == list(inputs):
        for name, spec in inputs.items():
            _check(found[name], spec, spec.shape)
        return {name: [name] for name in known}
    (spec,) = inputs.values()
    for name in known:
        _check(found[name], spec, ())
    return {spec.name: known}


def _check(member: Member, spec: Input, shape: Sequence[int]) -> None:
    if member.row_shape != tuple(shape):
        expected = f"rows of shape {list(shape)}" if shape else "a number a row"
        raise ValueError(f"{member.shown}: {expected} expected, got {list(member.row_shape)}")
    if spec.dtype == "int64" and member.dtype.kind == "f":
        raise ValueError(f"{member.shown}: integers expected, got {member.dtype}")


def _joined(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return columns[0] if len(columns) == 1 else np.stack(columns, 1)

