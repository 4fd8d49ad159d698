"""What a file of answers looks like: a head and, for each row, its answer. What there is grows at its end only."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.lib import format as npy

from service.api.encode import encode_json
from service.errors import OutputRefused
from service.files.columns import Column

Answers = Sequence[Mapping[str, Any]]


class Format(Protocol):
    def head(self, rows: int) -> bytes:
        """What stands first in a file of so many rows; of the same length for any number."""

    def rows(self, answers: Answers) -> bytes:
        """answers: as in the contract's `predictions`."""


class JsonLines:
    """A line a row, with all that the server's answer has of it."""

    def __init__(self, columns: Sequence[Column]) -> None: ...

    def head(self, rows: int) -> bytes:
        return b""

    def rows(self, answers: Answers) -> bytes:
        return b"".join(encode_json(row) + b"\n" for row in answers)


class Csv:
    """A line a row behind a header; a cell for each number, `mean[rose]` by label or `mean[0]` by place, and nothing in
    it for null; numbers as JSON has them. Names that are out of range share a cell."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def head(self, rows: int) -> bytes:
        return _csv_lines([[name for column in self._columns for name in _cell_names(column)]])

    def rows(self, answers: Answers) -> bytes:
        return _csv_lines([cell for column in self._columns for cell in _cells(column, row[column.name])]
                          for row in answers)


def _csv_lines(lines: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _cell_names(column: Column) -> list[str]:
    if not column.shape:
        return [column.name]
    axes: list[Sequence[Any]] = [column.of] if column.of else [range(size) for size in column.shape]
    return [column.name + "".join(f"[{place}]" for place in places) for places in product(*axes)]


def _cells(column: Column, value: Any) -> list[str]:
    if column.kind == "text":
        return [value or ""]
    if column.kind == "names":
        return [", ".join(value)]
    if value is None:
        return [""] * len(_cell_names(column))
    if isinstance(value, np.ndarray):
        text = orjson.dumps(value.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode()
        return ["" if cell == "null" else cell for cell in text.split(",")]
    return [orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()]


class Records:
    """An .npy of one record a row, whose fields have the names in JSON: `np.load(file)["mean"]` is (rows, classes).
    Numbers are float64, NaN for null; text is "" for null; `out_of_range` is a truth value for each feature."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._dtype = np.dtype([(column.name, *_field(column)) for column in columns])

    def head(self, rows: int) -> bytes:
        file = io.BytesIO()
        npy.write_array_header_1_0(file, {
            "descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (rows,)})
        return file.getvalue()

    def rows(self, answers: Answers) -> bytes:
        found = np.zeros(len(answers), self._dtype)
        for column in self._columns:
            values = [row[column.name] for row in answers]
            if column.kind == "text":
                values = [value or "" for value in values]
            elif column.kind == "names":
                values = [[name in value for name in column.of] for value in values]
            elif column.kind == "number":
                values = [np.full(column.shape, np.nan) if value is None else value for value in values]
            found[column.name] = values
        return found.tobytes()


def _field(column: Column) -> tuple[Any, ...]:
    if column.kind == "text":
        return (f"<U{max(map(len, column.of))}",)
    if column.kind == "names":
        return ("?", (len(column.of),))
    return ({"number": "<f8", "integer": "<i8", "truth": "?"}[column.kind], column.shape)


_FORMATS: Mapping[str, Callable[[Sequence[Column]], Format]] = {
    ".jsonl": JsonLines, ".csv": Csv, ".npy": Records}


def format_of(path: Path) -> Callable[[Sequence[Column]], Format]:
    """By suffix. OutputRefused where answers cannot be written so."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        raise OutputRefused(f"{path}: an .npz has one array behind the other and cannot grow row by row; "
                            ".npy holds the same arrays, as fields of a record")
    if suffix not in _FORMATS:
        raise OutputRefused(f"{path}: {', '.join(_FORMATS)} expected, got {suffix or 'no suffix'!r}")
    return _FORMATS[suffix]
