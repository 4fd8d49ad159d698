"""Settings: command line over environment over file over defaults, and no name that is not known."""

import json

import pytest

from service.errors import InvalidSettings
from service.settings import Settings, read_settings, settled


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_nearer_source_wins(elsewhere, monkeypatch) -> None:
    assert read_settings().port == 8080
    (elsewhere / "errorbar.toml").write_text("port = 1\nrows = 7\n")
    assert read_settings().port == 1
    monkeypatch.setenv("ERRORBAR_PORT", "2")
    assert read_settings().port == 2
    assert read_settings({"port": 3, "host": None}).port == 3
    assert read_settings().limits.rows == 7


def test_an_unknown_name_is_refused_wherever_it_stands(elsewhere, monkeypatch) -> None:
    with pytest.raises(InvalidSettings, match="prot"):
        read_settings({"prot": 1})
    monkeypatch.setenv("ERRORBAR_PROT", "1")
    with pytest.raises(InvalidSettings, match="did you mean 'ERRORBAR_PORT'"):
        read_settings()
    monkeypatch.delenv("ERRORBAR_PROT")
    (elsewhere / "errorbar.toml").write_text("prot = 1\n")
    with pytest.raises(InvalidSettings, match=r"prot.*did you mean 'port'"):
        read_settings()


@pytest.mark.parametrize(("name", "value"), [("port", "x"), ("port", 70000), ("device", "tpu"), ("rows", 0)])
def test_a_value_out_of_range_is_refused_by_name(name, value) -> None:
    with pytest.raises(InvalidSettings, match=name):
        read_settings({name: value})


@pytest.mark.parametrize("grace_s", ["inf", "nan", "0", "3601"])
def test_patience_at_the_end_has_a_bound(grace_s) -> None:
    with pytest.raises(InvalidSettings, match="grace"):
        read_settings({"grace_s": float(grace_s)})


def test_a_wrong_value_is_named_as_whoever_set_it_wrote_it(elsewhere, monkeypatch) -> None:
    with pytest.raises(InvalidSettings, match=r"^--body-bytes: "):
        read_settings({"body_bytes": 0})
    (elsewhere / "errorbar.toml").write_text("body_bytes = 0\n")
    with pytest.raises(InvalidSettings, match=r"^errorbar\.toml: body_bytes: "):
        read_settings()
    monkeypatch.setenv("ERRORBAR_BODY_BYTES", "0")
    with pytest.raises(InvalidSettings, match=r"^ERRORBAR_BODY_BYTES: "):
        read_settings()


def test_settings_that_were_read_once_are_not_read_again(elsewhere, monkeypatch) -> None:
    monkeypatch.setenv("ERRORBAR_PORT", "2")
    read = read_settings({"rows": 7, "models": elsewhere})
    values = json.loads(json.dumps(read.model_dump(mode="json")))
    monkeypatch.setenv("ERRORBAR_PORT", "3")
    (elsewhere / "errorbar.toml").write_text("prot = 1\nsamples = 9\n")
    assert settled(values).model_dump() == read.model_dump()


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
