"""The operator's rules: read strictly, and a canary that is chosen by the request's id."""

from __future__ import annotations

import tomllib

import pytest

from service.errors import InvalidManifest
from service.repository.serving import Canary, Rules, Shadow, in_canary, parse_rules, read_rules
from service.repository.tables import Table

DIGEST = f"sha256:{'0' * 64}"
WHOLE = f"""
version = "3"
[canary]
version = "4"
share = 0.05
[shadow]
version = "5"
[digests]
3 = "{DIGEST}"
4 = ["{DIGEST}", "{DIGEST}"]
"""


def parsed(text: str) -> Rules:
    return parse_rules(Table(tomllib.loads(text), file="serving.toml"))


def test_rules_are_read_with_their_defaults() -> None:
    assert parsed(WHOLE) == Rules(
        "3", Canary("4", 0.05), Shadow("5", 1.0, 0.01), {"3": (DIGEST,), "4": (DIGEST, DIGEST)})
    assert parsed("") == Rules()


@pytest.mark.parametrize(("text", "path", "words"), [
    ('verison = "3"', "verison", "not a key of serving.toml (did you mean 'version'"),
    ('version = "latest"', "version", "a whole number in quotes"),
    ("version = 3", "version", "a string expected"),
    ("[canary]\nshare = 0.1", "canary.version", "missing"),
    ('[canary]\nversion = "4"', "canary.share", "missing"),
    ('[canary]\nversion = "4"\nshare = 0', "canary.share", "above 0"),
    ('[canary]\nversion = "4"\nshare = 1.5', "canary.share", "at most 1"),
    ('[canary]\nversion = "4"\nshare = nan', "canary.share", "at most 1"),
    ('[canary]\nversion = "4"\nshare = 0.1\nsticky = true', "canary.sticky", "not a key"),
    ('[shadow]\nversion = "4"\ntolerance = 1', "shadow.tolerance", "below 1"),
    ('[shadow]\nversion = "4"\ntollerance = 0.1', "shadow.tollerance", "did you mean 'tolerance'"),
    ('version = "4"\n[shadow]\nversion = "4"', "version", "three different"),
    ('[canary]\nversion = "4"\nshare = 1\n[shadow]\nversion = "4"', "version", "three different"),
    ('[digests]\n1 = "sha256:0"', "digests.1", "64 hexadecimal digits"),
    ("[digests]\n1 = 5", "digests.1", "a string expected"),
    (f'[digests]\nlatest = "{DIGEST}"', "digests.latest", "the number of a version"),
])
def test_a_wrong_key_of_the_rules_is_named_by_its_path(text, path, words) -> None:
    with pytest.raises(InvalidManifest) as caught:
        parsed(text)
    assert caught.value.faults[0].path == path
    assert words in caught.value.detail


def test_a_file_of_rules_that_is_none_is_named_and_none_at_all_means_the_defaults(tmp_path) -> None:
    path = tmp_path / "serving.toml"
    assert read_rules(path) == Rules()
    path.write_text("version = ")
    with pytest.raises(InvalidManifest, match=r"serving\.toml: not TOML"):
        read_rules(path)
    path.write_text("version = 3")
    with pytest.raises(InvalidManifest, match=r"serving\.toml: version: a string"):
        read_rules(path)


def test_a_canary_gets_its_share_of_the_ids_and_always_the_same_ones() -> None:
    ids = [f"request-{i}" for i in range(20_000)]
    chosen = {i for i in ids if in_canary("digits", i, 0.05)}
    assert chosen == {i for i in ids if in_canary("digits", i, 0.05)}
    assert 0.04 < len(chosen) / len(ids) < 0.06
    assert chosen < {i for i in ids if in_canary("digits", i, 0.1)}
    assert all(in_canary("digits", i, 1.0) for i in ids)
    others = {i for i in ids if in_canary("flowers", i, 0.05)}
    assert len(chosen & others) < len(chosen) / 4
