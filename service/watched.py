"""Files that are read again when they change, without a restart. What cannot be read changes nothing, and is said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from service.errors import ErrorbarError

log = logging.getLogger("errorbar")
T = TypeVar("T")


class Watched(Generic[T]):
    """`value` is what `read` made of the files when they were last right. The first reading raises what is wrong."""

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._what, self._paths, self._read = what, paths, read
        self._seen = self._looks()
        self.value = read()

    def refresh(self, forced: bool = False) -> bool:
        """Reads the files again if they look changed, or are to be read anyway; says whether `value` is another."""
        looks = self._looks()
        if looks == self._seen and not forced:
            return False
        self._seen = looks
        try:
            self.value = self._read()
        except ErrorbarError as e:
            log.error("%s: not read again, what was read before stays in force: %s", self._what, e.detail)
            return False
        log.info("%s: read again", self._what)
        return True

    def _looks(self) -> list[tuple[int, int, int] | None]:
        return [_look(path) for path in self._paths]


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
