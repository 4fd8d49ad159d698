"""A version's folder: what tells that it changed, and what lies in it, read once.

A fingerprint costs no more than a look at names and times. What is loaded is never read a second time: the digest is of
the very bytes that the network was made of, so a file that is swapped meanwhile cannot give a model of two versions.
Nothing is mapped into memory: a mapped file that somebody truncates ends the process.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import service
from service.errors import FolderChanged, UnservableModel
from service.preprocessing.steps import TOKENIZER
from service.sampling.masks import MASK_LAW

MANIFEST, WEIGHTS = "model.toml", "weights.safetensors"
_KEPT = (MANIFEST, WEIGHTS)  # what the loader reads, with tokenizers; of other files the digest is all that matters
_PART_BYTES = 1 << 20


class FileMark(NamedTuple):
    """What tells that a file was written to or replaced. The times are in nanoseconds; the second is the inode's, which
    a copy that sets the first back cannot hide from."""

    path: str
    bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


Fingerprint = tuple[FileMark, ...]  # of a version's folder, by path


@dataclass(frozen=True)
class Content:
    """files: the bytes of those that a loader reads, by path. digest: sha256 over every file of the folder and the
    engine's version. bytes: of all files together."""

    files: Mapping[str, bytes]
    digest: str
    fingerprint: Fingerprint

    @property
    def bytes(self) -> int:
        return sum(mark.bytes for mark in self.fingerprint)


def fingerprint(folder: Path) -> Fingerprint:
    """Of every file under the folder. OSError where it cannot be looked at, or changes under the look."""
    found = []
    for at, _, names in os.walk(folder, onerror=_raise):
        for path in (Path(at, name) for name in names):
            seen = _stat(path)
            if seen is not None and stat.S_ISREG(seen.st_mode):
                found.append(file_mark(path.relative_to(folder).as_posix(), seen))
    return tuple(sorted(found, key=lambda mark: Path(mark.path)))


def read_folder(folder: Path) -> Content:
    """The content, all of one moment. FolderChanged where somebody wrote to the folder meanwhile; UnservableModel where
    it cannot be read."""
    try:
        before = fingerprint(folder)
        digest = hashlib.sha256(f"errorbar {service.__version__} masks {MASK_LAW}\0".encode())
        files = {}
        for mark in before:
            digest.update(f"{mark.path}\0{mark.bytes}\0".encode())
            content = _read(folder, mark, digest, keep=mark.path in _KEPT or mark.path.endswith(TOKENIZER))
            if content is not None:
                files[mark.path] = content
        if fingerprint(folder) != before:
            raise FolderChanged(f"{folder}: files came, went or changed while they were read")
    except FileNotFoundError as e:
        raise FolderChanged(f"{folder}: {e.filename} went while it was read") from e
    except OSError as e:
        raise UnservableModel(f"{folder}: cannot be read: {e.strerror}") from e
    return Content(files, f"sha256:{digest.hexdigest()}", before)


def check_pins(folder: Path, content: Content, pinned: Collection[str] | None) -> None:
    """UnservableModel where the operator pinned digests and the content has none of them. None: nothing is pinned."""
    if pinned is not None and content.digest not in pinned:
        raise UnservableModel(f"{folder}: its digest is {content.digest}; serving.toml pins {' or '.join(pinned)}")


def _read(folder: Path, mark: FileMark, digest: hashlib._Hash, keep: bool) -> bytes | None:
    """Puts a file's bytes into the digest and, if it is to be kept, gives them."""
    parts = []
    with (folder / mark.path).open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
            if keep:
                parts.append(part)
        # of the open file, not of the name: the name may lead to another one by now
        if file_mark(mark.path, os.fstat(file.fileno())) != mark:
            raise FolderChanged(f"{folder}: {mark.path} changed while it was read")
    return b"".join(parts) if keep else None


def file_mark(path: str, seen: os.stat_result) -> FileMark:
    return FileMark(path, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)


def mark_of(folder: Path, name: str) -> FileMark | None:
    """Of one entry; None where there is none. OSError where that cannot be told."""
    seen = _stat(folder / name)
    return None if seen is None else file_mark(name, seen)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # a link that leads nowhere too
        return None


def _raise(error: OSError) -> None:
    raise error
