"""TOML read strictly: what is missing, of another kind or not known is refused by its path."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from service.errors import Fault, InvalidManifest, nearest

T = TypeVar("T")


def read_document(content: bytes, where: str) -> Mapping[str, Any]:
    """The document in a file's bytes. InvalidManifest, with `where` it came from."""
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InvalidManifest(f"{where}: not TOML: {e}") from e


class Table:
    """A TOML table that knows which of its keys were read; `finish` refuses the others. file: what it is of, for
    people."""

    def __init__(self, values: Mapping[str, Any], path: str = "", file: str = "the manifest") -> None:
        self._values, self._path, self._file = values, path, file
        self._read: list[str] = []

    def has(self, key: str) -> bool:
        self._read.append(key)
        return key in self._values

    def keys(self) -> list[str]:
        """For tables whose keys are names of their own: all count as read."""
        self._read.extend(self._values)
        return list(self._values)

    def is_list(self, key: str) -> bool:
        return isinstance(self._values.get(key), list)

    def refuse(self, key: str, message: str) -> NoReturn:
        path = f"{self._path}.{key}".lstrip(".")
        raise InvalidManifest(f"{path}: {message}", faults=[Fault(path, message)])

    def finish(self) -> None:
        for key in self._values:
            if key not in self._read:
                self.refuse(key, f"not a key of {self._file}{nearest(key, self._read)}")

    def _get(self, key: str, expected: str, fits: Callable[[Any], bool], convert: Callable[[Any], T]) -> T:
        if not self.has(key):
            self.refuse(key, f"missing; {expected} expected")
        value = self._values[key]
        if not fits(value):
            self.refuse(key, f"{expected} expected, got {value!r}")
        return convert(value)

    def text(self, key: str) -> str:
        return self._get(key, "a string", lambda v: isinstance(v, str), str)

    def boolean(self, key: str) -> bool:
        return self._get(key, "true or false", lambda v: isinstance(v, bool), bool)

    def integer(self, key: str) -> int:
        return self._get(key, "an integer", is_integer, int)

    def number(self, key: str) -> float:
        return self._get(key, "a number", is_number, float)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self._get(key, " or ".join(map(repr, choices)), lambda v: isinstance(v, str), str)
        if value not in choices:
            self.refuse(key, f"{' or '.join(map(repr, choices))} expected, got {value!r}{nearest(value, choices)}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        return self._list(key, "a list of strings", lambda v: isinstance(v, str))

    def integers(self, key: str) -> tuple[int, ...]:
        return self._list(key, "a list of integers", is_integer)

    def numbers(self, key: str) -> tuple[float, ...]:
        return self._list(key, "a list of numbers", is_number)

    def values(self, key: str) -> tuple[Any, ...]:
        return self._list(key, "a list", lambda v: True)

    def _list(self, key: str, expected: str, fits: Callable[[Any], bool]) -> tuple[Any, ...]:
        return self._get(key, expected, lambda v: isinstance(v, list) and all(map(fits, v)), tuple)

    def mapping(self, key: str) -> Mapping[str, Any]:
        return self._get(key, "a table", lambda v: isinstance(v, dict), dict)

    def table(self, key: str) -> Table:
        return Table(self.mapping(key), f"{self._path}.{key}".lstrip("."), self._file)

    def tables(self, key: str) -> list[Table]:
        tables = self._list(key, "an array of tables", lambda v: isinstance(v, dict))
        return [Table(t, f"{self._path}.{key}[{i}]".lstrip("."), self._file) for i, t in enumerate(tables)]


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
