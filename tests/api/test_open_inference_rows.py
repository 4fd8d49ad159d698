"""Images, texts and large bodies by the Open Inference Protocol: the native route's answers and its limits."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.api.app import Server
from service.api.openapi import example_infer
from service.errors import InvalidManifest
from service.repository import load_model
from tests.api.mixed import BODY_BYTES
from tests.api.test_open_inference import check_error, infer, outputs, tensor
from tests.conftest import CLASSIFIER, classifier, client_of, write_model
from tests.preprocessing.files import noise, packed, png, saved

PNG, JPEG = png(noise(20, 15)), saved(noise(15, 30, seed=1), "JPEG")
SAMPLED = {"mode": "uncertainty", "samples": 40, "seed": 5}


@pytest.fixture(scope="module")
def client(mixed: Server) -> TestClient:
    return client_of(mixed)


def elements(name: str, *contents: bytes) -> tuple[dict[str, Any], bytes]:
    """An input of BYTES, and what stands behind the JSON for it."""
    packed_ones = b"".join(struct.pack("<I", len(content)) + content for content in contents)
    return {"name": name, "datatype": "BYTES", "shape": [len(contents)],
            "parameters": {"binary_data_size": len(packed_ones)}}, packed_ones


def in_json(name: str, *texts: str) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}


def asked(client: TestClient, model: str, *inputs: dict[str, Any], binary: bytes = b"", **fields: Any) -> Any:
    return infer(client, *inputs, binary=binary, path=f"/v2/models/{model}/infer", **fields)


def native(client: TestClient, model: str, *rows: Any) -> Any:
    options = {name: value for name, value in SAMPLED.items() if name != "mode"}
    answer = client.post(f"/v1/models/{model}:uncertainty", json={"instances": rows, **options})
    assert answer.status_code == 200, answer.text
    return [row["mean"] for row in answer.json()["predictions"]]


def test_images_come_as_they_are_or_as_base64_in_json(client) -> None:
    expected = native(client, "photo", packed(PNG), packed(JPEG))
    entry, content = elements("image", PNG, JPEG)
    as_bytes = asked(client, "photo", entry, binary=content, parameters=SAMPLED)
    as_text = asked(client, "photo", in_json("image", *(base64.b64encode(c).decode() for c in (PNG, JPEG))),
                    parameters=SAMPLED)
    for answer in (as_bytes, as_text):
        np.testing.assert_allclose(outputs(answer)["mean"], expected, rtol=1e-5)


def test_a_row_may_have_an_image_a_text_and_numbers(client) -> None:
    numbers = [[0.5, -1.0, 2.0]]
    image, content = elements("image", PNG)
    answer = asked(client, "witness", image, in_json("tokens", "a dog"), tensor(numbers, name="numbers"),
                   binary=content, parameters=SAMPLED)
    expected = native(client, "witness", {"image": packed(PNG), "tokens": "a dog", "numbers": numbers[0]})
    np.testing.assert_allclose(outputs(answer)["mean"], expected, rtol=1e-5)


@pytest.mark.parametrize(("model", "inputs", "words"), [
    ("photo", [in_json("image", base64.b64encode(PNG).decode(), "!")], ("image[1]", "base64")),
    ("photo", [in_json("image", base64.b64encode(PNG[:99]).decode())], ("image", "cannot be decoded")),
    ("judge", [in_json("tokens", "a cat", "the cat sat on the red mat")], ("tokens", "at most 8 tokens")),
    ("judge", [in_json("tokens", "a cat"), tensor(np.ones((1, 8), int), "INT64", "mask")], ("mask", "leave it out")),
    ("judge", [tensor(np.ones((1, 8), int), "INT64", "tokens")], ("mask", "missing")),
    ("witness", [in_json("tokens", "a cat")], ("image", "missing")),
    ("witness", [in_json("tokens", "a cat", "a dog"), tensor(np.ones((1, 3)), name="numbers"),
                 in_json("image", base64.b64encode(PNG).decode())], ("rows",)),
])
def test_what_is_wrong_is_named_with_its_input_and_row(client, model, inputs, words) -> None:
    check_error(asked(client, model, *inputs), 400, "invalid_input", *words)


def test_bytes_that_are_no_text_are_told(client) -> None:
    entry, content = elements("tokens", b"a cat", b"\xff\xfe")
    check_error(asked(client, "judge", entry, binary=content), 400, "invalid_input", "tokens[1]", "UTF-8")


def test_more_elements_than_rows_are_allowed_are_refused_before_they_are_read(client, mixed) -> None:
    most = mixed.settings.rows
    flood = {"name": "tokens", "datatype": "BYTES", "shape": [most + 1], "parameters": {"binary_data_size": 8}}
    check_error(asked(client, "judge", flood, binary=bytes(8)), 413, "too_large", "tokens.shape", str(most))
    lying = {**flood, "shape": [3], "parameters": {"binary_data_size": 40_000}}
    check_error(asked(client, "judge", lying, binary=bytes(40_000)), 400, "invalid_input", "got more")


def test_small_images_that_become_many_numbers_meet_the_limit_of_bodies(client) -> None:
    dot, most = png(noise(1, 1)), BODY_BYTES // (3 * 8 * 8 * 4)
    entry, content = elements("image", *[dot] * (most + 1))
    check_error(asked(client, "photo", entry, binary=content), 413, "too_large", f"at most {BODY_BYTES} bytes")


def test_a_compressed_body_counts_among_the_bodies_in_memory_as_what_it_may_become(mixed, monkeypatch) -> None:
    body = json.dumps({"inputs": [tensor(np.ones((400, 3), np.float32))]}).encode()
    packed_body = gzip.compress(body)
    limited = mixed.settings.model_copy(update={"waiting_bytes": BODY_BYTES // 2})
    monkeypatch.setattr(mixed, "settings", limited)
    tight = client_of(mixed)
    path, coding = "/v2/models/flowers/infer", {"Content-Encoding": "gzip"}
    assert tight.post(path, content=body).status_code == 200
    answer = tight.post(path, content=packed_body, headers=coding)
    assert len(packed_body) * 1032 > BODY_BYTES // 2 > len(body)
    check_error(answer, 429, "overloaded")
    assert tight.post(path, content=body).status_code == 200


def test_whole_numbers_that_float32_cannot_hold_are_rounded_to_the_next_it_can(client) -> None:
    """As every number is; a model of integers, whose range no such number is in, takes INT64 unchanged."""
    exact, rounded = 2**24 + 1, 2**24
    answers = [outputs(asked(client, "flowers", tensor([[n, 1, 1]], "INT64")))["probabilities"]
               for n in (exact, rounded)]
    assert np.array_equal(*answers)
    tokens = tensor(np.full((1, 8), exact), "INT64", "tokens")
    check_error(asked(client, "judge", tokens, tensor(np.ones((1, 8), int), "INT64", "mask")), 400, "invalid_input",
                "tokens")


def test_no_model_is_called_as_the_protocols_route_of_statistics(tmp_path) -> None:
    folder = write_model(tmp_path, "stats", CLASSIFIER.replace("flowers", "stats"), classifier())
    with pytest.raises(InvalidManifest, match="stats"):
        load_model(folder)


@pytest.mark.parametrize("model", ["photo", "judge", "witness", "flowers"])
def test_the_contracts_example_of_each_model_is_answered(client, mixed, model) -> None:
    answer = client.post(f"/v2/models/{model}/infer", json=example_infer(mixed.repository.get(model).manifest))
    assert outputs(answer)["mean"].shape == (1, 2)
