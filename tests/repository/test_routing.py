"""Which version answers whom; and which models leave memory."""

from __future__ import annotations

from pathlib import Path

from service.repository.budget import to_unload
from service.repository.folder import read_folder
from service.repository.routing import Entry, Status, route
from service.repository.serving import Canary, Rules, Shadow
from tests.repository.stand_ins import put, stand_in


def entries(root: Path, load_s: float | None = None, **statuses: Status) -> dict[str, Entry]:
    found = {}
    for version, status in ((v.removeprefix("v"), s) for v, s in statuses.items()):
        folder = put(root, "flowers", version)
        model = stand_in(folder, read_folder(folder)) if status == "ready" else None
        found[version] = Entry(status, model, load_s=load_s)
    return found


def test_the_highest_version_that_could_be_loaded_answers_by_default(tmp_path) -> None:
    found = route(entries(tmp_path, v1="ready", v2="ready", v3="failed", v4="loading"), Rules(), None)
    assert found.default is not None
    assert found.default.version == "2"
    assert list(found.versions) == ["1", "2"]


def test_a_canary_and_a_shadow_are_never_the_default(tmp_path) -> None:
    rules = Rules(canary=Canary("3", 0.1), shadow=Shadow("4"))
    found = route(entries(tmp_path, v2="ready", v3="ready", v4="ready"), rules, None)
    assert [found.role(v) for v in ("1", "2", "3", "4")] == [None, "default", "canary", "shadow"]
    alone = route(entries(tmp_path, v3="ready", v4="ready"), rules, None)
    assert alone.default is None


def test_the_version_that_the_operator_names_answers_and_no_other_in_its_place(tmp_path) -> None:
    both = entries(tmp_path, v1="ready", v2="ready")
    found = route(both, Rules("1"), "2")
    assert found.default is not None
    assert found.default.version == "1"
    assert route(entries(tmp_path, v1="loading", v2="ready"), Rules("1"), None).default is None


def test_the_former_version_goes_on_until_the_named_one_was_ready(tmp_path) -> None:
    for status in ("loading", "failed"):
        found = route(entries(tmp_path, v1="ready", v2="ready", v3=status), Rules("3"), "1")
        assert found.default is not None
        assert found.default.version == "1"


def test_which_version_answers_does_not_depend_on_memory(tmp_path) -> None:
    for status in ("idle", "unloaded"):
        found = route(entries(tmp_path, v1="ready", v2=status), Rules(), "2")
        assert (found.default, found.wanted) == (None, "2")
    refused = route(entries(tmp_path, load_s=1.0, v1="ready", v2="failed"), Rules(), "2")
    assert (refused.default, refused.wanted) == (None, "2")


def test_the_least_recently_used_leave_and_no_more_than_must() -> None:
    held = {("a", "1"): 50, ("b", "1"): 30, ("c", "1"): 20}
    used = {("a", "1"): 3, ("b", "1"): 1}
    assert to_unload(held, used, needed=10, budget=110) == []
    assert to_unload(held, used, needed=25, budget=110) == [("c", "1")]
    assert to_unload(held, used, needed=40, budget=110) == [("c", "1"), ("b", "1")]
    assert to_unload(held, used, needed=500, budget=110) == [("c", "1"), ("b", "1"), ("a", "1")]
