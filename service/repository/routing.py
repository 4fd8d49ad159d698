"""Which version of a model answers whom: a pure function of what is loaded and of the operator's rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from service.repository.folder import Fingerprint
from service.repository.loader import ReadyModel
from service.repository.serving import Rules, Shadow

Status = Literal["loading", "ready", "failed", "idle", "unloaded"]
Role = Literal["default", "canary", "shadow"]


@dataclass(frozen=True)
class Entry:
    """What the server made of a version.

    status: "loading": not tried yet; "failed": refused; "idle": not in memory, loads when it is asked for; "unloaded":
    by the operator, who loads it again. taken: fingerprint of what was loaded or refused last; None to try again.
    model: set exactly where status is "ready". reason: why it was refused; of a ready version: why what lies in its
    folder now was. load_s: how long it took to load; None where it never did.
    """

    status: Status = "loading"
    model: ReadyModel | None = None
    taken: Fingerprint | None = None
    reason: str = ""
    load_s: float | None = None


@dataclass(frozen=True)
class Route:
    """default: answers requests that name no version; None where nothing can. wanted: the version that should.
    versions: all that are ready, by number."""

    default: ReadyModel | None = None
    wanted: str | None = None
    canary: ReadyModel | None = None
    share: float = 0.0
    shadow: ReadyModel | None = None
    shadowing: Shadow | None = None
    versions: Mapping[str, ReadyModel] = field(default_factory=dict)

    def role(self, version: str) -> Role | None:
        roles: list[tuple[ReadyModel | None, Role]] = [
            (self.default, "default"), (self.canary, "canary"), (self.shadow, "shadow")]
        return next((role for model, role in roles if model is not None and model.version == version), None)


def route(entries: Mapping[str, Entry], rules: Rules, former: str | None) -> Route:
    """The route of a name.

    Args: entries: by version, lowest first. former: the version that answered by default before.
    By default the highest version answers that could be loaded and is neither canary nor shadow. One that leaves memory
    to make room stays the default: which version answers must not depend on memory. Where the version that the operator
    names was never ready, the former one goes on.
    """
    ready = {version: entry.model for version, entry in entries.items() if entry.model is not None}
    aside = {part.version for part in (rules.canary, rules.shadow) if part is not None}
    able = [
        v for v, entry in entries.items() if v not in aside
        and (entry.status in ("ready", "idle", "unloaded") or (entry.status == "failed" and entry.load_s is not None))
    ]
    wanted = rules.version if rules.version is not None else able[-1] if able else None
    if rules.version is not None and rules.version not in able and former in able:
        wanted = former
    return Route(
        default=ready.get(wanted) if wanted is not None else None,
        wanted=wanted,
        canary=ready.get(rules.canary.version) if rules.canary is not None else None,
        share=rules.canary.share if rules.canary is not None else 0.0,
        shadow=ready.get(rules.shadow.version) if rules.shadow is not None else None,
        shadowing=rules.shadow,
        versions=ready,
    )
