"""What lies on disk against what serves: what is to be loaded, and what is gone."""

from __future__ import annotations

from pathlib import Path

from service.repository.folder import MANIFEST, WEIGHTS, FileMark
from service.repository.scan import Changes, NameSeen, changes, scan
from tests.repository.stand_ins import put


def whole(time: int = 0) -> tuple[FileMark, ...]:
    return FileMark(MANIFEST, 9, time, time, 1), FileMark(WEIGHTS, 9, time, time, 2)


def name(rules: FileMark | None = None, **versions: tuple[FileMark, ...] | None) -> NameSeen:
    return NameSeen(rules, {version.removeprefix("v"): mark for version, mark in versions.items()})


NOTHING = Changes([], [], [])
RULES = FileMark("serving.toml", 3, 1, 1, 7)
ONE = {"a": name(v1=whole())}
SERVES = {("a", "1"): whole()}


def told(before, now, taken=SERVES, rules=None, ready=None) -> Changes:
    return changes(before, now, taken, rules or {}, list(taken) if ready is None else ready)


def test_nothing_is_done_where_nothing_changed() -> None:
    assert told(ONE, ONE) == NOTHING


def test_a_new_version_is_loaded_once_two_looks_saw_the_same_of_it() -> None:
    arriving, arrived = {"a": name(v1=whole(), v2=whole(1))}, {"a": name(v1=whole(), v2=whole(2))}
    assert told(ONE, arriving) == NOTHING
    assert told(arriving, arrived) == NOTHING
    assert told(arrived, arrived).load == [("a", "2")]


def test_a_version_that_is_written_over_is_loaded_again_once_it_is_still() -> None:
    changed = {"a": name(v1=whole(5))}
    assert told(ONE, changed) == NOTHING
    assert told(changed, changed).load == [("a", "1")]


def test_of_several_new_versions_the_highest_comes_first_so_that_a_lower_one_never_serves() -> None:
    three = {"a": name(v1=whole(), v2=whole(), v10=whole())}
    assert told(three, three).load == [("a", "10"), ("a", "2")]


def test_what_was_refused_is_not_tried_again_until_it_changes() -> None:
    two = {"a": name(v1=whole(), v2=whole(3))}
    taken = {**SERVES, ("a", "2"): whole(3)}
    assert told(two, two, taken) == NOTHING
    assert told(two, two, {**taken, ("a", "2"): None}).load == [("a", "2")]


def test_a_folder_without_a_manifest_is_still_being_made() -> None:
    half = {"a": name(v1=whole(), v2=whole()[1:])}
    assert told(half, half) == NOTHING
    assert told({"a": name(v1=None)}, {"a": name(v1=None)}) == NOTHING


def test_versions_wait_while_their_rules_are_not_still() -> None:
    plain, ruled = {"a": name(v1=whole(), v2=whole())}, {"a": name(RULES, v1=whole(), v2=whole())}
    assert told(plain, ruled) == NOTHING
    assert told(ruled, ruled) == Changes(["a"], [("a", "2")], [])
    assert told(ruled, ruled, {**SERVES, ("a", "2"): whole()}, {"a": RULES}) == NOTHING
    assert told(plain, plain, {**SERVES, ("a", "2"): whole()}, {"a": RULES}).rules == ["a"]


def test_a_model_whose_folder_is_gone_in_two_looks_is_dropped() -> None:
    other = {"b": name(v1=whole())}
    taken = {**SERVES, ("b", "1"): whole()}
    assert told({**ONE, **other}, other, taken) == NOTHING
    assert told(other, other, taken).drop == [("a", "1")]


def test_a_version_that_is_gone_is_dropped_only_if_another_one_answers() -> None:
    empty, two = {"a": name()}, {"a": name(v2=whole())}
    assert told({**empty, "b": name(v1=whole())}, {**empty, "b": name(v1=whole())}, {**SERVES, ("b", "1"): whole()}
                ) == NOTHING
    taken = {**SERVES, ("a", "2"): whole()}
    assert told(two, two, taken).drop == [("a", "1")]
    assert told(two, two, taken, ready=[("a", "1")]).drop == []


def test_a_volume_that_went_away_drops_nothing() -> None:
    assert told({}, {}) == NOTHING
    assert told({"a": name()}, {"a": name()}) == NOTHING


def test_a_folder_that_cannot_be_looked_at_changes_nothing() -> None:
    assert told({"a": None}, {"a": None}) == NOTHING
    assert told({"a": None}, {"a": name()}) == NOTHING


def test_a_scan_sees_numbers_only_and_nothing_hidden(tmp_path: Path) -> None:
    for path in ("a/1", "a/10", "a/2", "a/2.tmp", "a/٣", "a/-1", ".hidden/1", "b"):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    (tmp_path / "README.md").write_text("no model")
    put(tmp_path, "a", "2")
    (tmp_path / "a" / "serving.toml").write_text("")
    seen = scan(tmp_path)
    assert list(seen) == ["a", "b"]
    assert seen["a"] is not None
    assert list(seen["a"].versions) == ["1", "2", "10"]
    assert seen["a"].rules is not None
    assert seen["b"] == NameSeen(None, {})
