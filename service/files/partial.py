"""An output under way: `FILE.part`, and `FILE.journal`, which says what it was begun with and how far it is.

The journal has a line of JSON for each fact: first what the run was begun with, then, once a part of the output is on
disk, up to where it is whole. Whatever ends the process, and wherever, what a later one finds behind that is cut off.
The name itself appears once all is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from service.errors import OutputRefused

try:
    import fcntl
except ImportError:  # where there is none, nobody sees that two runs write one file
    fcntl = None  # type: ignore[assignment]


_FIRST = b'{"begun_with":'


@dataclass(frozen=True)
class Mark:
    """Up to where the output is whole. rows: that are answered. bytes: that they take, with the head. read: the digest
    of the input up to there."""

    rows: int
    bytes: int
    read: str


class Partial:
    """One process at a time has it. OutputRefused where the disk does not take something."""

    def __init__(self, path: Path, journal: BinaryIO, part: BinaryIO) -> None:
        self.path = path
        self.begun_with: Mapping[str, Any] | None = None
        """As it was given to `begin`; None where nothing has begun yet."""
        self.marks: list[Mark] = []
        self._journal, self._part = journal, part

    @property
    def part(self) -> Path:
        return _beside(self.path, ".part")

    @property
    def rows(self) -> int:
        """That are kept."""
        return self.marks[-1].rows if self.marks else 0

    def begin(self, begun_with: Mapping[str, Any], head: bytes, read: str) -> None:
        """read: digest of an input of which nothing was read."""
        with _saying(self.part):
            self._journal.truncate(0)
            self._part.truncate(0)
            self._note({"begun_with": begun_with})
            self.begun_with, self.marks = begun_with, []
        self.append(0, head, read)

    def append(self, rows: int, content: bytes, read: str) -> None:
        """More of the output: so many rows' answers. read: digest of the input up to there."""
        with _saying(self.part):
            self._part.seek(self.marks[-1].bytes if self.marks else 0)
            _write(self._part, content)
            self._mark(Mark(self.rows + rows, self._part.tell(), read))

    def go_back(self, rows: int) -> None:
        """To the last mark of at most so many rows; what is behind it goes."""
        with _saying(self.part):
            whole = len(self.marks)
            while self.marks[-1].rows > rows:
                self.marks.pop()
            self._part.truncate(self.marks[-1].bytes)
            if len(self.marks) < whole:
                self._note(asdict(self.marks[-1]))

    def last(self) -> bytes:
        """What is between the last two marks."""
        before, end = self.marks[-2].bytes, self.marks[-1].bytes
        with _saying(self.part):
            self._part.seek(before)
            return self._part.read(end - before)

    def finish(self, head: bytes) -> None:
        """Gives it its name. head: in place of the one it was begun with, of the same length."""
        with _saying(self.path):
            self._part.truncate(self.marks[-1].bytes)
            self._part.seek(0)
            _write(self._part, head)
            self.part.replace(self.path)
            _folder_to_disk(self.path.parent)
            _beside(self.path, ".journal").unlink()

    def _mark(self, mark: Mark) -> None:
        self._note(asdict(mark))
        self.marks.append(mark)

    def _note(self, fact: Mapping[str, Any]) -> None:
        self._journal.seek(0, os.SEEK_END)
        _write(self._journal, orjson.dumps(fact) + b"\n")

    def read_journal(self) -> None:
        """What an earlier process has left, as far as it is whole."""
        with _saying(self.part):
            length, whole = self._part.seek(0, os.SEEK_END), 0
            self._journal.seek(0)
            for line in self._journal.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                self._learn(orjson.loads(line), length)
                whole += len(line)
            self._journal.truncate(whole)
        if not self.rows:
            self.begun_with, self.marks = None, []

    def _learn(self, fact: Mapping[str, Any], length: int) -> None:
        """length: of the output as it is found. A mark of fewer rows than the one before it went back."""
        if "begun_with" in fact:
            self.begun_with = fact["begun_with"]
        elif fact["bytes"] <= length:
            self.marks = [mark for mark in self.marks if mark.rows < fact["rows"]] + [Mark(**fact)]


@contextmanager
def opened(path: Path, overwrite: bool, restart: bool) -> Iterator[Partial]:
    """The unfinished output of `path`, as an earlier run left it, or a new one; nothing is left of one that has no row
    in the end. overwrite: a finished output may be replaced. restart: what is unfinished is thrown away. OutputRefused
    where there is a finished output, or another run at work."""
    if path.exists() and not overwrite:
        raise OutputRefused(f"{path}: there is such a file; --overwrite replaces it")
    journal_path, part_path = _beside(path, ".journal"), _beside(path, ".part")
    with _saying(path):
        if part_path.exists() and not journal_path.exists() and not restart:
            raise OutputRefused(f"{part_path}: nothing says what it was begun with ({journal_path} is gone); "
                                "--restart begins anew")
        journal = _opened(journal_path)
    with journal:
        if not _locked(journal, journal_path):
            raise OutputRefused(f"{path}: another run is writing it")
        if not restart and not _is_journal(journal):
            raise OutputRefused(f"{journal_path}: not a journal of this command; move it away")
        with _saying(path):
            part = _opened(part_path)
        with part:
            partial = Partial(path, journal, part)
            if not restart:
                partial.read_journal()
            try:
                yield partial
            finally:
                if not partial.rows and (partial.begun_with is not None or not part_path.stat().st_size):
                    part_path.unlink(missing_ok=True)
                    journal_path.unlink(missing_ok=True)


def _opened(path: Path) -> BinaryIO:
    """For reading and writing, made if it is not there, unbuffered: what was written is the system's at once."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", 0)


def _locked(journal: BinaryIO, path: Path) -> bool:
    """Whether this process alone has it, until it is closed."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return path.exists() and os.path.samestat(os.fstat(journal.fileno()), path.stat())


def _is_journal(file: BinaryIO) -> bool:
    """Whether it is one, as far as it goes: the process that made it may have ended at once."""
    begins = file.read(len(_FIRST))
    return begins == _FIRST[: len(begins)]


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _write(file: BinaryIO, content: bytes) -> None:
    """All of it, to the disk."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _folder_to_disk(folder: Path) -> None:
    """Its names."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise OutputRefused(f"{path}: cannot be written: {e.strerror or e}") from e
