"""What lies in the folder of models, and what of it is to be taken up.

A folder that is being written to never looks the same twice, so a change counts once two looks in a row saw the same.
Looks, not the kernel's notices of changes: those do not come from volumes that another machine writes to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service.repository.folder import MANIFEST, FileMark, Fingerprint, fingerprint, mark_of

RULES = "serving.toml"
Key = tuple[str, str]  # name and version
_VERSION = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class NameSeen:
    """rules: of `serving.toml`; None where there is none. versions: by number, lowest first; None for a folder that
    changed under the look or could not be looked at."""

    rules: FileMark | None
    versions: Mapping[str, Fingerprint | None]


Scan = Mapping[str, NameSeen | None]  # by name, sorted; None for a folder that could not be looked at


class Changes(NamedTuple):
    """rules: names whose `serving.toml` is to be read again, before anything of theirs is loaded. load: versions,
    highest first. drop: versions that are gone."""

    rules: list[str]
    load: list[Key]
    drop: list[Key]


def is_version(name: str) -> bool:
    """A version is a whole number."""
    return _VERSION.fullmatch(name) is not None


def by_number(version: str) -> tuple[int, str]:
    return int(version), version


def scan(root: Path) -> Scan:
    """Looks at every version's folder; nothing is read. Names that begin with a dot are nobody's model. OSError where
    the root cannot be looked at."""
    names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith(".") and entry.is_dir())
    return {name: _seen(root / name) for name in names}


def _seen(folder: Path) -> NameSeen | None:
    try:
        versions = [entry.name for entry in os.scandir(folder) if is_version(entry.name) and entry.is_dir()]
        rules = mark_of(folder, RULES)
    except OSError:
        return None
    return NameSeen(rules, {v: _fingerprint(folder / v) for v in sorted(versions, key=by_number)})


def _fingerprint(folder: Path) -> Fingerprint | None:
    try:
        return fingerprint(folder)
    except OSError:
        return None


def is_whole(seen: Fingerprint | None) -> bool:
    """Whether there is a manifest: a folder without one is still being made."""
    return seen is not None and any(mark.path == MANIFEST for mark in seen)


def changes(
    before: Scan, now: Scan, taken: Mapping[Key, Fingerprint | None], rules: Mapping[str, FileMark | None],
    ready: Collection[Key],
) -> Changes:
    """What two looks in a row say is to be done.

    Args: taken: by version, the fingerprint of what was loaded or refused last; None to try again. rules: the like of
          `serving.toml`, by name. ready: versions that answer.
    A name's versions wait while its `serving.toml` is not still. A model whose folder is gone is dropped; a version
    whose folder is gone only if another one on disk is ready: an empty folder is more likely about to be filled. Where
    no version at all is left, a volume went away, and nothing is dropped.
    """
    found = Changes([], [], [])
    if not any(seen is None or seen.versions for seen in now.values()):
        return found
    for name, seen in now.items():
        earlier = before.get(name)
        if seen is None or earlier is None or earlier.rules != seen.rules:
            continue
        if rules.get(name) != seen.rules:
            found.rules.append(name)
        found.load.extend(
            (name, version) for version, mark in reversed(list(seen.versions.items()))
            if is_whole(mark) and mark == earlier.versions.get(version)
            and ((name, version) not in taken or taken[name, version] != mark)
        )
    found.drop.extend(key for key in taken if _is_gone(key, before, now, ready))
    return found


def _is_gone(key: Key, before: Scan, now: Scan, ready: Collection[Key]) -> bool:
    name, version = key
    if name not in now:
        return name not in before
    seen, earlier = now[name], before.get(name)
    if seen is None or earlier is None or version in seen.versions or version in earlier.versions:
        return False
    return any((name, other) in ready for other in seen.versions)
