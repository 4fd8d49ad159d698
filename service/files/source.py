"""A file of rows, whatever its kind: .npy, .npz, .csv, .jsonl, or - for JSON lines on standard input."""

from __future__ import annotations

import csv
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from service.api.decode import decode_arrays
from service.api.rows import decode_rows
from service.errors import Fault, InvalidInput, reason
from service.files.arrays import npy_file, npz_file
from service.files.lines import Csv, JsonLines
from service.files.parts import Part, Reader, Rows, TruthAt
from service.repository import Manifest, ReadyModel

_KINDS: dict[str, Callable[[BinaryIO, Manifest, TruthAt | None], Reader]] = {
    ".npy": npy_file, ".npz": npz_file,
    ".csv": lambda file, manifest, truth: Csv(file, truth), ".jsonl": lambda file, manifest, truth: JsonLines(file),
}
_BROKEN = (EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError)
_PATH = re.compile(r"instances\[(\d+)\](?:\.(.+)|\[(\d+)\])?")


class Source:
    """The rows of a file, read as they are needed. InvalidInput names the file, and the line or row and the column."""

    def __init__(self, file: str, model: ReadyModel, truth: TruthAt | None = None) -> None:
        """model: that the rows are for. truth: where each row's truth stands beside its inputs. Then, of a model whose
        features have no names, the other columns of a table are its numbers in their order."""
        self.name = "standard input" if file == "-" else file
        self.at = 0
        """Rows that have been read."""
        self._part: Part = Rows([], True, [])
        self._first = 0  # row of the part
        self._model, self._truth, self._suffix = model, truth, Path(file).suffix.lower()
        self.truths: Sequence[Any] = []
        """Of the rows that were read last, as they stand in the file; where they were asked for."""
        if file != "-" and self._suffix not in _KINDS:
            raise InvalidInput(f"{file}: {', '.join(_KINDS)} or - expected, got {self._suffix or 'no suffix'!r}")
        with self._saying():
            opened = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115  closed by `close`
            self._reader: Reader = JsonLines(opened) if file == "-" else _KINDS[self._suffix](
                opened, model.manifest, truth)

    def read(self, count: int) -> dict[str, Tensor]:
        """The next rows, so many or as many as are left: a tensor for each input, (rows, *shape). None left: {}."""
        with self._saying():
            self._part = part = self._reader.read(count)
        self._first, self.at = self.at, self.at + len(part)
        if not self.at:
            raise InvalidInput(f"{self.name}: no rows")
        if self._truth is not None:
            self._part = part = self._without_truths(part, self._truth)
        return self._decoded(part) if len(part) else {}

    def skip(self, count: int) -> int:
        """Passes over the next rows; how many there were."""
        with self._saying():
            found = self._reader.skip(count)
        self.at += found
        return found

    def share(self) -> float | None:
        """Of the file, that has been read, 0 to 1; None where its length is not known."""
        return self._reader.share()

    def digest(self) -> str:
        """Of all that has been read: after as many rows, the same for files that are the same as far as these rows."""
        return self._reader.digest()

    def close(self) -> None:
        self._reader.close()

    def place(self, row: int) -> str:
        """Of a row that was read last, as somebody finds it who opens the file."""
        part = self._part
        return f"line {part.lines[row - self._first]}" if isinstance(part, Rows) else f"row {row}"

    def named(self, row: int) -> str:
        """The file, and that place in it."""
        return f"{self.name}: {self.place(row)}"

    def _without_truths(self, part: Part, truth: TruthAt) -> Part:
        """What is left when they are taken."""
        if isinstance(part, Rows):
            for row, line in zip(part.rows, part.lines, strict=True):
                if truth.needed and (not isinstance(row, dict) or truth.name not in row):
                    where = "a column" if self._suffix == ".csv" else "a key"
                    raise InvalidInput(f"{self.name}: line {line}: {where} {truth.name!r} with the truth expected")
            self.truths = [row.pop(truth.name, None) if isinstance(row, dict) else None for row in part.rows]
            if self._suffix == ".csv" and self._model.manifest.features is None:
                return replace(part, rows=[list(r.values()) if isinstance(r, dict) else r for r in part.rows])
        elif part.truth is not None:
            self.truths = part.truth.tolist()
        return part

    def _decoded(self, part: Part) -> dict[str, Tensor]:
        try:
            if isinstance(part, Rows):
                return decode_rows(list(part.rows), self._model, part.plain, self._first)
            return decode_arrays(part.by_input, self._model.manifest, self._first)
        except InvalidInput as e:
            raise InvalidInput(f"{self.name}: {self._prefix(e.faults)}{e.detail}", faults=e.faults) from e

    def _prefix(self, faults: tuple[Fault, ...]) -> str:
        """Where the first fault is, as somebody finds it who opens the file; nothing where its path says enough."""
        found = _PATH.fullmatch(faults[0].path) if faults else None
        if found is None or not isinstance(self._part, Rows):
            return ""
        line, name, place = self.place(int(found[1])), found[2], found[3]
        if self._suffix != ".csv" or (name is None and place is None):
            return f"{line}: "
        return f"{line}, column {int(place) + 1 if name is None else repr(name)}: "

    @contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise InvalidInput(f"{self.name}: cannot be read: {e.strerror or e}") from e
        except _BROKEN as e:
            raise InvalidInput(f"{self.name}: not a whole {self._suffix} file: {reason(e)}") from e
        except (ValueError, csv.Error) as e:
            raise InvalidInput(f"{self.name}: {e}") from e
