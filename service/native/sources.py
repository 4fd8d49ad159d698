"""Which sources the library is built of: the build stores their digest in it, and whoever loads it compares."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest(folder: Path) -> str | None:
    """sha256 over names and bytes of the sources in a folder; None where there are none."""
    sources = sorted([*folder.glob("*.c"), *folder.glob("*.h")])
    found = hashlib.sha256()
    for source in sources:
        found.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return found.hexdigest() if sources else None
