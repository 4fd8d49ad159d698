"""The server's log: one line an event, as text or JSON, and in it nothing of a request that could pass for a line.

No input of a request is ever logged. Names of models are, unless `log_models` is off: whoever logs one wraps it in
`ModelName`, or in `AboutModels` where a sentence may have some."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
_HIDDEN = "(not logged)"


class AboutModels(str):
    """Text that names models, or may."""

    __slots__ = ()


class ModelName(AboutModels):
    """The name of a model, or name/version."""

    __slots__ = ()


def fields(**named: object) -> dict[str, object]:
    """`extra` of a log call: values beside the message, None left out."""
    return {"errorbar_fields": {name: value for name, value in named.items() if value is not None}}


def of_request(**named: object) -> dict[str, object]:
    """`extra` of a log call whose error a request brought about. What it says may quote the request: only types
    and places are logged."""
    return {**fields(**named), "errorbar_of_request": True}


def configure(kind: LogFormat, level: LogLevel, models: bool) -> None:
    """Sends every log of the process to stderr in this format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonLines if kind == "json" else TextLines)(models))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


class _Lines(logging.Formatter):
    def __init__(self, models: bool) -> None:
        super().__init__()
        self._models = models

    def _message(self, record: logging.LogRecord) -> str:
        if self._models or not record.args:
            return record.getMessage()
        args = record.args
        if isinstance(args, Mapping):
            return str(record.msg) % {name: _shown(value) for name, value in args.items()}
        return str(record.msg) % tuple(_shown(value) for value in args)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        found: dict[str, Any] = getattr(record, "errorbar_fields", {})
        return found if self._models else {k: v for k, v in found.items() if not isinstance(v, AboutModels)}

    def _error(self, record: logging.LogRecord) -> list[str]:
        """The lines of a traceback; without what the error says, where that may quote a request."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return []
        if getattr(record, "errorbar_of_request", False) or record.name.startswith("uvicorn") or not self._models:
            return list(_places(error))
        return "".join(traceback.format_exception(error)).splitlines()


class TextLines(_Lines):
    """`2026-11-25 03:42:49,123 INFO message name=value …`. The lines of a traceback follow, each set in by four spaces:
    only an event begins at the margin."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(record.created))},{int(record.msecs):03d}"
        named = "".join(f" {name}={_plain(str(value))}" for name, value in self._fields(record).items())
        first = f"{stamp} {record.levelname} {_plain(self._message(record))}{named}"
        return "\n".join([first, *(f"    {_plain(line)}" for line in self._error(record))])


class JsonLines(_Lines):
    """One JSON object a line, in ASCII: time (UTC, RFC 3339), level, logger, message, the event's own fields, and
    `error` with the lines of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
        line = {"time": stamp, "level": record.levelname.lower(), "logger": record.name,
                "message": self._message(record), **self._fields(record)}
        if error := self._error(record):
            line["error"] = error
        return json.dumps(line, default=str)


def _shown(value: object) -> object:
    return _HIDDEN if isinstance(value, AboutModels) else value


def _plain(text: str) -> str:
    """The text with everything that is no visible character of a line written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _places(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{type(error).__name__}, raised at"
        yield from "".join(traceback.format_tb(error.__traceback__)).splitlines()
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
