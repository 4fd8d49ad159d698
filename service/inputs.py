"""Rows from files, for the command line: .npy, .npz, .csv, .jsonl, or - for JSON lines on standard input."""

from __future__ import annotations

import csv
import re
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.errors import InvalidInput, cut, reason

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_BROKEN_ARRAYS = (EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError)


def read_rows(file: str) -> list[Any]:
    """Rows as a request would carry them; they are checked against the model by whoever uses them. InvalidInput names
    the file and the line."""
    path = Path(file)
    readers: dict[str, Callable[[Path], list[Any]]] = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".jsonl": _jsonl}
    reader = readers.get(path.suffix.lower())
    if file != "-" and reader is None:
        raise InvalidInput(f"{file}: {', '.join(readers)} or - expected, got {path.suffix or 'no suffix'!r}")
    shown = "standard input" if file == "-" else file
    try:
        rows = reader(path) if reader is not None else _json_lines(sys.stdin.buffer.read())
    except OSError as e:
        raise InvalidInput(f"{shown}: cannot be read: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(f"{shown}: text in UTF-8 expected, got {e.object[e.start : e.start + 1]!r} "
                           f"at byte {e.start}") from e
    except (ValueError, csv.Error) as e:
        raise InvalidInput(f"{shown}: {e}") from e
    except _BROKEN_ARRAYS as e:
        raise InvalidInput(f"{shown}: not a whole {path.suffix} file: {reason(e)}") from e
    if not rows:
        raise InvalidInput(f"{shown}: no rows")
    return rows


def _npy(path: Path) -> list[Any]:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("one array expected, got an archive of them; call it .npz")
    return _rows_of(array, "the array")


def _npz(path: Path) -> list[Any]:
    """One array an input, by name, rows first; a lone array is the one input whatever its name."""
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError("an archive of arrays expected, got one array; call it .npy")
    with archive:
        columns = {name: _rows_of(archive[name], f"array {name!r}") for name in archive.files}
    if not columns:
        return []
    if len(columns) == 1:
        return next(iter(columns.values()))
    if len({len(c) for c in columns.values()}) != 1:
        raise ValueError(f"arrays of one length expected, got {({n: len(c) for n, c in columns.items()})}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows_of(array: Any, name: str) -> list[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: numbers expected, got {getattr(array, 'dtype', type(array).__name__)}")
    if array.ndim == 0:
        raise ValueError(f"{name}: rows first expected, got a single number")
    rows: list[Any] = (array.astype(np.float64) if array.dtype.kind == "f" else array).tolist()
    return rows


def _csv(path: Path) -> list[Any]:
    """A header that is not all numbers names the features; without one, rows are lists of numbers."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        numbered = [(lines.line_num, [cell.strip() for cell in line]) for line in lines if line]
    if not numbered:
        return []
    first = numbered[0][1]
    header = None if all(_NUMBER.fullmatch(cell) or _NOT_FINITE.fullmatch(cell) for cell in first) else first
    twice = [cell for cell in header or () if first.count(cell) > 1]
    if twice:
        raise ValueError(f"line {numbered[0][0]}: two columns are called {cut(twice[0])!r}")
    rows: list[Any] = []
    for number, cells in numbered[1:] if header else numbered:
        values = [_number(cell, number) for cell in cells]
        if header is not None and len(values) != len(header):
            raise ValueError(f"line {number}: {len(header)} values expected, got {len(values)}")
        rows.append(values if header is None else dict(zip(header, values, strict=True)))
    return rows


def _number(cell: str, line: int) -> float | int:
    if _NUMBER.fullmatch(cell):
        return int(cell) if _INTEGER.fullmatch(cell) else float(cell)
    expected = "a finite number" if _NOT_FINITE.fullmatch(cell) else "a number"
    raise ValueError(f"line {line}: {expected} expected, got {cut(cell)!r}")


def _jsonl(path: Path) -> list[Any]:
    return _json_lines(path.read_bytes())


def _json_lines(text: bytes) -> list[Any]:
    rows = []
    for number, line in enumerate(text.decode("utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(orjson.loads(line))
            except orjson.JSONDecodeError as e:
                raise ValueError(f"line {number} is not JSON: {e}") from e
    return rows
