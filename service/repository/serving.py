"""`<name>/serving.toml`: which version of a model answers whom. Written by the operator, read as strictly as manifests.

    version = "3"                # answers requests that name no version; by default the highest that is neither below

    [canary]                     # answers a share of them, chosen by their request id
    version = "4"
    share = 0.05

    [shadow]                     # gets a copy of them; its answers are compared and counted, never sent
    version = "5"
    share = 0.2
    tolerance = 0.01

    [digests]                    # what the folders must hold; one digest, or a list of those that are allowed
    3 = "sha256:…"
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import InvalidManifest
from service.repository.scan import is_version
from service.repository.tables import Table, read_document

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Canary:
    """share: of the requests that name no version, above 0 and at most 1."""

    version: str
    share: float


@dataclass(frozen=True)
class Shadow:
    """share: of the answers of the version that serves, above 0 and at most 1. tolerance: how far a row of a model
    without labels may be from the served one, of that row's largest value."""

    version: str
    share: float = 1.0
    tolerance: float = 0.01


@dataclass(frozen=True)
class Rules:
    """digests: by version, those that its folder may have; any where there is none."""

    version: str | None = None
    canary: Canary | None = None
    shadow: Shadow | None = None
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_rules(path: Path) -> Rules:
    """The rules of a name; the default ones where there is no file. InvalidManifest, with the path of the wrong key."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Rules()
    except OSError as e:
        raise InvalidManifest(f"{path}: cannot be read: {e.strerror}") from e
    document = read_document(content, str(path))
    try:
        return parse_rules(Table(document, file="serving.toml"))
    except InvalidManifest as e:
        raise InvalidManifest(f"{path}: {e.detail}", faults=e.faults) from e


def parse_rules(top: Table) -> Rules:
    rules = Rules(
        _version(top) if top.has("version") else None,
        _canary(top.table("canary")) if top.has("canary") else None,
        _shadow(top.table("shadow")) if top.has("shadow") else None,
        _digests(top.table("digests")) if top.has("digests") else {},
    )
    top.finish()
    named = [v for v in (rules.version, rules.canary and rules.canary.version, rules.shadow and rules.shadow.version)
             if v is not None]
    if len(set(named)) != len(named):
        top.refuse("version", "version, canary and shadow: three different versions expected")
    return rules


def _version(table: Table) -> str:
    version = table.text("version")
    if not is_version(version):
        table.refuse("version", f"a whole number in quotes expected, as the folder is called, got {version!r}")
    return version


def _share(table: Table) -> float:
    share = table.number("share")
    if not 0 < share <= 1:
        table.refuse("share", f"a number above 0 and at most 1 expected, got {share}")
    return share


def _canary(table: Table) -> Canary:
    found = Canary(_version(table), _share(table))
    table.finish()
    return found


def _shadow(table: Table) -> Shadow:
    default = Shadow("")
    tolerance = table.number("tolerance") if table.has("tolerance") else default.tolerance
    if not 0 <= tolerance < 1:
        table.refuse("tolerance", f"a number from 0 to below 1 expected, got {tolerance}")
    found = Shadow(_version(table), _share(table) if table.has("share") else default.share, tolerance)
    table.finish()
    return found


def _digests(table: Table) -> dict[str, tuple[str, ...]]:
    found = {}
    for version in table.keys():  # noqa: SIM118  not a dictionary
        if not is_version(version):
            table.refuse(version, "the number of a version expected")
        pinned = table.strings(version) if table.is_list(version) else (table.text(version),)
        for digest in pinned:
            if _DIGEST.fullmatch(digest) is None:
                table.refuse(version, f"'sha256:' and 64 hexadecimal digits expected, as cards show it, got {digest!r}")
        found[version] = pinned
    return found


def in_canary(name: str, request_id: str, share: float) -> bool:
    """Whether a request goes to the canary: the same id always gives the same answer, and an id that is chosen at one
    share is chosen at every larger one. Ids of one model say nothing of another's."""
    drawn = hashlib.sha256(f"{name}\0{request_id}".encode()).digest()[:8]
    return int.from_bytes(drawn) < share * 2**64
