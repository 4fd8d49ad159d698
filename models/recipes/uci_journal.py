"""What a long run has finished, kept in a file, so that one that was killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class BadJournal(Exception):
    """The file is no journal, or that of another run."""


class Journal:
    """Values by key. With a file, each `keep` is on the disk when it returns; the file is whole at any time.

    Args: file: None keeps nothing. of: what the results depend on; a file written for anything else is refused.
    """

    def __init__(self, file: Path | None, of: Mapping[str, Any]) -> None:
        self._file, self._of = file, dict(of)
        self._kept: dict[str, Any] = {}
        if file is not None and file.exists():
            self._kept = self._read(file)

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __getitem__(self, key: str) -> Any:
        return self._kept[key]

    def keep(self, found: Mapping[str, Any]) -> None:
        self._kept.update(found)
        if self._file is not None:
            _replace(self._file, json.dumps({"of": self._of, "finished": self._kept}, indent=1))

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            of, finished = dict(content["of"]), dict(content["finished"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise BadJournal(f"{file} is no journal of this program: {type(e).__name__}: {e}") from e
        for name in sorted({*of, *self._of}):
            if of.get(name) != self._of.get(name):
                raise BadJournal(
                    f"{file} was written for {name} {of.get(name)!r}, and this run is for {self._of.get(name)!r}; "
                    "name another file, or remove it"
                )
        return finished


def _replace(file: Path, text: str) -> None:
    """Either the old content or the new, whenever it is interrupted."""
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    with new.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
