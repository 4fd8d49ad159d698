"""Holds responses against the protocol's document, `protocol.yaml`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

DOCUMENT: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("protocol.yaml").read_text())
_LENGTH = "inference-header-content-length"


class NotTheProtocol(AssertionError):
    """What a response is not."""


def check(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """NotTheProtocol where that is no response to that request. headers: names in small letters; body: unpacked."""
    for_path = next((found for pattern, found in _PATHS if pattern.fullmatch(path)), None)
    operation = (for_path or {}).get(method.lower())
    if operation is None:
        if status < 400:
            raise NotTheProtocol(f"{method} {path} is not of the protocol, and answers {status}")
        operation = {"responses": {"default": {"$ref": "#/components/responses/error"}}}
    responses = operation["responses"]
    content = _found(responses.get(str(status), responses["default"]))["content"]
    kind = headers.get("content-type", "").partition(";")[0]
    if kind not in content:
        raise NotTheProtocol(f"{method} {path}: {status} as {kind!r}, not one of {', '.join(content)}")
    check_body(json.loads(body[: int(headers.get(_LENGTH, len(body)))]), content[kind]["schema"])
    if kind == "application/octet-stream":
        _check_bytes(headers, body)


def check_body(value: Any, schema: Mapping[str, Any]) -> None:
    """NotTheProtocol where that JSON is not what the schema says."""
    try:
        jsonschema_rs.validate({**schema, "components": DOCUMENT["components"]}, value)
    except jsonschema_rs.ValidationError as e:
        raise NotTheProtocol(str(e)) from e


def schema(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _check_bytes(headers: Mapping[str, str], body: bytes) -> None:
    if _LENGTH not in headers:
        raise NotTheProtocol(f"binary data without {_LENGTH}")
    length = int(headers[_LENGTH])
    outputs = json.loads(body[:length])["outputs"]
    sizes = [output["parameters"]["binary_data_size"] for output in outputs if "data" not in output]
    if sum(sizes) != len(body) - length:
        raise NotTheProtocol(f"{sizes} bytes of binary data told, {len(body) - length} there")


def _found(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference within the document leads to."""
    found: Mapping[str, Any] = entry
    if "$ref" in entry:
        found = DOCUMENT
        for key in entry["$ref"].removeprefix("#/").split("/"):
            found = found[key]
    return found


_PATHS = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), item) for path, item in DOCUMENT["paths"].items()]
