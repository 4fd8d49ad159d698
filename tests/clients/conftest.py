"""The real server, in its own environment, for clients that live in theirs (`make test-clients`)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.process.conftest import ROOT, served

ROWS = np.array([[1.0, 12.0, 2.0], [0.1, 3.0, 1.5]], np.float32)
SERVERS_PYTHON = ROOT / ".venv" / "bin" / "python"


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server with the models of `tests/clients/serve.py`."""
    folder = tmp_path_factory.mktemp("models")
    with served(program=("-m", "tests.clients.serve", str(folder)), python=str(SERVERS_PYTHON)) as server:
        yield server.url


@pytest.fixture(autouse=True)
def right_afterwards(url) -> Iterator[None]:
    """Whatever a client did, the next one is answered."""
    yield
    answer = httpx.post(f"{url}/v1/models/flowers:predict", json={"instances": ROWS.tolist()}, timeout=30)
    assert answer.status_code == 200


def native(url: str, model: str, mode: str, instances: object, **options: object) -> list[dict[str, object]]:
    """What the native route answers."""
    body = {"instances": instances, **options}
    answer = httpx.post(f"{url}/v1/models/{model}:{mode}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()["predictions"]
    return found
