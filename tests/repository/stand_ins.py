"""Folders of models whose networks are stand-ins, so that what is loaded when can be told without loading anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from service.errors import UnservableModel
from service.repository import ReadyModel
from service.repository.folder import MANIFEST, WEIGHTS, Content
from service.repository.manifest import manifest_of
from tests.conftest import CLASSIFIER

CORRUPT = b"corrupt"


def put(root: Path, name: str, version: str, weights: bytes = b"weights") -> Path:
    """Writes a version, or writes over it."""
    folder = root / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(CLASSIFIER.replace('"flowers"', f'"{name}"'))
    (folder / WEIGHTS).write_bytes(weights)
    return folder


def stand_in(folder: Path, content: Content, device: str = "cpu") -> ReadyModel:
    """In place of `model_of`: a model that holds as many bytes as its weights; corrupt ones are refused."""
    manifest = manifest_of(content.files[MANIFEST], str(folder / MANIFEST))
    weights = content.files[WEIGHTS]
    if weights == CORRUPT:
        raise UnservableModel(f"{folder}: {WEIGHTS} cannot be read")
    sampler: Any = SimpleNamespace(memory_bytes=len(weights), eager_reason="", output_shape=(2,))
    return ReadyModel(manifest, folder.name, content.digest, cast(Any, sampler), device, (), content.fingerprint)
