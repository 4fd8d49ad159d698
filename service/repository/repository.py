"""The folder of models: what lies in it, what of it is ready, and which version answers.

One thread at a time changes a repository; any thread may ask it. Whoever asks sees one whole state or the next, never
one in between, and no name of a request is ever made a path: names are looked up among what was seen on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from service.errors import InvalidManifest, ModelNotFound, NotReady, VersionNotFound, cut, nearest
from service.repository.budget import to_unload
from service.repository.folder import WEIGHTS, FileMark, Fingerprint, check_pins, read_folder
from service.repository.loader import ReadyModel, model_of
from service.repository.routing import Entry, Route, Status, route
from service.repository.scan import RULES, Changes, Key, NameSeen, by_number, changes, is_whole, scan
from service.repository.serving import Rules, in_canary, read_rules

_LIKELY_LOAD_S = 5.0  # of a model that was never loaded
_NOWHERE = Route()
_RETRY_LOADING_S, _RETRY_REPAIR_S = 1.0, 60.0  # the second waits for people


class Repository:
    """`<root>/<name>/<version>/model.toml`; a version is a whole number. on_wish: told of a version that is asked for
    and not in memory; must return at once."""

    def __init__(self, root: Path, device: str = "cpu", on_wish: Callable[[Key], None] = lambda key: None) -> None:
        self._root, self._device, self.on_wish = root, device, on_wish
        if not root.is_dir():
            raise InvalidManifest(f"{root}: not a folder; a model repository is <root>/<name>/<version>/model.toml")
        self._seen = scan(root)
        self._entries: dict[Key, Entry] = {key: Entry() for key in self._whole()}
        if not self._entries:
            raise InvalidManifest(f"{root}: no model; a model repository is <root>/<name>/<version>/model.toml")
        self._rules: dict[str, Rules] = {}
        self._rules_taken: dict[str, FileMark | None] = {}
        self._routes: dict[str, Route] = {}
        self._used: dict[Key, int] = {}
        self._uses = count(1)

    @property
    def versions(self) -> list[Key]:
        """(name, version) of all there are, by name, then version."""
        return list(self._entries)

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self._entries))

    @property
    def entries(self) -> Mapping[Key, Entry]:
        """What was made of each version, by name, then version; as it is now and will stay."""
        return self._entries

    def route(self, name: str) -> Route:
        """Which version of a model answers whom."""
        return self._routes.get(name, _NOWHERE)

    def rules(self, name: str) -> Rules:
        """The operator's, as they were taken last."""
        return self._rules.get(name, Rules())

    def folder(self, name: str, version: str) -> Path:
        """Where that version lies. Of a version that is known only."""
        assert (name, version) in self._entries
        return self._root / name / version

    def is_ready(self, name: str, version: str) -> bool:
        return self._entries[name, version].model is not None

    @property
    def all_ready(self) -> bool:
        """Whether nothing waits to be loaded or was refused."""
        return not any(entry.status in ("loading", "failed") for entry in self._entries.values())

    def get(self, name: str, version: str | None = None, request_id: str | None = None) -> ReadyModel:
        """The ready model that answers. request_id: decides, where no version is named, whether the canary does; None:
        never. ModelNotFound or VersionNotFound, listing what there is; NotReady while it loads."""
        found = self._routes.get(name)
        if found is not None:
            if version is not None:
                model = found.versions.get(version)
            elif found.canary is not None and request_id is not None and in_canary(name, request_id, found.share):
                model = found.canary
            else:
                model = found.default
            if model is not None:
                self._used[name, model.version] = next(self._uses)
                return model
        raise self._why_not(name, version)

    def _why_not(self, name: str, version: str | None) -> Exception:
        names = self.names()
        if name not in names:
            return ModelNotFound(f"no model {cut(name)!r}{nearest(name, names)}; there are: {', '.join(names)}")
        entries = self._of(name)
        if version is not None and version not in entries:
            return VersionNotFound(
                f"model {name!r} has no version {cut(version)!r}; there are: {', '.join(entries)}")
        version = self.route(name).wanted or list(entries)[-1] if version is None else version
        if version not in entries:
            return NotReady(f"model {name!r}: its {RULES} names version {version}, which is not there",
                            retry_after_s=_RETRY_REPAIR_S)
        return self._why_not_ready(name, version, entries[version])

    def _why_not_ready(self, name: str, version: str, entry: Entry) -> NotReady:
        what = f"model {name!r} version {version}"
        if entry.status == "idle":
            self.on_wish((name, version))
            return NotReady(f"{what} was not in memory and is being loaded now", retry_after_s=self._likely_s(entry))
        if entry.status == "unloaded":
            return NotReady(f"{what} was unloaded by the operator, who can load it again",
                            retry_after_s=_RETRY_REPAIR_S)
        if entry.status == "failed":
            return NotReady(f"{what} cannot be served: {entry.reason}", retry_after_s=_RETRY_REPAIR_S)
        if entry.status == "ready":
            return NotReady(f"{what} is a canary or shadow, and no other version answers",
                            retry_after_s=_RETRY_REPAIR_S)
        return NotReady(f"{what} is loading", retry_after_s=_RETRY_LOADING_S)

    def _likely_s(self, entry: Entry) -> float:
        known = [e.load_s for e in self._entries.values() if e.load_s is not None]
        return entry.load_s or max(known, default=_LIKELY_LOAD_S)

    # what follows is for the one that changes the repository

    def look(self) -> Changes:
        """Looks at the disk and says what two looks in a row agree on. OSError where the root cannot be looked at."""
        before, self._seen = self._seen, scan(self._root)
        taken = {key: entry.taken for key, entry in self._entries.items()}
        ready = [key for key, entry in self._entries.items() if entry.model is not None]
        return changes(before, self._seen, taken, self._rules_taken, ready)

    def seen_names(self) -> list[str]:
        """Of the last look; with a version or `serving.toml` to them or not."""
        return [name for name, seen in self._seen.items() if seen is not None]

    def seen_versions(self, name: str) -> list[str]:
        """Of the last look: those with a manifest, highest first."""
        return [v for n, v in reversed(self._whole()) if n == name]

    def take_rules(self, name: str) -> None:
        """Reads `serving.toml` and goes by it from now on. A version whose pinned digests changed is read again at the
        next look. InvalidManifest; then the rules before stay in force."""
        seen = self._seen.get(name)
        self._rules_taken[name] = seen.rules if seen is not None else None
        before = self.rules(name)
        rules = read_rules(self._root / name / RULES)
        self._rules = {**self._rules, name: rules}
        for version, entry in self._of(name).items():
            if rules.digests.get(version) != before.digests.get(version):
                self._put((name, version), replace(entry, taken=None))
        self._reroute(name)

    def load(self, name: str, version: str) -> ReadyModel:
        """Loads and probes a model. It answers nobody before `admit`. Where the files hold what is ready already, that
        model, with their fingerprint. InvalidManifest or UnservableModel; FolderChanged while the folder is written
        to."""
        folder = self.folder(name, version)
        content = read_folder(folder)
        check_pins(folder, content, self.rules(name).digests.get(version))
        ready = self._entries[name, version].model
        if ready is not None and ready.digest == content.digest:
            return replace(ready, fingerprint=content.fingerprint)
        return model_of(folder, content, self._device)

    def expect(self, key: Key) -> None:
        """There is such a version."""
        if key not in self._entries:
            self._put(key, Entry())

    def admit(self, model: ReadyModel, load_s: float | None = None) -> ReadyModel | None:
        """From now on the model answers, and the one that is returned, the version's before, does not."""
        key = model.name, model.version
        before = self._entries[key]
        self._put(key, Entry("ready", model, model.fingerprint, load_s=before.load_s if load_s is None else load_s))
        return before.model

    def refuse(self, key: Key, reason: str) -> None:
        """What was seen of that version last cannot be served. What is ready stays so."""
        entry = self._entries[key]
        status: Status = "ready" if entry.model is not None else "failed"
        self._put(key, replace(entry, status=status, taken=self._fingerprint(key), reason=reason))

    def try_again(self, key: Key) -> None:
        """It could not be read as a whole; whatever the next looks see is to be taken up."""
        self._put(key, replace(self._entries[key], taken=None))

    def let_go(self, key: Key, status: Status) -> ReadyModel | None:
        """The version answers no more; status: "idle" or "unloaded". The model that did, if any."""
        entry = self._entries[key]
        self._put(key, replace(entry, status=status, model=None, taken=self._fingerprint(key), reason=""))
        return entry.model

    def drop(self, key: Key) -> ReadyModel | None:
        """There is no such version any more. The model that answered, if any."""
        entry = self._entries[key]
        self._entries = {k: e for k, e in self._entries.items() if k != key}
        self._reroute(key[0])
        return entry.model

    def held_bytes(self) -> dict[Key, int]:
        """What the ready models hold on the device, by version."""
        ready = {key: entry.model for key, entry in self._entries.items() if entry.model is not None}
        return {key: model.sampler.memory_bytes for key, model in ready.items()}

    def in_the_way(self, key: Key, needed: int, budget: int, spare: str | None = None) -> list[Key]:
        """The versions that must leave memory so that this one fits; canaries, shadows and those of the spared name
        stay."""
        held = {k: size for k, size in self.held_bytes().items() if k != key}
        may_go = {k: size for k, size in held.items() if not self._is_aside(k) and k[0] != spare}
        staying = sum(held.values()) - sum(may_go.values())
        return to_unload(may_go, self._used, needed, budget - staying)

    def weights_bytes(self, key: Key) -> int:
        """Of the weight file, as it was seen last: what the model will hold at least."""
        return next((mark.bytes for mark in self._fingerprint(key) or () if mark.path == WEIGHTS), 0)

    def loads_at_once(self, key: Key) -> bool:
        """Whether a version is needed before anybody asks for it: canaries, shadows, and the versions of a model that
        is in use."""
        return self._is_aside(key) or any(entry.model is not None for entry in self._of(key[0]).values())

    def _is_aside(self, key: Key) -> bool:
        rules = self.rules(key[0])
        return key[1] in {part.version for part in (rules.canary, rules.shadow) if part is not None}

    def _whole(self) -> list[Key]:
        return [
            (name, version) for name, seen in self._seen.items() if seen is not None
            for version, mark in seen.versions.items() if is_whole(mark)
        ]

    def _fingerprint(self, key: Key) -> Fingerprint | None:
        seen: NameSeen | None = self._seen.get(key[0])
        return None if seen is None else seen.versions.get(key[1])

    def _of(self, name: str) -> dict[str, Entry]:
        return {v: entry for (n, v), entry in self._entries.items() if n == name}

    def _put(self, key: Key, entry: Entry) -> None:
        entries: Mapping[Key, Entry] = {**self._entries, key: entry}
        self._entries = dict(sorted(entries.items(), key=lambda item: (item[0][0], by_number(item[0][1]))))
        self._reroute(key[0])

    def _reroute(self, name: str) -> None:
        former = self.route(name).wanted
        entries = self._of(name)
        routes = {n: r for n, r in self._routes.items() if n != name}
        if entries:
            routes[name] = route(entries, self.rules(name), former)
        self._routes = routes
