"""Rows as text: .csv and .jsonl, a line at a time."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import orjson

from service.api.decode import is_plain
from service.errors import cut, nearest
from service.files.parts import Rows, TruthAt

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_LONGEST_BYTES = 64 << 20  # of a line: a file without line ends must not be taken into memory whole


class Lines(Iterator[str]):
    """Lines of text of a binary file. number: of the last one, from 1. ValueError names the line."""

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self._file, self._read, self._hash = file, 0, hashlib.sha256()
        self._length = _length(file)

    def __next__(self) -> str:
        line = self._file.readline(_LONGEST_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > _LONGEST_BYTES:
            raise ValueError(f"line {self.number}: at most {_LONGEST_BYTES} bytes expected, got more")
        self._read += len(line)
        self._hash.update(line)
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            wrong = e.object[e.start : e.start + 1]
            raise ValueError(f"line {self.number}: text in UTF-8 expected, got {wrong!r}") from e

    def share(self) -> float | None:
        return min(1.0, self._read / self._length) if self._length else None

    def digest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()


def _length(file: BinaryIO) -> int | None:
    try:
        status = os.fstat(file.fileno())
    except OSError:  # not a file of the system
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


class Csv:
    """A header that is not all numbers names the features; without one, rows are lists of numbers. The cells of one
    column, of the truth, may be text."""

    def __init__(self, file: BinaryIO, truth: TruthAt | None = None) -> None:
        self._truth = truth
        self._lines = Lines(file)
        self._reader = csv.reader(_each_end(self._lines))
        self._records = self._found()
        self._header: Sequence[str] | None = None

    def read(self, count: int) -> Rows:
        rows, lines = [], []
        for cells in self._records:
            rows.append(self._row(cells))
            lines.append(self._reader.line_num)
            if len(rows) == count:
                break
        return Rows(rows, True, lines)

    def skip(self, count: int) -> int:
        return sum(1 for _ in zip(range(count), self._records, strict=False))

    def share(self) -> float | None:
        return self._lines.share()

    def digest(self) -> str:
        return self._lines.digest()

    def close(self) -> None:
        self._lines.close()

    def _found(self) -> Iterator[list[str]]:
        """The cells of each row; the header is none."""
        first = True
        for line in self._reader:
            if not line:
                continue
            cells = [cell.strip() for cell in line]
            if first and not all(NUMBER.fullmatch(cell) or _NOT_FINITE.fullmatch(cell) for cell in cells):
                self._header = cells
                if self._truth is not None and self._truth.needed and self._truth.name not in cells:
                    raise ValueError(f"line {self._reader.line_num}: a column {self._truth.name!r} with the truth "
                                     f"expected{nearest(self._truth.name, cells)}; --truth says what it is called")
                twice = [cell for cell in cells if cells.count(cell) > 1]
                if twice:
                    raise ValueError(f"line {self._reader.line_num}: two columns are called {cut(twice[0])!r}")
            else:
                yield cells
            first = False

    def _row(self, cells: Sequence[str]) -> list[float | int | str] | dict[str, float | int | str]:
        header = self._header
        if header is None:
            return [self._number(cell, place) for place, cell in enumerate(cells)]
        if len(cells) != len(header):
            raise ValueError(f"line {self._reader.line_num}: {len(header)} values expected, got {len(cells)}")
        return {name: self._number(cell, place) for place, (name, cell) in enumerate(zip(header, cells, strict=True))}

    def _number(self, cell: str, place: int) -> float | int | str:
        if self._header is not None and self._truth is not None and self._header[place] == self._truth.name:
            return cell
        if _INTEGER.fullmatch(cell):
            return int(cell)
        if NUMBER.fullmatch(cell):
            return float(cell)
        column = place + 1 if self._header is None else repr(cut(self._header[place]))
        expected = "a finite number" if _NOT_FINITE.fullmatch(cell) else "a number"
        raise ValueError(f"line {self._reader.line_num}, column {column}: {expected} expected, got {cut(cell)!r}")


def _each_end(lines: Iterator[str]) -> Iterator[str]:
    """Lines that end in a carriage return too, as some spreadsheets write them."""
    for line in lines:
        if "\r" in line[:-2]:
            yield from io.StringIO(line, newline="")
        else:
            yield line


class JsonLines:
    """A row a line, as a request would carry it. Lines with nothing in them are none."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = Lines(file)

    def read(self, count: int) -> Rows:
        rows, lines, plain = [], [], True
        for line in self._found():
            text = line.encode()
            try:
                row = orjson.loads(text)
            except orjson.JSONDecodeError as e:
                raise ValueError(f"line {self._lines.number} is not JSON: {e}") from e
            rows.append(row)
            plain = plain and is_plain(text, len(row) if isinstance(row, dict) else 0)
            lines.append(self._lines.number)
            if len(rows) == count:
                break
        return Rows(rows, plain, lines)

    def skip(self, count: int) -> int:
        return sum(1 for _ in zip(range(count), self._found(), strict=False))

    def share(self) -> float | None:
        return self._lines.share()

    def digest(self) -> str:
        return self._lines.digest()

    def close(self) -> None:
        self._lines.close()

    def _found(self) -> Iterator[str]:
        return (line for line in self._lines if line.strip())
