"""A loaded application, called without a socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.api.app import Server, create_app
from service.clock import MonotonicClock
from service.settings import Settings


@pytest.fixture(scope="session")
def state(small_models: Path) -> Server:
    server = Server(Settings(models=small_models, device="cpu", body_bytes=2_000_000), MonotonicClock())
    server.load()
    return server


@pytest.fixture(scope="session")
def client(state: Server) -> TestClient:
    # no lifespan: the server is loaded once and outlives the tests
    return TestClient(create_app(state.settings, state=state), raise_server_exceptions=False)
