"""Would a server serve this folder? For pipelines: everything that loading refuses, and what it would pass over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import ErrorbarError, InvalidManifest, reason
from service.repository.folder import MANIFEST, check_pins, read_folder
from service.repository.loader import ReadyModel, model_of
from service.repository.scan import RULES, by_number, is_version
from service.repository.serving import Rules, read_rules


@dataclass(frozen=True)
class Verdict:
    """path: the version, as `digits/1`, or a file that concerns all of them, as `digits/serving.toml`. reason: why it
    is refused; empty where it is ok. digest: as answers show it; None of what could not be loaded."""

    path: str
    reason: str = ""
    digest: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.reason


def check(root: Path, device: str, warm: Callable[[ReadyModel], None]) -> Iterator[Verdict]:
    """A verdict for every version, by name and number, each as soon as it is known. warm: as a server would.
    InvalidManifest where there is nothing to check, or the folder cannot be looked at."""
    try:
        folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
        found = [(name, version) for name in folders for version in _versions(name)]
    except OSError as e:
        raise InvalidManifest(f"{e.filename}: cannot be looked at: {e.strerror}") from e
    if not found:
        raise InvalidManifest(f"{root}: no model; a model repository is <root>/<name>/<version>/model.toml")
    for name in folders:
        versions = [version for other, version in found if other == name]
        rules = Rules()
        try:
            rules = read_rules(name / RULES)
            _check_named(name, rules, versions)
        except ErrorbarError as e:
            yield Verdict(f"{name.name}/{RULES}", e.detail)
        for version in versions:
            yield _verdict(version, rules, device, warm)


def _versions(name: Path) -> list[Path]:
    """Folders that are versions, and those that were meant to be."""
    inside = [f for f in name.iterdir() if f.is_dir() and (is_version(f.name) or (f / MANIFEST).exists())]
    return sorted(inside, key=lambda f: by_number(f.name) if is_version(f.name) else (1 << 62, f.name))


def _check_named(name: Path, rules: Rules, versions: list[Path]) -> None:
    there = [version.name for version in versions]
    aside = [part.version for part in (rules.canary, rules.shadow) if part is not None]
    for version in [*([] if rules.version is None else [rules.version]), *aside, *rules.digests]:
        if version not in there:
            raise InvalidManifest(f"{name / RULES}: it names version {version}, which is not there")
    if not set(there) - set(aside):
        raise InvalidManifest(f"{name / RULES}: no version is left that answers requests that name none")


def _verdict(folder: Path, rules: Rules, device: str, warm: Callable[[ReadyModel], None]) -> Verdict:
    path = f"{folder.parent.name}/{folder.name}"
    if not is_version(folder.name):
        return Verdict(path, f"{folder}: a version is a whole number; a server passes this folder over")
    try:
        content = read_folder(folder)
        check_pins(folder, content, rules.digests.get(folder.name))
        model = model_of(folder, content, device)
        warm(model)
    except Exception as e:
        return Verdict(path, e.detail if isinstance(e, ErrorbarError) else reason(e))
    return Verdict(path, digest=model.digest, warnings=model.warnings)
