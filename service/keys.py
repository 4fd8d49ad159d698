"""API keys: what each may do, and the file that has their hashes.

    [[keys]]
    name = "ward-3"
    sha256 = "9f86…"            # of the key; the key itself is nowhere
    models = ["digits"]         # the only models that it may ask; without this line, every model
    rate = "100/s"              # requests it may make; without this line, any number
    priority = 7                # the highest priority of its requests; without this line, any
    admin = true                # may read metrics, and load and unload models
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from service.errors import Forbidden, InvalidSettings, nearest

_PREFIX = "eb_"  # lets scanners of repositories and logs see what was leaked
_NOBODY = (bytes(32), None)
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(r"(\d+(?:\.\d+)?)/(s|min|h)")
_LARGEST_FILE = 16 << 20
_TABLE = re.compile(r"^(?=\[\[keys\]\])", re.MULTILINE)


def per_second(rate: object) -> float:
    """Requests a second of "100/s", "600/min" or "5/h". ValueError for anything else."""
    found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    a_second = float(found[1]) / _SECONDS[found[2]] if found is not None else 0.0
    if not 0 < a_second < inf:
        raise ValueError('a number above 0 by time expected, as "100/s", "600/min" or "5/h"')
    return a_second


class Key(BaseModel):
    """What one key may do. `rate`: requests a second; None in `models`, `rate` and `priority` is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    models: frozenset[str] | None = Field(None, strict=False)  # TOML has lists
    rate: Annotated[float, BeforeValidator(per_second)] | None = None
    priority: int | None = Field(None, ge=0, le=9)
    admin: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Key:
        if self.admin and self.models is not None:
            raise ValueError("an admin key is for every model: leave models out")
        return self

    def may_ask(self, model: str) -> bool:
        return self.models is None or model in self.models

    def settled_priority(self, asked: int | None, default: int) -> int:
        """The priority of a request that asked for this one, or for none. Forbidden above the key's highest; the
        default is lowered to it without a word."""
        if self.priority is None:
            return default if asked is None else asked
        if asked is not None and asked > self.priority:
            raise Forbidden(f"priority: this key's requests have at most priority {self.priority}, got {asked}")
        return min(default, self.priority) if asked is None else asked



class Keys:
    """The keys there are. `find` takes a hash, a look-up and one comparison of constant time, whether or not the key
    is known: about a microsecond."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = {digest: (digest, key) for key in keys for digest in [bytes.fromhex(key.sha256)]}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return (key for _, key in self._keys.values())

    def find(self, given: bytes) -> Key | None:
        """The key that was given, if it is one."""
        digest = hashlib.sha256(given).digest()
        stored, key = self._keys.get(digest, _NOBODY)
        return key if hmac.compare_digest(stored, digest) else None


def new_secret() -> str:
    """A fresh key: 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys(path: Path) -> Keys:
    """The keys of a file. InvalidSettings, with the path of what is wrong in it."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InvalidSettings(f"{path}: larger than {_LARGEST_FILE} bytes, which is no file of keys")
        return parse_keys(path.read_text("utf-8"))
    except OSError as e:
        raise InvalidSettings(f"{path}: the file of keys cannot be read: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InvalidSettings(f"{path}: not TOML: {e}") from e
    except InvalidSettings as e:
        raise InvalidSettings(f"{path}: {e.detail}") from e


def parse_keys(text: str) -> Keys:
    """The keys of a file's text. TOMLDecodeError; InvalidSettings."""
    document = tomllib.loads(text)
    for name in document:
        if name != "keys":
            raise InvalidSettings(f"{name}: not a table of a file of keys{nearest(name, ['keys'])}")
    tables = document.get("keys", [])
    if not isinstance(tables, list):
        raise InvalidSettings("keys: [[keys]] tables expected")
    keys = [_key(table, f"keys[{i}]") for i, table in enumerate(tables)]
    for what in ("name", "sha256"):
        seen: set[str] = set()
        for i, key in enumerate(keys):
            if getattr(key, what) in seen:
                raise InvalidSettings(f"keys[{i}].{what}: another key has the same")
            seen.add(getattr(key, what))
    return Keys(keys)


def _key(table: object, path: str) -> Key:
    try:
        return Key.model_validate(table)
    except ValidationError as e:
        first = e.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        hint = nearest(name, Key.model_fields) if first["type"] == "extra_forbidden" else ""
        raise InvalidSettings(f"{path}{'.' if name else ''}{name}: {first['msg']}{hint}") from e


def with_key(text: str, name: str, sha256: str, models: Iterable[str] | None = None, rate: str | None = None,
             priority: int | None = None, admin: bool = False) -> str:
    """The text of a file with one more key, all else as it stands. InvalidSettings where the key or the file would be
    wrong."""
    # what JSON writes of strings and lists of them reads the same as TOML
    lines = ["[[keys]]", f"name = {json.dumps(name)}", f"sha256 = {json.dumps(sha256)}"]
    lines += [] if models is None else [f"models = {json.dumps(sorted(models))}"]
    lines += [] if rate is None else [f"rate = {json.dumps(rate)}"]
    lines += [] if priority is None else [f"priority = {priority}"]
    lines += ["admin = true"] * admin
    written = "".join([text, "" if text.endswith("\n") or not text else "\n", "\n" if text else "", *(
        f"{line}\n" for line in lines)])
    parse_keys(written)
    return written


def without_key(text: str, name: str) -> str:
    """The text of a file without that key, all else as it stands. InvalidSettings where there is no such key, or where
    it does not stand as `with_key` writes it."""
    known = [key.name for key in parse_keys(text)]
    if name not in known:
        raise InvalidSettings(f"no key {name!r}{nearest(name, known)}")
    first, *tables = _TABLE.split(text)
    kept = [table for table in tables if [key.name for key in parse_keys(table)] != [name]]
    written = "".join([first, *kept])
    if [key.name for key in parse_keys(written)] != [n for n in known if n != name]:
        raise InvalidSettings(f"key {name!r} cannot be told from the others: take it out by hand")
    return written
