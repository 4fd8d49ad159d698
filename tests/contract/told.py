"""What others build on, as texts: a change of one shows as a change of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from prometheus_client.metrics import MetricWrapperBase
from typer.testing import CliRunner

from service.api.app import create_app
from service.api.problems import STATUS
from service.cli import app
from service.errors import ErrorbarError
from service.metrics import Metrics
from service.settings import PREFIX, Settings, settled

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def openapi() -> str:
    """The document of a server that has no model yet: no names of models, no examples."""
    document = create_app(settled({})).app.openapi()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def metrics() -> str:
    """A line a metric: kind, name, labels, buckets, meaning."""
    found = [metric for metric in Metrics().registry._collector_to_names if isinstance(metric, MetricWrapperBase)]
    return _lines(sorted(_metric(metric) for metric in found))


def _metric(metric: MetricWrapperBase) -> str:
    (family,) = metric.describe()
    labels = ", ".join(metric._labelnames)
    buckets = metric._kwargs.get("buckets")
    tail = "" if buckets is None else f" in {', '.join(map(str, buckets))}"
    return f"{family.type} {family.name}{{{labels}}}{tail}: {family.documentation}"


def settings() -> str:
    """A line a setting: its name in the environment, type, default, meaning."""
    properties = Settings.model_json_schema()["properties"]
    return _lines(f"{PREFIX}{name.upper()} {_setting(about)}: {about['description']}"
                  for name, about in properties.items())


def _setting(about: Mapping[str, Any]) -> str:
    told = {key: value for key, value in about.items() if key not in ("title", "description")}
    return json.dumps(told).replace(f"{ROOT}/", "")


def errors() -> str:
    """A line a code: status, class, base."""
    return _lines(sorted(
        f"{kind.code} {STATUS.get(kind.code, ('-',))[0]} {kind.__name__}({kind.__base__.__name__})"
        for kind in _errors()))


def _errors(base: type[ErrorbarError] = ErrorbarError) -> Iterator[type[ErrorbarError]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("service."):
            yield kind
            yield from _errors(kind)


def commands() -> str:
    """What `--help` says of the command line and of each of its commands."""
    return "\n".join(_help(names) for names in ((), *_names(app)))


def _names(group: typer.Typer, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for command in group.registered_commands:
        assert command.name is not None or command.callback is not None
        yield (*before, command.name or command.callback.__name__)
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        name = (*before, inner.name or str(inner.typer_instance.info.name))
        yield name
        yield from _names(inner.typer_instance, name)


def _help(names: tuple[str, ...]) -> str:
    told = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "120", "TERM": "dumb"})
    assert told.exit_code == 0, told.output
    return told.output.strip() + "\n"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


TOLD: dict[str, Callable[[], str]] = {
    "openapi.json": openapi, "metrics.txt": metrics, "settings.txt": settings, "errors.txt": errors,
    "commands.txt": commands,
}
