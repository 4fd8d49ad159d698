"""The tests of the edge call it `client`."""

import pytest
from fastapi.testclient import TestClient


@pytest.fixture
def client(application: TestClient) -> TestClient:
    return application
