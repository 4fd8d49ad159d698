"""The folder of models, and which of them are ready. Highest version serves by default."""

from __future__ import annotations

from pathlib import Path

from service.errors import InvalidManifest, ModelNotFound, NotReady, VersionNotFound, cut, nearest
from service.repository.loader import ReadyModel, load_model


class Repository:
    """`<root>/<name>/<version>/model.toml`; a version is a whole number. All versions are loaded."""

    def __init__(self, root: Path, device: str = "cpu") -> None:
        self._device = device
        self._folders = _version_folders(root)
        self._ready: dict[tuple[str, str], ReadyModel] = {}

    @property
    def versions(self) -> list[tuple[str, str]]:
        """(name, version) of all there are, by name, then version."""
        return list(self._folders)

    def folder(self, name: str, version: str) -> Path:
        """Where that version lies."""
        return self._folders[name, version]

    def load(self, name: str, version: str) -> ReadyModel:
        """Loads and probes a model. It answers nobody before `admit`. InvalidManifest or UnservableModel."""
        return load_model(self._folders[name, version], self._device)

    def admit(self, model: ReadyModel) -> None:
        """From now on the model answers."""
        self._ready[model.name, model.version] = model

    def is_ready(self, name: str, version: str) -> bool:
        return (name, version) in self._ready

    @property
    def all_ready(self) -> bool:
        return len(self._ready) == len(self._folders)

    def get(self, name: str, version: str | None = None) -> ReadyModel:
        """The ready model. ModelNotFound or VersionNotFound, listing what there is; NotReady while it loads."""
        names = list(dict.fromkeys(n for n, _ in self._folders))
        if name not in names:
            raise ModelNotFound(f"no model {cut(name)!r}{nearest(name, names)}; there are: {', '.join(names)}")
        versions = [v for n, v in self._folders if n == name]
        version = versions[-1] if version is None else version
        if version not in versions:
            raise VersionNotFound(f"model {name!r} has no version {cut(version)!r}; there are: {', '.join(versions)}")
        if (name, version) not in self._ready:
            raise NotReady(f"model {name!r} version {version} is loading", retry_after_s=1.0)
        return self._ready[name, version]


def _version_folders(root: Path) -> dict[tuple[str, str], Path]:
    if not root.is_dir():
        raise InvalidManifest(f"{root}: not a folder; a model repository is <root>/<name>/<version>/model.toml")
    found = {
        (path.parent.parent.name, path.parent.name): path.parent
        for path in root.glob("*/*/model.toml") if path.parent.name.isdecimal()
    }
    if not found:
        raise InvalidManifest(f"{root}: no model; a model repository is <root>/<name>/<version>/model.toml")
    return dict(sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1]))))
