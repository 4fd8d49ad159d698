"""What is read of a version's folder is of one moment, and its digest is of what was read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.errors import FolderChanged, UnservableModel
from service.repository import folder as folders
from service.repository.folder import MANIFEST, WEIGHTS, check_pins, fingerprint, read_folder
from tests.repository.stand_ins import put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Written at an earlier moment than all that follows, as file systems count moments."""
    made = put(tmp_path, "flowers", "1")
    latest, probe = max(mark.changed_ns for mark in fingerprint(made)), tmp_path / "probe"
    for _ in range(1_000_000):
        probe.touch()
        if probe.stat().st_ctime_ns > latest:
            return made
    raise AssertionError("the file system's time stands still")


def rewritten_in_place(path: Path) -> None:
    """Same size, same time, same inode."""
    seen = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@pytest.mark.parametrize("change", [
    lambda f: (f / WEIGHTS).write_bytes(b"other"),
    lambda f: rewritten_in_place(f / WEIGHTS),
    lambda f: (f / WEIGHTS).rename(f / "old"),
    lambda f: (f / "deeper").mkdir() or (f / "deeper" / "card").write_text("x"),
    lambda f: (f / MANIFEST).unlink(),
])
def test_whatever_is_done_to_a_file_changes_the_fingerprint(folder, change) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    change(folder)
    assert fingerprint(folder) != before


def test_a_folder_that_is_a_link_changes_when_the_link_does(tmp_path) -> None:
    one, other = put(tmp_path / "a", "flowers", "1"), put(tmp_path / "b", "flowers", "1")
    link = tmp_path / "1"
    link.symlink_to(one)
    before = fingerprint(link)
    (tmp_path / "next").symlink_to(other)
    (tmp_path / "next").rename(link)
    assert fingerprint(link) != before


def test_the_content_is_what_was_read_and_its_digest_covers_every_file(folder) -> None:
    first = read_folder(folder)
    assert first.files[WEIGHTS] == b"weights"
    assert first.fingerprint == fingerprint(folder)
    (folder / "CARD.md").write_text("A card.")
    second = read_folder(folder)
    assert second.digest != first.digest
    assert second.files == first.files
    assert second.bytes == first.bytes + len("A card.")


class Meddling:
    """A digest during whose making somebody does something to the folder, once."""

    def __init__(self, act: Any) -> None:
        self._act, self._digest = act, hashlib.sha256()

    def update(self, part: bytes) -> None:
        self._digest.update(part)
        act, self._act = self._act, lambda: None
        if act is not None:
            act()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@pytest.mark.parametrize("act", [
    lambda f: (f / WEIGHTS).write_bytes(b"longer than before"),
    lambda f: (f / WEIGHTS).write_bytes(b""),
    lambda f: rewritten_in_place(f / WEIGHTS),
    lambda f: (f / WEIGHTS).unlink(),
    lambda f: (f / "new").write_text("x"),
    lambda f: f.rename(f.parent / "away"),
    lambda f: (f.rename(f.parent / "away"), put(f.parent.parent, "flowers", "1", b"swapped")),
])
def test_a_folder_that_changes_while_it_is_read_is_refused(folder, monkeypatch, act) -> None:
    meddling = Meddling(lambda: act(folder))
    monkeypatch.setattr(folders, "hashlib", SimpleNamespace(sha256=lambda start: meddling))
    with pytest.raises(FolderChanged):
        read_folder(folder)


def test_a_pinned_digest_must_be_the_contents(folder) -> None:
    content = read_folder(folder)
    check_pins(folder, content, None)
    check_pins(folder, content, ["sha256:other", content.digest])
    with pytest.raises(UnservableModel, match="its digest is sha256:"):
        check_pins(folder, content, ["sha256:other"])
