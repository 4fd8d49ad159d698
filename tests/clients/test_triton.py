"""tritonclient, pointed at Errorbar, works: every combination of formats that it can send, and its errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.clients.conftest import ROWS, native
from tests.open_inference.protocol import check_body, schema

triton = pytest.importorskip("tritonclient.http")
aio = pytest.importorskip("tritonclient.http.aio")
utils = pytest.importorskip("tritonclient.utils")

OUTPUTS = {"default": None, "binary": True, "JSON": False}
SAMPLED = {"mode": "uncertainty", "samples": 40, "seed": 5}


@pytest.fixture
def client(url) -> Any:
    with triton.InferenceServerClient(url.removeprefix("http://")) as made:
        yield made


def given(values: Any = ROWS, datatype: str = "FP32", name: str = "x", binary: bool = True) -> Any:
    array = np.asarray(values)
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def asked(names: list[str], binary: bool | None) -> Any:
    return None if binary is None else [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_the_server_its_models_and_their_repository_are_what_it_expects(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flowers")
    assert client.is_model_ready("flowers", "1")
    assert not client.is_model_ready("trees")
    assert client.get_server_metadata()["name"] == "errorbar"
    check_body(client.get_server_metadata(), schema("server"))
    check_body(client.get_model_metadata("flowers"), schema("model"))
    check_body(client.get_model_repository_index(), schema("index"))
    assert client.get_model_metadata("flowers")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert {entry["name"] for entry in client.get_model_repository_index()} >= {"flowers", "picture", "judge"}
    client.unload_model("picture")
    assert not client.is_model_ready("picture")
    client.load_model("picture")
    assert client.is_model_ready("picture")


@pytest.mark.parametrize("content_type", [None, "application/json"])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("binary_input", [True, False])
def test_every_combination_of_input_output_and_content_type(client, url, binary_input, output, content_type) -> None:
    headers = None if content_type is None else {"Content-Type": content_type}
    expected = native(url, "flowers", "uncertainty", ROWS.tolist(), samples=40, seed=5)
    answer = client.infer(
        "flowers", [given(binary=binary_input)], outputs=asked(["mean", "std", "label"], OUTPUTS[output]),
        headers=headers, parameters=SAMPLED, request_id="seven")
    for name in ("mean", "std"):
        np.testing.assert_allclose(answer.as_numpy(name), [row[name] for row in expected], rtol=1e-4, atol=1e-6)
    labels = [text.decode() if isinstance(text, bytes) else text for text in answer.as_numpy("label").tolist()]
    assert labels == [row["label"] for row in expected]
    assert answer.get_response()["id"] == "seven"
    check_body(answer.get_response(), schema("infer" if output == "JSON" else "infer_binary"))


def test_asyncio_gets_the_same(url) -> None:
    async def main() -> Any:
        async with aio.InferenceServerClient(url.removeprefix("http://")) as client:
            answers = await asyncio.gather(*(client.infer("flowers", [given()], parameters=SAMPLED) for _ in range(8)))
            return [answer.as_numpy("mean") for answer in answers]

    expected = [row["mean"] for row in native(url, "flowers", "uncertainty", ROWS.tolist(), samples=40, seed=5)]
    for mean in asyncio.run(main()):
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_both_ways_may_be_compressed(client, coding) -> None:
    many = np.tile(ROWS, (500, 1))
    answer = client.infer("flowers", [given(many, binary=False)], outputs=asked(["probabilities"], False),
                          request_compression_algorithm=coding, response_compression_algorithm=coding)
    plain = client.infer("flowers", [given(many)])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), plain.as_numpy("probabilities"), rtol=1e-5)


def test_a_batch_of_pictures_arrives_whole(client, url) -> None:
    pictures = np.random.default_rng(0).normal(size=(8, 3, 224, 224)).astype(np.float32)
    answer = client.infer("picture", [given(pictures, name="image")])
    expected = native(url, "picture", "predict", pictures[:1].tolist())
    assert answer.as_numpy("probabilities").shape == (8, 3)
    np.testing.assert_allclose(answer.as_numpy("probabilities")[:1], [expected[0]["probabilities"]], rtol=1e-4)


def test_texts_and_several_inputs(client, url) -> None:
    texts = np.array(["a red dog sat", "the cat"], object)
    for binary in (True, False):
        answer = client.infer("judge", [given(texts, "BYTES", "tokens", binary)], parameters=SAMPLED)
        expected = native(url, "judge", "uncertainty", texts.tolist(), samples=40, seed=5)
        np.testing.assert_allclose(answer.as_numpy("mean"), [row["mean"] for row in expected], rtol=1e-4, atol=1e-6)
    numbers, image = ROWS, np.full((2, 3, 8, 8), 0.5, np.float32)
    answer = client.infer("witness", [
        given(numbers, name="numbers"), given(texts, "BYTES", "tokens"), given(image, name="image", binary=False)])
    expected = native(url, "witness", "predict", [
        {"numbers": n.tolist(), "tokens": text, "image": i.tolist()}
        for n, text, i in zip(numbers, texts, image, strict=True)])
    np.testing.assert_allclose(
        answer.as_numpy("probabilities"), [row["probabilities"] for row in expected], rtol=1e-4)


def test_classes_come_as_triton_writes_them(client) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=True, class_count=2)]
    classes = client.infer("flowers", [given()], outputs=outputs).as_numpy("probabilities")
    assert classes.shape == (2, 2)
    value, index, label = classes[0][0].decode().split(":")
    assert float(value) >= 0.5
    assert (index, label) in {("0", "daisy"), ("1", "rose")}


@pytest.mark.parametrize(("model", "inputs", "words"), [
    ("trees", [given()], "no model"), ("flowers", [given(ROWS.astype(np.int32), "INT32", "y")], "not an input"),
    ("flowers", [given(ROWS[:, :2])], "x.shape"),
    ("flowers", [given(np.array([["a", "b", "c"]], object), "BYTES")], "no texts"),
    ("judge", [given(np.ones((1, 8), np.float32), name="tokens"), given(np.ones((1, 8), np.int64), "INT64", "mask")],
     "integers"),
    ("flowers", [given(np.full((1, 3), np.nan, np.float32))], "x[0][0]"),
])
def test_what_is_wrong_is_told_as_its_own_exception(client, model, inputs, words) -> None:
    with pytest.raises(utils.InferenceServerException) as told:
        client.infer(model, inputs)
    assert words in told.value.message()
    assert told.value.status() in ("400", "404")


@pytest.mark.parametrize(("data", "length", "status"), [
    (b"\0" * 23, None, 400), (b"\0" * 25, None, 400), (b"\0" * 24, "9999", 400), (b"\0" * 24, "3", 400),
    (b"\0" * 24, "-1", 400),
])
def test_truncated_data_and_lying_lengths_are_refused(url, data, length, status) -> None:
    head = json.dumps({"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32",
                                   "parameters": {"binary_data_size": 24}}]}).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(head))}
    answer = httpx.post(f"{url}/v2/models/flowers/infer", content=head + data, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]
