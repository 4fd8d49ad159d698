"""What serves follows the folder: new versions, refused ones, rules, memory, and what the operator asks for."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service import events
from service.clock import ManualClock
from service.errors import (
    Draining,
    FolderChanged,
    InvalidManifest,
    ModelFailed,
    ModelNotFound,
    NotReady,
    UnservableModel,
    VersionNotFound,
)
from service.repository import ReadyModel, Repository
from service.scheduling import Keeper, KeeperThread, Keeping
from tests.repository.stand_ins import CORRUPT, put, stand_in

PATIENCE_S = 60.0


class House:
    """A folder, what serves of it, and all that was told."""

    def __init__(self, root: Path, keeping: Keeping | None = None) -> None:
        self.root, self.told, self.warmed = root, list[events.Event](), list[ReadyModel]()
        self.warm: Callable[[ReadyModel], None] = self.warmed.append
        self.clock = ManualClock()
        self.repository = Repository(root)
        self.keeper = Keeper(
            self.repository, lambda model: self.warm(model), keeping, self.clock, self.told.append)

    def put(self, name: str, version: str, weights: bytes = b"weights") -> None:
        put(self.root, name, version, weights)

    def rules(self, name: str, text: str) -> None:
        (self.root / name / "serving.toml").write_text(text)

    def settle(self) -> None:
        """Two looks see the same."""
        self.keeper.look()
        self.keeper.look()

    def answers(self, name: str, version: str | None = None) -> tuple[str, int]:
        """Version and bytes of what answers."""
        model = self.repository.get(name, version)
        return model.version, model.sampler.memory_bytes

    def count(self, kind: type[Any]) -> int:
        return sum(isinstance(event, kind) for event in self.told)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.repository.repository.model_of", stand_in)


@pytest.fixture
def house(tmp_path: Path) -> House:
    put(tmp_path, "a", "1")
    put(tmp_path, "b", "1")
    made = House(tmp_path)
    made.keeper.start_up()
    made.told.clear()
    return made


def test_a_new_version_takes_over_once_it_is_still_and_the_old_one_can_still_be_named(house) -> None:
    house.put("a", "2", b"12")
    house.keeper.look()
    assert house.answers("a") == ("1", 7)
    house.keeper.look()
    assert house.answers("a") == ("2", 2)
    assert house.answers("a", "1") == ("1", 7)
    assert [model.version for model in house.warmed] == ["1", "1", "2"]
    assert house.count(events.ModelLoaded) == 1


def test_a_version_that_is_written_over_is_switched_in_one_step_after_it_is_warm(house) -> None:
    before = house.repository.get("a")

    def warm(model: ReadyModel) -> None:
        assert house.repository.get("a") is before

    house.warm = warm
    house.put("a", "1", b"other weights")
    house.settle()
    assert house.answers("a") == ("1", 13)
    assert house.repository.get("a").digest != before.digest
    assert [type(event) for event in house.told] == [events.ModelUnloaded, events.ModelLoaded]


@pytest.mark.parametrize("ruin", [
    lambda f: (f / "weights.safetensors").write_bytes(CORRUPT),
    lambda f: (f / "weights.safetensors").unlink(),
    lambda f: (f / "model.toml").write_text("name ="),
    lambda f: (f / "model.toml").write_text(""),
    lambda f: (f / "model.toml").unlink(),
    lambda f: shutil.rmtree(f),
])
def test_what_cannot_be_loaded_leaves_what_serves_serving(house, ruin) -> None:
    before = house.repository.get("a")
    ruin(house.root / "a" / "1")
    for _ in range(3):
        house.settle()
    assert house.repository.get("a") is before
    assert house.count(events.ModelLoadFailed) <= 1


def test_a_refused_version_is_counted_once_told_and_tried_again_when_it_changes(house) -> None:
    house.put("a", "2", CORRUPT)
    for _ in range(3):
        house.settle()
    assert house.count(events.ModelLoadFailed) == 1
    assert "cannot be read" in house.repository.entries["a", "2"].reason
    assert house.answers("a")[0] == "1"
    with pytest.raises(NotReady, match="cannot be read"):
        house.repository.get("a", "2")
    house.put("a", "2", b"mended")
    house.settle()
    assert house.answers("a") == ("2", 6)
    assert house.repository.entries["a", "2"].reason == ""


def test_a_model_that_fails_while_it_is_warmed_is_refused(house) -> None:
    def warm(model: ReadyModel) -> None:
        raise ModelFailed("not finite")

    house.warm = warm
    house.put("a", "1", b"other")
    house.settle()
    assert house.answers("a") == ("1", 7)
    assert house.repository.entries["a", "1"].reason == "not finite"


def test_an_error_that_nobody_foresaw_refuses_the_version_and_no_more(house, caplog) -> None:
    def warm(model: ReadyModel) -> None:
        raise ZeroDivisionError("by zero")

    house.warm = warm
    house.put("a", "2")
    house.settle()
    assert house.answers("a")[0] == "1"
    assert house.repository.entries["a", "2"].reason == "ZeroDivisionError: by zero"
    assert "Traceback" in caplog.text


def test_a_folder_that_changes_while_it_is_read_is_tried_again_and_not_counted_as_refused(house, monkeypatch) -> None:
    def torn(folder: Path) -> Any:
        raise FolderChanged("somebody writes to it")

    with monkeypatch.context() as context:
        context.setattr("service.repository.repository.read_folder", torn)
        house.put("a", "1", b"other")
        house.settle()
        assert house.answers("a") == ("1", 7)
    assert house.count(events.ModelLoadFailed) == 0
    house.keeper.look()
    assert house.answers("a") == ("1", 5)


def test_files_that_were_touched_but_not_changed_switch_nothing(house) -> None:
    before = house.repository.get("a").sampler
    house.put("a", "1")
    house.settle()
    assert house.repository.get("a").sampler is before
    assert house.told == []
    assert len(house.warmed) == 2


def test_the_memory_of_a_model_is_freed_once_nobody_answers_with_it(house) -> None:
    class Sampler:
        memory_bytes, eager_reason = 9, ""

    house.warmed.clear()
    held = house.repository.get("a")
    object.__setattr__(held, "sampler", Sampler())
    seen = weakref.ref(held.sampler)
    gc.collect()
    gc.disable()
    try:
        house.put("a", "1", b"other")
        house.settle()
        assert seen() is not None  # a request still has it
        house.warmed.clear()
        del held
        assert seen() is None
    finally:
        gc.enable()


def test_a_model_whose_folder_is_gone_answers_no_more(house) -> None:
    shutil.rmtree(house.root / "a")
    house.settle()
    with pytest.raises(ModelNotFound):
        house.repository.get("a")
    assert house.count(events.ModelUnloaded) == 1
    house.put("a", "1")
    house.settle()
    assert house.answers("a")[0] == "1"


def test_a_version_that_is_taken_away_hands_over_to_the_one_before(house) -> None:
    house.put("a", "2")
    house.settle()
    shutil.rmtree(house.root / "a" / "2")
    house.settle()
    assert house.answers("a")[0] == "1"
    with pytest.raises(VersionNotFound):
        house.repository.get("a", "2")


def test_a_root_that_went_away_changes_nothing_and_is_said_once(house, caplog) -> None:
    house.root.rename(house.root.parent / "away")
    for _ in range(3):
        house.settle()
    assert house.answers("a")[0] == "1"
    assert caplog.text.count("cannot be looked at") == 1
    (house.root.parent / "away").rename(house.root)
    house.put("a", "2")
    house.settle()
    assert house.answers("a")[0] == "2"


def test_a_canary_arrives_with_its_rules_and_never_answers_everybody(house) -> None:
    house.put("a", "2")
    house.rules("a", '[canary]\nversion = "2"\nshare = 0.5')
    house.settle()
    assert house.answers("a")[0] == "1"
    chosen = {house.repository.get("a", None, f"{i}").version for i in range(50)}
    assert chosen == {"1", "2"}
    assert {house.repository.get("a", "1", f"{i}").version for i in range(50)} == {"1"}
    house.rules("a", "")
    house.settle()
    assert house.answers("a")[0] == "2"


def test_nothing_of_a_model_changes_while_its_rules_cannot_be_read(house) -> None:
    house.put("a", "2")
    house.rules("a", '[canary]\nversion = "2"\nshre = 0.5')
    for _ in range(2):
        house.settle()
    assert house.answers("a")[0] == "1"
    assert ("a", "2") not in house.repository.entries
    assert house.told == [events.ModelLoadFailed("a", "")]
    house.rules("a", '[canary]\nversion = "2"\nshare = 0.5')
    house.settle()
    house.settle()
    assert house.repository.route("a").role("2") == "canary"


def test_a_version_that_is_not_the_pinned_one_is_refused(house) -> None:
    digest = house.repository.get("a").digest
    house.rules("a", f'[digests]\n1 = "{digest}"')
    house.settle()
    house.settle()
    assert house.repository.entries["a", "1"].reason == ""
    house.put("a", "1", b"other")
    house.settle()
    assert house.repository.get("a").digest == digest
    assert "pins" in house.repository.entries["a", "1"].reason


def test_a_pin_that_what_serves_does_not_have_is_told_at_once(house) -> None:
    house.rules("a", f'[digests]\n1 = "sha256:{"0" * 64}"')
    house.settle()
    house.settle()
    assert "pins" in house.repository.entries["a", "1"].reason
    assert house.answers("a")[0] == "1"


def test_what_is_wrong_at_the_start_is_raised_after_all_others_were_loaded(tmp_path) -> None:
    put(tmp_path, "a", "1", CORRUPT)
    put(tmp_path, "b", "1")
    house = House(tmp_path)
    with pytest.raises(UnservableModel, match="cannot be read"):
        house.keeper.start_up()
    assert house.answers("b")[0] == "1"
    assert not house.repository.all_ready
    house.put("a", "1")
    house.settle()
    assert house.repository.all_ready


def test_wrong_rules_at_the_start_are_raised(tmp_path) -> None:
    put(tmp_path, "a", "1")
    house = House(tmp_path)
    house.rules("a", "versoin = 1")
    with pytest.raises(InvalidManifest, match="did you mean 'version'"):
        house.keeper.start_up()
    assert not house.repository.all_ready


def test_the_highest_version_is_loaded_first_so_that_no_lower_one_answers_in_its_place(tmp_path) -> None:
    for version in ("1", "2", "10"):
        put(tmp_path, "a", version)
    house = House(tmp_path)
    house.keeper.start_up()
    assert [model.version for model in house.warmed] == ["10", "2", "1"]


def test_a_server_that_goes_down_stops_loading_and_refuses_nothing(house) -> None:
    def warm(model: ReadyModel) -> None:
        raise Draining("going down")

    house.warm = warm
    house.put("a", "2")
    with pytest.raises(Draining):
        house.settle()
    assert house.told == []


def test_an_unloaded_model_stays_so_with_its_new_versions_until_it_is_loaded(house) -> None:
    house.keeper.unload("a")
    with pytest.raises(NotReady, match="unloaded by the operator") as caught:
        house.repository.get("a")
    assert caught.value.retry_after_s is not None
    house.put("a", "2")
    house.settle()
    with pytest.raises(NotReady, match="unloaded"):
        house.repository.get("a")
    house.keeper.load("a")
    assert house.answers("a")[0] == "2"
    assert house.repository.is_ready("a", "1")


def test_loading_on_demand_takes_up_what_lies_there_now_and_says_what_is_wrong(house) -> None:
    house.put("a", "2")
    house.keeper.load("a")
    assert house.answers("a")[0] == "2"
    house.put("a", "2", CORRUPT)
    with pytest.raises(UnservableModel, match="cannot be read"):
        house.keeper.load("a")
    assert house.answers("a")[0] == "2"
    house.put("c", "1")
    house.keeper.load("c")
    assert house.answers("c")[0] == "1"


@pytest.mark.parametrize("name", ["nowhere", "../a", "a/1", "", ".", "a\0"])
def test_what_is_not_there_can_be_neither_loaded_nor_unloaded(house, name) -> None:
    for act in (house.keeper.load, house.keeper.unload):
        with pytest.raises(ModelNotFound, match="there are: a, b"):
            act(name)


@pytest.fixture
def lazy(tmp_path: Path) -> House:
    for name in ("a", "b", "c"):
        put(tmp_path, name, "1", b"x" * 40)
    house = House(tmp_path, Keeping(lazy=True, model_bytes=100))
    house.repository.on_wish = house.keeper.load_wished
    house.keeper.start_up()
    return house


def ask(house: House, name: str) -> bool:
    """Whether it answered at once; if not, it is loaded now."""
    try:
        house.repository.get(name)
    except NotReady:
        return False
    return True


def test_a_lazy_model_loads_when_it_is_asked_for_and_answers_the_next_one(lazy) -> None:
    assert lazy.warmed == []
    assert lazy.repository.all_ready
    assert not ask(lazy, "a")
    assert ask(lazy, "a")


def test_the_least_recently_used_model_leaves_memory(lazy) -> None:
    for name in ("a", "b"):
        ask(lazy, name)
    assert ask(lazy, "b")
    assert ask(lazy, "a")
    ask(lazy, "c")
    assert [ask(lazy, name) for name in ("a", "c")] == [True, True]
    assert lazy.repository.entries["b", "1"].status == "idle"
    assert lazy.count(events.ModelUnloaded) == 1


def test_a_model_larger_than_all_memory_is_refused_and_nobody_leaves_for_it(lazy) -> None:
    ask(lazy, "a")
    lazy.put("a", "1", b"x" * 101)
    lazy.settle()
    assert lazy.answers("a") == ("1", 40)
    assert "all models together may hold 100" in lazy.repository.entries["a", "1"].reason


def test_the_version_that_answers_stays_until_the_new_one_does(tmp_path) -> None:
    put(tmp_path, "a", "1", b"x" * 60)
    house = House(tmp_path, Keeping(model_bytes=100))
    house.keeper.start_up()

    def warm(model: ReadyModel) -> None:
        assert house.answers("a")[0] == "1"

    house.warm = warm
    house.put("a", "2", b"x" * 60)
    house.settle()
    assert house.answers("a")[0] == "2"
    assert house.repository.entries["a", "1"].status == "idle"


def test_an_idle_model_says_how_long_loading_took_last_time(lazy) -> None:
    lazy.warm = lambda model: lazy.clock.advance(7.0)
    ask(lazy, "a")
    lazy.repository.let_go(("a", "1"), "idle")
    lazy.repository.on_wish = lambda key: None
    with pytest.raises(NotReady, match="being loaded") as caught:
        lazy.repository.get("a")
    assert caught.value.retry_after_s == 7.0


def test_a_shadow_is_loaded_without_anybody_asking_for_it(tmp_path) -> None:
    for version in ("1", "2"):
        put(tmp_path, "a", version)
    (tmp_path / "a" / "serving.toml").write_text('[shadow]\nversion = "2"')
    house = House(tmp_path, Keeping(lazy=True))
    house.keeper.start_up()
    assert house.repository.is_ready("a", "2")


def test_the_thread_does_what_is_asked_hands_back_errors_and_grants_wishes_once(lazy) -> None:
    thread = KeeperThread(lazy.keeper, reload_s=0)
    lazy.repository.on_wish = thread.wish
    for _ in range(5):
        ask(lazy, "a")
    with pytest.raises(ModelNotFound):
        thread.ask(lambda: lazy.keeper.load("nowhere")).result(PATIENCE_S)
    assert ask(lazy, "a")
    assert len(lazy.warmed) == 1
    thread.stop()
    with pytest.raises(Draining):
        thread.ask(lambda: None).result(PATIENCE_S)


def test_the_thread_looks_at_the_folder_by_itself_and_survives_a_look_that_fails(house, monkeypatch) -> None:
    looked = []

    def look() -> None:
        looked.append(house.keeper)
        if len(looked) == 1:
            raise ZeroDivisionError
        if len(looked) == 2:
            stop.set()

    stop = threading.Event()
    monkeypatch.setattr(house.keeper, "look", look)
    thread = KeeperThread(house.keeper, reload_s=0.001)
    thread.start()
    assert stop.wait(PATIENCE_S)
    thread.stop()
