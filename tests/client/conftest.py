"""The client of this project, against the application and against servers that misbehave."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from service.client import Client

ROWS = np.array([[1.0, 12.0, 2.0], [3.0, 12.0, 2.0]])


@pytest.fixture
def client(application) -> Client:
    return Client(transport=application._transport)


def scripted(*answers: httpx.Response | Exception) -> tuple[Client, list[httpx.Request]]:
    """A client whose server gives these answers in turn."""
    queue, seen = list(answers), []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = queue.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client(transport=httpx.MockTransport(handle)), seen


def refused(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": "no", "status": status}, headers=headers)
