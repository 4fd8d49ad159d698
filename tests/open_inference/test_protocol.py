"""The document of the protocol says no where a response is wrong; what Errorbar answers is held against it wherever
the tests ask it (`tests/api/conftest.py`, `tests/clients`)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.open_inference.protocol import NotTheProtocol, check

JSON, BINARY = "application/json", "application/octet-stream"
OUTPUT = {"name": "mean", "datatype": "FP32", "shape": [1], "data": [1.5]}
IN_BYTES = {"name": "mean", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}


def inferred(*outputs: Any, **more: Any) -> dict[str, Any]:
    return {"model_name": "m", "outputs": list(outputs), **more}


def checked(path: str, body: Any, status: int = 200, method: str = "GET", kind: str = JSON, behind: bytes = b"",
            length: int | None = None) -> None:
    text = json.dumps(body).encode()
    headers = {"content-type": kind} | ({"inference-header-content-length": str(length or len(text))} if behind else {})
    check(method, path, status, headers, text + behind)


INFER = {"path": "/v2/models/m/infer", "method": "POST"}


@pytest.mark.parametrize("response", [
    {"path": "/v2", "body": {"name": "s", "version": "1", "extensions": []}},
    {"path": "/v2/health/live", "body": {"live": True}}, {"path": "/v2/models/m/ready", "status": 404,
                                                          "body": {"error": "no such model"}},
    {"path": "/v2/models/m/versions/1", "body": {"name": "m", "platform": "p", "inputs": [], "outputs": []}},
    {**INFER, "body": inferred(OUTPUT, id="a", parameters={"a": 1, "b": "c", "d": True})},
    {**INFER, "body": inferred(IN_BYTES, OUTPUT), "kind": BINARY, "behind": b"1234"},
    {"path": "/v2/nothing", "status": 404, "body": {"error": "nothing"}},
])
def test_a_right_response_is_taken_and_in_another_media_type_is_told(response) -> None:
    checked(**response)
    with pytest.raises(NotTheProtocol, match="as 'text/plain', not one of"):
        checked(**{**response, "kind": "text/plain"})


@pytest.mark.parametrize("response", [
    {"path": "/v2", "body": {"name": "s", "version": "1"}}, {"path": "/v2/health/live", "body": {"live": "yes"}},
    {"path": "/v2/nothing", "body": {}}, {"path": "/v2/health/live", "body": {"live": True}, "kind": "text/plain"},
    {"path": "/v2/models/m", "body": {"detail": "no"}, "status": 404},
    {"path": "/v2/models/m", "body": {"error": "no"}, "status": 404, "kind": "application/problem+json"},
    {"path": "/v2/models/m", "body": {
        "name": "m", "platform": "p", "inputs": [{"name": "x", "datatype": "FLOAT", "shape": [1]}], "outputs": []}},
    {**INFER, "body": {"outputs": [OUTPUT]}}, {**INFER, "body": inferred(IN_BYTES)},
    {**INFER, "body": inferred(OUTPUT, id=7)}, {**INFER, "body": inferred(OUTPUT, parameters={"a": [1]})},
    {**INFER, "body": inferred({**OUTPUT, "shape": [-1]})},
    {**INFER, "body": inferred(OUTPUT), "kind": BINARY}, {**INFER, "body": inferred(IN_BYTES), "kind": BINARY},
    {**INFER, "body": inferred({**IN_BYTES, "data": [1.5]}), "kind": BINARY, "behind": b"1234"},
    {**INFER, "body": inferred(IN_BYTES), "kind": BINARY, "behind": b"12345"},
])
def test_a_wrong_response_is_told(response) -> None:
    with pytest.raises(NotTheProtocol):
        checked(**response)
