"""The lock of release images: every package that the server needs, as tested, each file by its hash."""

from __future__ import annotations

import re
import tomllib

from tests.deploy.test_deploy import DOCKERFILE, ROOT

LOCK = (ROOT / "requirements-release.lock").read_text()
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    return {normal(name): version for name, version in PINNED.findall(text)}


def test_the_lock_holds_the_versions_that_are_tested() -> None:
    tested = pins((ROOT / "constraints.txt").read_text())
    assert {name: version for name, version in pins(LOCK).items() if tested.get(name) != version} == {}


def test_the_lock_has_everything_that_the_server_needs_but_torch() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    names = {normal(re.split(r"[<>=;\s]", need)[0]) for need in needed}
    assert names - pins(LOCK).keys() == {"torch"}


def test_every_package_of_the_lock_has_hashes_and_nothing_says_where_it_comes_from() -> None:
    packages = re.split(r"\n(?=[A-Za-z0-9])", LOCK)[1:]
    assert len(packages) == len(pins(LOCK))
    for package in packages:
        assert re.search(r"^\s+--hash=sha256:[0-9a-f]{64}", package, re.MULTILINE), package
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted", LOCK)


def test_only_the_image_uses_the_lock_and_only_where_it_is_told_to() -> None:
    assert "requirements-release.lock" in DOCKERFILE
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^\.venv/.*lock", makefile, re.MULTILINE) is None
    for target in ("serve", "test"):
        recipe = re.search(rf"^{target}:.*\n(?:\t.*\n)+", makefile, re.MULTILINE)
        assert recipe is not None
        assert "lock" not in recipe.group()
