"""Keys: their file has hashes only, is read strictly, and is changed without touching what else stands in it."""

import hashlib

import pytest

from service.errors import Forbidden, InvalidSettings
from service.keys import Key, hashed, new_secret, parse_keys, per_second, read_keys, with_key, without_key

SECRET = "eb_secret"
TEXT = f'# of the ward\n[[keys]]\nname = "ward-3"\nsha256 = "{hashed(SECRET)}"\nmodels = ["digits"]  # for now\n'


def test_a_key_is_found_by_its_secret_alone() -> None:
    keys = parse_keys(TEXT)
    found = keys.find(SECRET.encode())
    assert found is not None
    assert found.name == "ward-3"
    digest = hashlib.sha256(SECRET.encode())
    for wrong in (b"", b"ward-3", SECRET[:-1].encode(), f"{SECRET} ".encode(), digest.digest(),
                  digest.hexdigest().encode(), bytes(32), b"\xff\x00"):
        assert keys.find(wrong) is None


def test_a_file_without_keys_knows_nobody() -> None:
    assert parse_keys("").find(b"") is None
    assert len(parse_keys("")) == 0


def test_secrets_are_long_and_never_the_same() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert min(map(len, made)) >= 3 + 43  # 256 bits in base64


def test_what_is_added_and_taken_away_leaves_the_rest_as_it_stood() -> None:
    more = with_key(TEXT, "plant", hashed("x"), ["a", "b"], "100/s", 7)
    assert more.startswith(TEXT)
    assert SECRET not in more
    both = {key.name: key for key in parse_keys(more)}
    assert both["plant"] == Key(
        name="plant", sha256=hashed("x"), models=frozenset({"a", "b"}), rate="100/s", priority=7)  # type: ignore[arg-type]
    assert without_key(more, "plant").rstrip() == TEXT.rstrip()
    assert [key.name for key in parse_keys(without_key(more, "ward-3"))] == ["plant"]
    assert without_key(more, "ward-3").startswith("# of the ward\n")


def test_a_key_that_another_reading_would_lose_is_left_to_people() -> None:
    inline = f'keys = [{{name = "a", sha256 = "{hashed("a")}"}}, {{name = "b", sha256 = "{hashed("b")}"}}]\n'
    with pytest.raises(InvalidSettings, match="by hand"):
        without_key(inline, "a")


@pytest.mark.parametrize(("change", "words"), [
    ('naem = "x"', r"keys\[0\]\.naem: .*did you mean 'name'"),
    ('rate = "often"', r"keys\[0\]\.rate"), ("rate = 5", r"keys\[0\]\.rate"), ('rate = "0/s"', r"keys\[0\]\.rate"),
    ("priority = 10", r"keys\[0\]\.priority"), ("priority = true", r"keys\[0\]\.priority"),
    ('admin = "yes"', r"keys\[0\]\.admin"), ("admin = true", "leave models out"),
    ('[[keys]]\nname = "ward-3"\nsha256 = "' + "0" * 64 + '"', r"keys\[1\]\.name: another"),
    (f'[[keys]]\nname = "other"\nsha256 = "{hashed(SECRET)}"', r"keys\[1\]\.sha256: another"),
    ('[[keys]]\nname = "a b"\nsha256 = "' + "0" * 64 + '"', r"keys\[1\]\.name"),
    ('[[keys]]\nname = "a"\nsha256 = "' + "A" * 64 + '"', r"keys\[1\]\.sha256"),
    ("[key]\n", "key: not a table.*did you mean 'keys'"), ("[[keys", "not TOML"), ("\x00", "not TOML"),
])
def test_a_file_that_is_wrong_is_refused_by_the_place(tmp_path, change, words) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f"{TEXT}{change}\n")
    with pytest.raises(InvalidSettings, match=words) as refused:
        read_keys(path)
    assert str(path) in refused.value.detail


def test_a_file_that_is_not_there_is_said_to_be_that(tmp_path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        read_keys(tmp_path / "none.toml")
    with pytest.raises(InvalidSettings, match="cannot be read"):
        read_keys(tmp_path)


@pytest.mark.parametrize(("rate", "wanted"), [("100/s", 100.0), ("600/min", 10.0), ("5/h", 5 / 3600), ("0.5/s", 0.5)])
def test_a_rate_is_a_number_by_time(rate, wanted) -> None:
    assert per_second(rate) == wanted


@pytest.mark.parametrize("rate", ["", "5", "5/d", "-1/s", "1e3/s", "nan/s", "inf/s", f"{'9' * 400}/s", 5, None])
def test_anything_else_is_no_rate(rate) -> None:
    with pytest.raises(ValueError, match="a number above 0 by time"):
        per_second(rate)


def test_a_keys_highest_priority_lowers_the_default_and_refuses_more() -> None:
    low, high, free = (Key(name="k", sha256="0" * 64, priority=p) for p in (3, 7, None))
    assert [k.settled_priority(None, 5) for k in (low, high, free)] == [3, 5, 5]
    assert [k.settled_priority(3, 5) for k in (low, high, free)] == [3, 3, 3]
    assert high.settled_priority(7, 5) == 7
    assert free.settled_priority(9, 5) == 9
    with pytest.raises(Forbidden, match="at most priority 3, got 4"):
        low.settled_priority(4, 5)
