"""A watched file is read again when it changes; what cannot be read leaves what was there in force."""

import logging
import os

import pytest

from service.errors import InvalidSettings
from service.watched import Watched


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "number"
    path.write_text("1")
    return path


def number(path):
    def read() -> int:
        try:
            return int(path.read_text())
        except (OSError, ValueError) as e:
            raise InvalidSettings("no number there") from e

    return read


def test_it_is_read_again_when_it_changes_and_only_then(path) -> None:
    reads = []
    watched = Watched("number", [path], lambda: reads.append(1) or len(reads))
    assert not watched.refresh()
    path.write_text("22")
    assert watched.refresh()
    assert not watched.refresh()
    assert watched.refresh(forced=True)
    assert watched.value == 3


def test_another_file_put_in_its_place_is_a_change_though_size_and_time_are_the_same(path, tmp_path) -> None:
    watched = Watched("number", [path], number(path))
    before = path.stat()
    other = tmp_path / "other"
    other.write_text("2")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert watched.refresh()
    assert watched.value == 2


def test_a_broken_file_leaves_the_old_value_and_says_so_once(path, caplog) -> None:
    watched = Watched("number", [path], number(path))
    for breaks in (lambda: path.write_text("two"), path.unlink):
        breaks()
        caplog.clear()
        assert not watched.refresh()
        assert watched.value == 1
        assert "stays in force: no number there" in caplog.text
        caplog.clear()
        assert not watched.refresh()
        assert caplog.text == ""
    path.write_text("3")
    with caplog.at_level(logging.INFO):
        assert watched.refresh()
    assert watched.value == 3


def test_a_file_that_is_broken_from_the_start_is_an_error(path) -> None:
    path.write_text("two")
    with pytest.raises(InvalidSettings):
        Watched("number", [path], number(path))
