"""Rows from files, for the command line: .npy, .npz, .csv, .jsonl, or - for JSON lines on standard input."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.errors import InvalidInput


def read_rows(file: str) -> list[Any]:
    """Rows as a request would carry them; they are checked against the model by whoever uses them. InvalidInput names
    the file and the line."""
    if file == "-":
        return _json_lines("standard input", sys.stdin.read())
    path = Path(file)
    readers: dict[str, Callable[[Path], list[Any]]] = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".jsonl": _jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidInput(f"{file}: {', '.join(readers)} or - expected, got {path.suffix or 'no suffix'!r}")
    try:
        rows = reader(path)
    except OSError as e:
        raise InvalidInput(f"{file}: cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise InvalidInput(f"{file}: {e}") from e
    if not rows:
        raise InvalidInput(f"{file}: no rows")
    return rows


def _npy(path: Path) -> list[Any]:
    rows: list[Any] = np.load(path, allow_pickle=False).tolist()
    return rows


def _npz(path: Path) -> list[Any]:
    """One array an input, by name, rows first; a lone array is the one input whatever its name."""
    with np.load(path, allow_pickle=False) as archive:
        columns = {name: archive[name] for name in archive.files}
    if len(columns) == 1:
        rows: list[Any] = next(iter(columns.values())).tolist()
        return rows
    if len({len(c) for c in columns.values()}) != 1:
        raise ValueError(f"arrays of one length expected, got {({n: len(c) for n, c in columns.items()})}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def _csv(path: Path) -> list[Any]:
    """A header that is not all numbers names the features; without one, rows are lists of numbers."""
    with path.open(newline="") as file:
        lines = [line for line in csv.reader(file) if line]
    if not lines:
        return []
    header = lines[0] if any(_as_number(cell) is None for cell in lines[0]) else None
    rows: list[Any] = []
    for number, line in enumerate(lines[1:] if header else lines, start=2 if header else 1):
        values = [_as_number(cell) for cell in line]
        if None in values:
            raise ValueError(f"line {number}: a number expected, got {line[values.index(None)]!r}")
        if header is not None and len(values) != len(header):
            raise ValueError(f"line {number}: {len(header)} values expected, got {len(values)}")
        rows.append(values if header is None else dict(zip(header, values, strict=True)))
    return rows


def _as_number(cell: str) -> float | int | None:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return None


def _jsonl(path: Path) -> list[Any]:
    return _json_lines(path.name, path.read_text())


def _json_lines(name: str, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(orjson.loads(line))
            except orjson.JSONDecodeError as e:
                raise InvalidInput(f"{name}: line {number} is not JSON: {e}") from e
    return rows
