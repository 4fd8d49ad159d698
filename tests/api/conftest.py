"""The tests of the edge call it `client`. What it answers under /v2 is held against the protocol, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from service.api.app import Server
from service.repository import loader
from tests.api.mixed import BODY_BYTES, write
from tests.conftest import loaded
from tests.open_inference import protocol


@pytest.fixture
def client(application: TestClient) -> TestClient:
    return application


@pytest.fixture(scope="session")
def mixed_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tests/api/mixed.py`."""
    made = tmp_path_factory.mktemp("mixed")
    write(made)
    return made


@pytest.fixture(scope="module")
def mixed(mixed_models: Path) -> Iterator[Server]:
    """A server of it that has loaded them; while it lives, networks of tests may be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "TRUSTED_FACTORIES", ("models.architectures.", "tests.api."))
        yield loaded(mixed_models, body_bytes=BODY_BYTES)


@pytest.fixture(autouse=True)
def of_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    ask: Callable[..., httpx.Response] = TestClient.request

    def checked(self: TestClient, *arguments: Any, **named: Any) -> httpx.Response:
        response = ask(self, *arguments, **named)
        path = response.request.url.path
        if path == "/v2" or path.startswith("/v2/"):
            headers = {name.lower(): value for name, value in response.headers.items()}
            protocol.check(response.request.method, path, response.status_code, headers, response.content)
        return response

    monkeypatch.setattr(TestClient, "request", checked)
