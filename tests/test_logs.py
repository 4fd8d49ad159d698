"""The log: one event a line whatever a request brings, and no input or name in it that is not to be there."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.logs import AboutModels, JsonLines, ModelName, TextLines, fields, of_request

NASTY = st.text(st.characters(), min_size=0, max_size=40) | st.sampled_from(
    ["a\nb", "\r\n2026-11-25 00:00:00,000 INFO forged", "\x1b[2J", "\u2028", "\u202e", "\x85", "\udc80", "\x00"])


def record(message: str, *args: object, error: BaseException | None = None, name: str = "errorbar",
           extra: dict[str, object] | None = None) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.INFO, __file__, 1, message, args, None)
    made.exc_info = (type(error), error, error.__traceback__) if error is not None else None
    made.__dict__.update(extra or {})
    return made


def raised(words: str) -> BaseException:
    try:
        raise ValueError(words)
    except ValueError as e:
        return e


@pytest.mark.parametrize("lines", [TextLines(True), JsonLines(True)])
@given(text=NASTY, value=NASTY)
def test_an_event_is_one_line_of_visible_characters_whatever_is_said(lines, text, value) -> None:
    written = lines.format(record("%s", text, extra=fields(value=value)))
    assert written.isprintable()
    assert written.encode()  # no lone surrogate


@given(text=NASTY)
def test_json_says_exactly_what_was_said(text) -> None:
    line = json.loads(JsonLines(True).format(record("said: %s", text, extra=fields(given=text, none=None))))
    assert line["message"] == f"said: {text}"
    assert line["given"] == text
    assert "none" not in line
    assert (line["level"], line["logger"]) == ("info", "errorbar")


@given(text=NASTY)
def test_only_events_begin_at_the_margin_of_the_text(text) -> None:
    first, *others = TextLines(True).format(record("failed", error=raised(text))).split("\n")
    assert first.endswith("INFO failed")
    assert any("raised(" in line or "raise ValueError" in line for line in others)
    for line in others:
        assert line.startswith("    ")
        assert line.isprintable()


@pytest.mark.parametrize("kind", [TextLines, JsonLines])
@pytest.mark.parametrize("about", [{"extra": of_request()}, {"name": "uvicorn.error"}])
def test_an_error_that_a_request_brought_about_is_logged_by_type_and_place_alone(kind, about) -> None:
    written = kind(True).format(record("failed", error=raised("could not read 'John Smith, HIV'"), **about))
    assert "ValueError" in written
    assert "test_logs.py" in written
    assert "John" not in written


def test_an_error_of_the_servers_own_says_what_it_says() -> None:
    assert "no such file" in TextLines(True).format(record("failed", error=raised("no such file")))


@pytest.mark.parametrize("kind", [TextLines, JsonLines])
def test_names_of_models_are_left_out_where_the_log_may_not_have_them(kind) -> None:
    said = record("ready: %s, %d, %s", ModelName("hiv/1"), 7, "plain", extra=fields(model=ModelName("hiv"), count=3))
    assert "hiv" in kind(True).format(said)
    hidden = kind(False).format(said)
    assert "hiv" not in hidden
    assert "7, plain" in hidden
    assert "3" in hidden
    assert "hiv" not in kind(False).format(record("not ready: %s", AboutModels("models/hiv/1: broken")))
    assert "hiv" not in kind(False).format(record("not ready", error=raised("models/hiv/1: broken")))
    assert "hiv" not in kind(False).format(record("not ready: %(why)s", {"why": AboutModels("hiv")}))  # type: ignore
