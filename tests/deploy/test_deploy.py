"""What deploy/ says agrees with the image, with the settings and with the routes that there are. No engine needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings, read_settings

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TEXT = (DEPLOY / "compose.yaml").read_text()
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
COMPOSE: dict[str, Any] = yaml.safe_load(VARIABLE.sub(r"\2", TEXT))  # as it is where no variable is set
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ERRORBAR = SERVICES["errorbar"]
SCRAPES = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the server in the container reads: the image's variables, then Compose's. InvalidSettings where one is none
    of the server's."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    image = dict(re.findall(rf"\b({PREFIX}\w+)=(\S+)", DOCKERFILE))
    assert image
    for name, value in (image | ERRORBAR["environment"]).items():
        monkeypatch.setenv(name, str(value))
    return read_settings()


def test_every_variable_that_the_image_and_compose_set_is_a_setting(settings) -> None:
    set_here = {name for name in os.environ if name.startswith(PREFIX)}
    assert {f"{PREFIX}{name.upper()}" for name in settings.model_fields_set} == set_here


def test_the_published_port_is_the_one_the_server_listens_on_from_outside_its_container(settings) -> None:
    assert ERRORBAR["ports"] == [f"127.0.0.1:8080:{settings.port}"]
    assert settings.host == "0.0.0.0"
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(settings.port)]


def test_prometheus_scrapes_the_server_at_its_port_and_at_a_route_that_counts_requests(settings, application) -> None:
    (scrape,) = SCRAPES
    assert scrape["static_configs"] == [{"targets": [f"errorbar:{settings.port}"]}]
    answer = application.get(scrape["metrics_path"])
    assert answer.status_code == 200
    assert "# TYPE errorbar_requests_total counter" in answer.text


def test_the_engine_waits_longer_than_the_server_takes_to_drain(settings) -> None:
    assert seconds(ERRORBAR["stop_grace_period"]) > settings.grace_s


def test_the_folder_that_is_mounted_is_the_folder_that_is_served(settings) -> None:
    (mount,) = ERRORBAR["volumes"]
    assert mount["target"] == str(settings.models)
    assert list((DEPLOY / mount["source"]).glob("*/*/model.toml"))


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A stand-in for the server that gives every request this status: its port, and the paths it was asked for."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, paths
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_container_is_healthy_when_the_server_is_ready(status, healthy, application) -> None:
    kind, python, *arguments = ERRORBAR["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")
    with answering(status) as (port, paths):
        environment = os.environ | {"ERRORBAR_PORT": str(port)}
        done = subprocess.run([sys.executable, *arguments], env=environment, check=False, timeout=60)
    assert (done.returncode == 0) is healthy
    assert [application.get(path).json() for path in paths] == [{"ready": True}]


def test_the_build_is_the_one_of_the_dockerfile() -> None:
    build = ERRORBAR["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    arguments = dict(re.findall(r'^ARG (\w+)="?([^"\n]*)"?$', DOCKERFILE, re.MULTILINE))
    arguments["BASE_IMAGE"] = arguments["BASE_IMAGE"].rsplit("/", 1)[1]  # Compose leaves out where it comes from
    assert {name: value or "" for name, value in build["args"].items()} == arguments


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_nothing_is_published_beyond_loopback(service) -> None:
    assert [port for port in service["ports"] if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)] == []
    assert "network_mode" not in service


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_container_has_a_read_only_root_no_capabilities_and_a_memory_limit(service) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service.keys() & {"cap_add", "privileged", "user", "devices", "pid", "ipc"} == set()


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_what_is_mounted_from_the_host_is_there_and_cannot_be_written(service) -> None:
    binds = [mount for mount in service["volumes"] if mount["type"] == "bind"]
    assert binds
    for mount in binds:
        assert (DEPLOY / mount["source"]).is_dir()
        assert mount["read_only"] is True
        assert mount["bind"] == {"create_host_path": False}


def test_errorbar_runs_alone_unless_metrics_are_asked_for() -> None:
    assert {name: service.get("profiles") for name, service in SERVICES.items()} == {
        "errorbar": None, "prometheus": ["metrics"]}


def test_every_variable_has_a_default_and_the_readme_tells_it() -> None:
    assert "$" not in VARIABLE.sub("", TEXT)
    rows = re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]*?)`? \|", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    assert rows == [(name, default or "empty") for name, default in VARIABLE.findall(TEXT)]


def test_the_readme_tells_every_address_that_is_published() -> None:
    told = re.findall(r"^\| `(\S+:\d+)` \|", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    assert told == [port.rsplit(":", 1)[0] for service in SERVICES.values() for port in service["ports"]]
