"""Images, texts and packed tensors through the whole server: the same answer as their numbers get."""

from __future__ import annotations

import asyncio
import base64
import re
import sys
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api import decode, inference
from service.api.app import Server, create_app
from service.api.openapi import example_request
from service.api.rows import decode_rows
from service.client import Client
from service.errors import InvalidInput, RequestError, UnservableModel
from service.preprocessing.images import ImageReader
from service.preprocessing.steps import ImageSteps
from service.repository import ReadyModel, load_model
from tests.api.mixed import BODY_BYTES, JUDGE, STEPS
from tests.api.networks import Judge
from tests.array_files import npy
from tests.conftest import client_of, write_model
from tests.preprocessing.files import noise, packed, png, saved, tokenizer

PNG, JPEG = png(noise(20, 15)), saved(noise(15, 30, seed=1), "JPEG")
LOADED: dict[str, ReadyModel] = {}


@pytest.fixture(scope="module")
def server(mixed: Server) -> Server:
    LOADED.update({name: mixed.repository.get(name) for name, _ in mixed.repository.versions})
    return mixed


@pytest.fixture(scope="module")
def client(server: Server) -> TestClient:
    return client_of(server)


def post(client: TestClient, model: str, *rows: Any, mode: str = "uncertainty", **options: Any) -> httpx.Response:
    return client.post(f"/v1/models/{model}:{mode}", json={"instances": rows, **options})


def answers(client: TestClient, model: str, *rows: Any, **options: Any) -> Any:
    answer = post(client, model, *rows, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def refused(answer: httpx.Response, path: str, words: str, status: int = 400, code: str = "invalid_input") -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert problem["errors"][0]["path"] == path
    assert words in problem["detail"]
    assert problem["detail"].startswith(f"{path}: ")


def pixels(content: bytes, steps: ImageSteps = STEPS) -> Any:
    """The numbers of an image: those of the documented steps, see tests/preprocessing/test_images.py."""
    return ImageReader(steps, (3, 8, 8)).read(content, "").astype(np.float64).tolist()


def tokens(text: str) -> dict[str, Any]:
    made = tokenizer()
    made.no_truncation()
    made.no_padding()
    found = made.encode(text).ids
    left = 8 - len(found)
    return {"tokens": found + [0] * left, "mask": [1] * len(found) + [0] * left}


@pytest.mark.parametrize("mode", ["predict", "uncertainty"])
def test_images_are_answered_as_their_numbers_are(client, mode) -> None:
    expected = answers(client, "photo", pixels(PNG), pixels(JPEG), pixels(PNG), mode=mode)
    assert expected[0] == expected[2] != expected[1]
    assert answers(client, "photo", packed(PNG), packed(JPEG), pixels(PNG), mode=mode) == expected
    by_name = [{"image": packed(PNG)}, {"image": pixels(JPEG)}, {"image": packed(PNG)}]
    assert answers(client, "photo", *by_name, mode=mode) == expected


def test_the_numbers_of_an_image_reach_the_network_bit_for_bit(client, monkeypatch) -> None:
    seen = {}
    real = decode.out_of_range

    def watching(inputs: Any, manifest: Any) -> Any:
        seen.update(inputs)
        return real(inputs, manifest)

    monkeypatch.setattr(decode, "out_of_range", watching)
    answers(client, "photo", packed(PNG), packed(JPEG))
    assert np.array_equal(seen["image"].numpy(), np.array([pixels(PNG), pixels(JPEG)], np.float32))


def test_texts_are_answered_as_their_tokens_and_mask_are(client) -> None:
    texts = ["the cat sat", "", "a giraffe sat on the red mat"[:20]]
    expected = answers(client, "judge", *map(tokens, texts))
    assert expected[0] != expected[1]
    assert answers(client, "judge", *texts) == expected
    assert answers(client, "judge", {"tokens": texts[0]}, tokens(texts[1]), {"tokens": texts[2]}) == expected


def test_one_row_may_have_an_image_a_text_and_numbers(client) -> None:
    plain = {"image": pixels(PNG, ImageSteps("RGB")), "tokens": tokens("a dog")["tokens"], "numbers": [0.5, -1.0, 2.0]}
    numbers = base64.b64encode(np.array(plain["numbers"], "<f4").tobytes()).decode()
    mixed = {"image": packed(PNG), "tokens": "a dog", "numbers": {"b64": numbers}}
    expected = answers(client, "witness", plain, plain)
    assert answers(client, "witness", mixed, {**plain, "tokens": "a dog"}) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64", None])
def test_tensors_in_base64_are_answered_as_their_numbers_are(client, dtype) -> None:
    values = np.array([1.0, 12.0, 2.0], f"<{np.dtype(dtype or 'float32').str[1:]}")
    row = packed(values.tobytes()) | ({} if dtype is None else {"dtype": dtype})
    expected = answers(client, "flowers", [1.0, 12.0, 2.0], [1.0, 12.0, 2.0])
    assert answers(client, "flowers", row, [1.0, 12.0, 2.0]) == expected
    assert answers(client, "flowers", {"x": row}, {"x": [1.0, 12.0, 2.0]}) == expected
    assert "out_of_range" in expected[0]


def test_a_tensor_in_base64_is_one_for_a_model_of_images_too_where_it_has_a_type(client) -> None:
    content = np.array(pixels(PNG), "<f4").tobytes()
    assert answers(client, "photo", packed(content) | {"dtype": "float32"}) == answers(client, "photo", packed(PNG))


def test_base64_that_spells_a_word_of_json_is_still_base64(client) -> None:
    values = np.frombuffer(base64.b64decode("AAtruefalsenullA"), "<f4")
    assert len(values) == 3
    row = {"b64": "AAtruefalsenullA"}
    assert answers(client, "flowers", row) == answers(client, "flowers", values.astype(float).tolist())


NAN = packed(np.array([1.0, np.nan, 2.0], "<f4").tobytes())


@pytest.mark.parametrize(("model", "rows", "path", "words"), [
    ("photo", [packed(PNG), packed(PNG), packed(PNG), packed(PNG[:200])], "instances[3]", "cannot be decoded"),
    ("photo", [packed(PNG), {"b64": "!"}], "instances[1]", "base64 expected"),
    ("photo", [{"b64": 7}], "instances[0]", "a string of base64 expected"),
    ("photo", [{"image": packed(b"GIF89a")}], "instances[0].image", "a PNG or JPEG expected"),
    ("photo", ["https://example.com/cat.png"], "instances[0]", 'an image expected, got a string'),
    ("photo", [packed(PNG) | {"tpye": "png"}], "instances[0].tpye", "not a key of an encoded value"),
    ("photo", [packed(PNG), [[1.0]]], "instances[1]", "3 values expected"),
    ("photo", [packed(PNG), {"image": packed(PNG)}], "instances[0]", "by name as in the other rows"),
    ("photo", [packed(bytes(4)) | {"dtype": "float32"}], "instances[0]", "768 bytes, float32"),
    ("flowers", [[1.0, 12.0, 2.0], packed(PNG)], "instances[1]", "its manifest has no [inputs.image]"),
    ("flowers", [NAN], "instances[0][1]", "a finite number"), ("flowers", ["rose"], "instances[0]", "[inputs.text]"),
    ("flowers", [{"x": "rose"}], "instances[0].x", "numbers expected, got a string"),
    ("judge", ["a cat", "the cat sat on the red mat"], "instances[1]", "at most 8 tokens"),
    ("judge", [{"tokens": "the cat sat on the red mat"}], "instances[0].tokens", "at most 8 tokens"),
    ("judge", [{"tokens": "a cat", "mask": [1] * 8}], "instances[0].mask", "leave it out"),
    ("judge", [{"tokens": [1] * 8}], "instances[0].mask", "missing"),
    ("judge", [{"tokens": "a cat"}, {"tokens": [1] * 8}], "instances[1].mask", "missing"),
    ("judge", [{"tokens": "a cat", "musk": []}], "instances[0].musk", "did you mean 'mask'"),
    ("witness", [packed(PNG)], "instances[0]", "an object with the inputs image, tokens, numbers expected"),
    ("witness", ["a cat"], "instances[0]", "an object with the inputs image, tokens, numbers expected"),
    ("witness", [{"image": packed(PNG), "tokens": "a cat", "numbers": [1, 2]}], "instances[0].numbers", "3 values"),
    ("witness", [{"image": packed(PNG), "tokens": "a cat"}], "instances[0].numbers", "missing"),
    ("witness", [{"image": packed(PNG[:-40]), "tokens": "a cat", "numbers": [1, 2, 3]}], "instances[0].image",
     "cannot be decoded"),
])
@pytest.mark.parametrize("mode", ["predict", "uncertainty"])
def test_what_is_wrong_is_named_with_its_row_and_input(client, model, rows, path, words, mode) -> None:
    refused(post(client, model, *rows, mode=mode), path, words)


def test_encoded_rows_have_a_room_in_memory_however_small_they_came(client) -> None:
    dot = packed(png(noise(1, 1)))
    most = BODY_BYTES // (3 * 8 * 8 * 4)
    assert len(answers(client, "photo", *[dot] * most, mode="predict")) == most
    refused(post(client, "photo", *[dot] * (most + 1), mode="predict"), f"instances[{most}]",
            f"at most {BODY_BYTES} bytes", 413, "too_large")


def test_images_of_one_request_share_a_room_of_pixels(client, monkeypatch) -> None:
    monkeypatch.setattr(ImageSteps, "most_together", 4 * 300)
    assert len(answers(client, "photo", *[packed(PNG)] * 2, mode="predict")) == 2
    refused(post(client, "photo", *[packed(PNG)] * 3, mode="predict"), "instances[2]", "pixels together", 413,
            "too_large")


def test_what_images_become_counts_among_the_bodies_in_memory(server, client, monkeypatch) -> None:
    dots = [packed(png(noise(1, 1)))] * 40
    limited = server.settings.model_copy(update={"waiting_bytes": 30_000})
    monkeypatch.setattr(server, "settings", limited)
    tight = TestClient(create_app(limited, state=server))
    assert post(client, "photo", *dots, mode="predict").status_code == 200
    assert len(answers(tight, "photo", *dots[:35], mode="predict")) == 35
    answer = post(tight, "photo", *dots, mode="predict")
    assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
    assert len(answers(tight, "photo", *dots[:35], mode="predict")) == 35


def test_images_and_texts_are_read_beside_the_event_loop_however_small_they_are(client, monkeypatch) -> None:
    beside = {}
    real = inference.decode_rows

    def watching(instances: Any, model: Any, *given: Any, **named: Any) -> Any:
        beside[model.name] = not asyncio.events._get_running_loop()
        return real(instances, model, *given, **named)

    monkeypatch.setattr(inference, "decode_rows", watching)
    answers(client, "photo", packed(png(noise(1, 1))))
    answers(client, "judge", "a cat")
    answers(client, "flowers", [1.0, 12.0, 2.0])
    assert beside == {"photo": True, "judge": True, "flowers": False}


def test_the_card_tells_how_images_and_texts_become_numbers(client) -> None:
    card = client.get("/v1/models/photo").json()["inputs"]
    assert card == [{
        "name": "image", "dtype": "float32", "shape": [3, 8, 8], "range": None, "text": None, "image": {
            "mode": "RGB", "resize": "bilinear", "short_side": 10, "scale": 255.0, "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225], "layout": "CHW", "upright": True, "most_pixels": 25_000_000}}]
    ids, mask = client.get("/v1/models/judge").json()["inputs"]
    assert ids["text"] == {"tokenizer": "tokenizer.json", "longer": "refuse", "pad": None, "pad_side": "right",
                           "special": True, "mask": "mask"}
    assert (ids["image"], mask["image"], mask["text"]) == (None, None, None)


@pytest.mark.parametrize("model", ["photo", "judge", "witness"])
def test_the_contracts_example_is_answered(client, server, model) -> None:
    example = example_request(server.repository.get(model).manifest, uncertainty=True)
    answer = client.post(f"/v1/models/{model}:uncertainty", json=example)
    assert answer.status_code == 200, answer.text
    assert ("b64" in str(example)) == (model != "judge")


def test_arrays_are_answered_as_before(client) -> None:
    found = client.post("/v1/models/photo:uncertainty", content=npy(np.array([pixels(PNG)], np.float32)),
                        headers={"Content-Type": "application/x-npy"})
    assert found.json()["predictions"] == answers(client, "photo", packed(PNG))


def test_the_client_sends_them_as_rows(client) -> None:
    found = Client(transport=client._transport).predict("photo", [packed(PNG), packed(JPEG)])
    expected = answers(client, "photo", packed(PNG), packed(JPEG), mode="predict")
    assert np.array_equal(found.values, np.array([row["probabilities"] for row in expected], np.float32))


def test_rows_of_a_longer_file_are_named_by_their_place_in_it_and_share_no_room(server, monkeypatch) -> None:
    monkeypatch.setattr(ImageSteps, "most_together", 1)
    model = server.repository.get("photo")
    found = decode_rows([packed(PNG), packed(JPEG)], model, plain=False, first_row=4096)
    assert np.array_equal(found["image"].numpy(), np.array([pixels(PNG), pixels(JPEG)], np.float32))
    with pytest.raises(InvalidInput, match=r"^instances\[4097\]: "):
        decode_rows([packed(PNG), packed(PNG[:99])], model, plain=False, first_row=4096)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from([packed(PNG), packed(JPEG), packed(PNG[:70]), {"b64": "AAAA"}, {"b64": "A" * 16},
                       [1] * 8]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["b64", "dtype", "image", "tokens", "mask", "numbers", "x", "petal", "stem", "leaf"]), inner),
    max_leaves=9)


@pytest.mark.usefixtures("server")
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["photo", "judge", "witness", "flowers"]), st.lists(VALUES, min_size=1, max_size=3))
def test_whatever_rows_come_they_become_right_tensors_or_a_refusal_with_a_place(name, rows) -> None:
    model = LOADED[name]
    try:
        found = decode_rows(rows, model, plain=False, most_bytes=BODY_BYTES)
    except RequestError as e:
        place, found = e.faults[0].path, None
    if found is None:
        assert place.startswith("instances[")
        return
    for spec in model.manifest.inputs:
        assert found[spec.name].shape == (len(rows), *spec.shape)
        assert str(found[spec.name].dtype) == f"torch.{spec.dtype}"


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize(("model", "package", "module", "extra"), [
    ("photo", "PIL", "images", "images"), ("judge", "tokenizers", "texts", "text"),
])
def test_a_model_whose_package_is_missing_is_refused_with_the_extra_to_install(
    mixed_models, monkeypatch, model, package, module, extra
) -> None:
    monkeypatch.delitem(sys.modules, f"service.preprocessing.{module}")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnservableModel, match=re.escape(f"pip install 'errorbar[{extra}]'")):
        load_model(mixed_models / model / "1")
    assert load_model(mixed_models / "flowers" / "1").name == "flowers"


@pytest.mark.usefixtures("mixed")
def test_a_model_whose_tokenizer_is_missing_or_too_large_for_its_range_is_refused(tmp_path) -> None:
    folder = write_model(tmp_path, "judge", JUDGE, Judge())
    with pytest.raises(UnservableModel, match=r"tokenizer\.json cannot be read: there is no such file"):
        load_model(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    digest = load_model(folder).digest
    (folder / "model.toml").write_text(JUDGE.replace("range = [0, 39]", "range = [0, 9]"))
    with pytest.raises(UnservableModel, match=r"has the id 10, outside the input's range \[0, 9\]"):
        load_model(folder)
    (folder / "model.toml").write_text(JUDGE)
    tokenizer(special=False).save(str(folder / "tokenizer.json"))
    assert load_model(folder).digest != digest
