"""The Open Inference Protocol, as its clients speak it; real ones stand in `tests/clients`."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from service.api.openapi import example_request

PATH = "/v2/models/flowers/infer"
ROWS = np.array([[1.0, 12.0, 2.0], [0.1, 3.0, 1.5]], np.float32)
SAMPLED = {"mode": "uncertainty", "samples": 40, "seed": 5}
NUMPY = {"BOOL": "?", "UINT8": "u1", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


def tensor(values: Any = ROWS, datatype: str = "FP32", name: str = "x", **changed: Any) -> dict[str, Any]:
    array = np.asarray(values)
    made = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.reshape(-1).tolist()}
    return made | changed


def infer(application, *inputs: dict[str, Any], binary: bytes = b"", path: str = PATH, headers: Any = None,
          **fields: Any) -> Any:
    """The response to a request. binary: what follows the JSON."""
    body = json.dumps({"inputs": list(inputs) or [tensor()], **fields}).encode()
    told = {"Inference-Header-Content-Length": str(len(body))} if binary else {}
    return application.post(path, content=body + binary, headers={**told, **(headers or {})})


def outputs(response: Any) -> dict[str, Any]:
    """By name: arrays, or lists of texts, whether they came as JSON or as bytes."""
    assert response.status_code == 200, response.text
    content = response.content
    length = int(response.headers.get("Inference-Header-Content-Length", len(content)))
    said, rest, found = json.loads(content[:length]), content[length:], {}
    for output in said["outputs"]:
        kind, shape = output["datatype"], output["shape"]
        if "data" in output:
            assert len(output["data"]) == int(np.prod(shape))
            values = output["data"] if kind == "BYTES" else np.array(output["data"], NUMPY[kind]).reshape(shape)
        else:
            size = output["parameters"]["binary_data_size"]
            part, rest = rest[:size], rest[size:]
            values = texts(part) if kind == "BYTES" else np.frombuffer(part, NUMPY[kind]).reshape(shape)
        found[output["name"]] = values
    assert rest == b""
    return found


def texts(content: bytes) -> list[str]:
    found = []
    while content:
        (size,) = struct.unpack("<I", content[:4])
        found.append(content[4 : 4 + size].decode())
        content = content[4 + size :]
    return found


def check_error(response: Any, status: int, code: str, *words: str) -> None:
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert problem["error"] == problem["detail"]
    for word in words:
        assert word in problem["error"]


def native(application, mode: str, **options: Any) -> list[dict[str, Any]]:
    body = {"instances": ROWS.tolist(), **options}
    return application.post(f"/v1/models/flowers:{mode}", json=body).json()["predictions"]


def test_the_server_and_its_models_say_what_they_are(application) -> None:
    server = application.get("/v2").json()
    assert server["name"] == "errorbar"
    assert {"binary_tensor_data", "classification", "model_repository"} <= set(server["extensions"])
    model = application.get("/v2/models/flowers").json()
    assert model == application.get("/v2/models/flowers/versions/1").json()
    assert model["name"] == "flowers"
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    for path in ("/v2/models/flowers/ready", "/v2/models/flowers/versions/1/ready"):
        assert application.get(path).json() == {"name": "flowers", "ready": True}
    assert application.get("/v2/health/live").json() == {"live": True}


@pytest.mark.parametrize(("method", "path", "status"), [
    ("get", "/v2/models/trees", 404), ("get", "/v2/models/trees/ready", 404),
    ("get", "/v2/models/flowers/versions/9", 404),
    ("get", "/v2/models/flowers/config", 404), ("get", "/v2/models/stats", 404), ("get", PATH, 405),
    ("post", "/v2/models/trees/infer", 404), ("post", "/v2/models/flowers/versions/9/infer", 404),
    ("delete", "/v2", 405), ("get", "/v2/nothing", 404),
])
def test_every_error_is_one_of_the_protocol(application, method, path, status) -> None:
    response = application.request(method, path, content=b'{"inputs": []}' if method == "post" else None)
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)


def test_a_prediction_is_that_of_the_native_route(application) -> None:
    found = outputs(infer(application, id="seven"))
    expected = native(application, "predict")
    np.testing.assert_allclose(found["probabilities"], [row["probabilities"] for row in expected], rtol=1e-5)
    assert found["index"].tolist() == [row["index"] for row in expected]
    assert found["label"] == [row["label"] for row in expected]
    assert infer(application, id="seven").json()["id"] == "seven"
    assert "id" not in infer(application).json()


def test_an_uncertainty_has_every_number_of_the_native_route(application) -> None:
    response = infer(application, parameters=SAMPLED)
    found, expected = outputs(response), native(application, "uncertainty", samples=40, seed=5)
    for name in ("mean", "std", "mean_se", "std_se", "entropy", "entropy_se", "expected_entropy", "mutual_information",
                 "mutual_information_se", "variation_ratio", "samples", "se_df", "index"):
        np.testing.assert_allclose(found[name], [row[name] for row in expected], rtol=1e-4, atol=1e-6, err_msg=name)
    assert found["stopped"] == ["samples", "samples"]
    said = response.json()["parameters"]
    assert json.loads(said["sampling"])["seed"] == 5
    assert said["digest"].startswith("sha256:")
    assert all(isinstance(value, str | int | float | bool) for value in said.values())


@pytest.mark.parametrize("model", ["flowers", "height", "plain"])
@pytest.mark.parametrize("parameters", [
    {}, SAMPLED, {**SAMPLED, "quantiles": "[0.1, 0.9]"}, {**SAMPLED, "include_samples": True},
    {"mode": "uncertainty", "decide": '{"above": 0.9, "error": 0.05}'},
])
def test_the_metadata_names_each_output_with_its_type_and_shape(application, state, model, parameters) -> None:
    mode = parameters.get("mode", "predict")
    if (model, mode) == ("plain", "uncertainty") or (model == "height" and "decide" in parameters):
        pytest.skip("no such answer")
    told = {output["name"]: output for output in application.get(f"/v2/models/{model}").json()["outputs"]
            if output["parameters"]["mode"] == mode}
    spec = state.repository.get(model).manifest.inputs[0]
    said = infer(application, tensor(np.ones((2, *spec.shape), np.float32), name=spec.name),
                 path=f"/v2/models/{model}/infer", parameters=parameters).json()
    assert said["outputs"]
    for output in said["outputs"]:
        expected = told[output["name"]]
        assert output["datatype"] == expected["datatype"]
        assert len(output["shape"]) == len(expected["shape"])
        assert all(n in (size, -1) for n, size in zip(expected["shape"], output["shape"], strict=True))
    always = {name for name, output in told.items() if "option" not in output["parameters"]}
    assert always <= {output["name"] for output in said["outputs"]}


@pytest.mark.parametrize(("datatype", "kind"), list(NUMPY.items()))
def test_numbers_of_every_type_are_taken_as_json_and_as_bytes(application, datatype, kind) -> None:
    rows = np.array([[1, 0, 1], [0, 1, 1]]).astype(kind)
    expected = outputs(infer(application, tensor(rows.astype(np.float32))))["probabilities"]
    as_json = infer(application, tensor(rows, datatype))
    as_bytes = infer(application, tensor(rows, datatype, parameters={"binary_data_size": rows.nbytes}))
    assert as_bytes.status_code == 400  # data and bytes
    packed = {name: value for name, value in tensor(rows, datatype).items() if name != "data"}
    as_bytes = infer(application, packed | {"parameters": {"binary_data_size": rows.nbytes}}, binary=rows.tobytes())
    for response in (as_json, as_bytes):
        np.testing.assert_allclose(outputs(response)["probabilities"], expected, rtol=1e-5)


def test_bfloat16_is_the_upper_half_of_a_float32(application) -> None:
    rows = np.array([[1.5, 12.0, -2.0]], np.float32)
    halves = (rows.view(np.uint32) >> 16).astype("<u2").tobytes()
    entry = {"name": "x", "datatype": "BF16", "shape": [1, 3], "parameters": {"binary_data_size": len(halves)}}
    found = outputs(infer(application, entry, binary=halves))["probabilities"]
    np.testing.assert_allclose(found, outputs(infer(application, tensor(rows)))["probabilities"], rtol=1e-5)


def test_outputs_come_as_they_are_asked_for(application) -> None:
    wanted = [{"name": name, "parameters": parameters} for name, parameters in (
        ("std", {"binary_data": True}), ("stopped", {"binary_data": True}), ("mean", {"binary_data": False}),
        ("mean", {"classification": 1}))]
    response = infer(application, parameters={**SAMPLED, "binary_data_output": True}, outputs=wanted[:3])
    assert response.headers["content-type"] == "application/octet-stream"
    found, everything = outputs(response), outputs(infer(application, parameters=SAMPLED))
    assert list(found) == ["std", "stopped", "mean"]
    np.testing.assert_allclose(found["std"], everything["std"], rtol=1e-5)
    assert found["stopped"] == ["samples", "samples"]
    (best,) = outputs(infer(application, parameters=SAMPLED, outputs=wanted[3:])).values()
    for row, text in enumerate(best):
        value, index, label = text.split(":")
        assert float(value) == pytest.approx(everything["mean"][row].max(), abs=1e-6)
        assert int(index) == everything["index"][row]
        assert label == everything["label"][row]


def test_all_outputs_are_binary_where_that_is_the_default(application) -> None:
    response = infer(application, parameters={**SAMPLED, "binary_data_output": True})
    assert all("data" not in output for output in json.loads(
        response.content[: int(response.headers["Inference-Header-Content-Length"])])["outputs"])
    np.testing.assert_allclose(
        outputs(response)["mean"], outputs(infer(application, parameters=SAMPLED))["mean"], rtol=1e-5)


def test_what_clients_add_of_their_own_is_ignored_outside_parameters(application) -> None:
    found = outputs(infer(application, tensor(surprise=1), model_name="flowers", from_grpc=False))
    assert found["probabilities"].shape == (2, 2)
    assert outputs(infer(application, parameters={"timeout": 0, "sequence_id": 4, "sequence_start": True}))


@pytest.mark.parametrize(("entry", "words"), [
    (tensor(name="y"), ("y", "not an input", "x")), (tensor(datatype="FP33"), ("FP32",)),
    (tensor(shape=[2, 4]), ("x.data", "8 values")), (tensor(ROWS[:, :2]), ("x.shape", "[rows, 3]")),
    (tensor(shape="2"), ("x.shape",)), (tensor(shape=[2, -3]), ("x.shape",)), (tensor(np.zeros((0, 3))), ("row",)),
    (tensor(data=[1.0, True, 2.0, 3.0, 4.0, 5.0]), ("x[0][1]", "a number")),
    (tensor(data=[1.0, None, 2.0, 3.0, 4.0, 5.0]), ("x[0][1]", "a number")),
    (tensor(data=[[1.0, 2.0, 3.0], [1.0, 2.0]]), ("x.data", "nested")),
    (tensor(data=[1.0, 2.0, 3.0, 4.0, 1e39, 5.0]), ("x[1][1]", "float32")),
    (tensor(data=[1, 2, 300, 4, 5, 6], datatype="INT8"), ("INT8",)),
    (tensor(datatype="INT64"), ("x[0][0]", "an integer")),
    (tensor(shape=[1, 2**39, 2**39], data=[]), ("x.shape",)),
    ({"name": "x", "datatype": "FP32", "shape": [2, 3]}, ("x", "data")),
    ({"name": "x", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}, ("x.datatype", "no texts")),
    ("x", ("inputs[0]",)), ({"shape": [1]}, ("inputs[0].name",)),
])
def test_a_wrong_tensor_is_named_with_what_was_expected(application, entry, words) -> None:
    check_error(infer(application, entry), 400, "invalid_input", *words)


@pytest.mark.parametrize(("change", "binary", "code"), [
    ({"parameters": {"binary_data_size": 24}}, b"\0" * 23, "malformed_body"),
    ({"parameters": {"binary_data_size": 24}}, b"\0" * 25, "malformed_body"),
    ({"parameters": {"binary_data_size": 20}}, b"\0" * 20, "invalid_input"),
    ({"parameters": {"binary_data_size": -1}}, b"\0" * 24, "invalid_input"),
    ({"parameters": {"binary_data_size": 2**60}}, b"\0" * 24, "malformed_body"),
])
def test_lying_lengths_are_told(application, change, binary, code) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [2, 3], **change}
    check_error(infer(application, entry, binary=binary), 400, code, "x" if len(binary) != 25 else "left")


@pytest.mark.parametrize("length", ["-1", "1e3", "99999", "", "9" * 40])
def test_a_length_of_the_json_that_cannot_be_is_told(application, length) -> None:
    headers = {"Inference-Header-Content-Length": length}
    check_error(infer(application, headers=headers), 400, "malformed_body", "Inference-Header-Content-Length")


@pytest.mark.parametrize(("fields", "words"), [
    ({"parameters": {"samples": 20}}, ("samples", "uncertainty")), ({"parameters": {"sampels": 20}}, ("samples",)),
    ({"parameters": {"mode": "mean"}}, ("mode",)), ({"parameters": {**SAMPLED, "samples": "many"}}, ("samples",)),
    ({"parameters": {"timeout": -1}}, ("timeout",)),
    ({"outputs": [{"name": "index", "parameters": {"clasification": 2}}]}, ("clasification", "classification")),
    ({"outputs": [{"name": "mean"}]}, ("mean", "mode")), ({"outputs": [{"name": "meen"}]}, ("meen",)),
    ({"outputs": [{"name": "quantiles"}], "parameters": SAMPLED}, ("quantiles", "parameters")),
    ({"outputs": [{"name": "index", "parameters": {"classification": 2}}]}, ("index",)),
])
def test_what_cannot_be_asked_for_is_refused(application, fields, words) -> None:
    check_error(infer(application, **fields), 422, "invalid_option", *words)


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_compressed_within_the_limit(application, coding, pack) -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    headers = {"Content-Encoding": coding}
    found = application.post(PATH, content=pack(body), headers=headers)
    np.testing.assert_allclose(outputs(found)["probabilities"], outputs(infer(application))["probabilities"], rtol=1e-5)
    check_error(application.post(PATH, content=pack(body)[:-9], headers=headers), 400, "malformed_body", coding)
    longer = application.post(PATH, content=pack(body) + b"more", headers=headers)
    check_error(longer, 400, "malformed_body", "behind")
    check_error(application.post(PATH, content=b"no " + coding.encode(), headers=headers), 400, "malformed_body")
    check_error(application.post(PATH, content=pack(b" " * 3_000_000), headers=headers), 413, "too_large")
    check_error(application.post(PATH, content=body, headers={"Content-Encoding": "br"}), 415, "unsupported_media_type")


def test_gzip_may_come_in_a_few_members(application) -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    headers = {"Content-Encoding": "gzip"}
    two = gzip.compress(body[:50]) + gzip.compress(body[50:])
    assert outputs(application.post(PATH, content=two, headers=headers))
    many = gzip.compress(body) + gzip.compress(b"") * 200
    check_error(application.post(PATH, content=many, headers=headers), 400, "malformed_body", "behind")


def test_numbers_of_half_precision_are_rounded_to_it_and_no_larger_than_it_holds(application) -> None:
    rounded = outputs(infer(application, tensor([[1.0, 12.0, 2.0004]], "FP16")))["probabilities"]
    assert np.array_equal(rounded, outputs(infer(application, tensor([[1.0, 12.0, 2.0]])))["probabilities"])
    check_error(infer(application, tensor([[1.0, 70000.0, 2.0]], "FP16")), 400, "invalid_input", "x", "FP16")


def test_a_long_answer_in_json_is_compressed_for_who_asks(application) -> None:
    many = tensor(np.tile(ROWS, (500, 1)))
    plain = infer(application, many, headers={"Accept-Encoding": "identity"})
    packed = infer(application, many, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert "Content-Encoding" not in infer(application, many, headers={"Accept-Encoding": "gzip;q=0"}).headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) < int(plain.headers["Content-Length"])
    np.testing.assert_allclose(outputs(packed)["probabilities"], outputs(plain)["probabilities"], rtol=1e-5)


def test_limits_and_metrics_are_those_of_the_native_route(application, state) -> None:
    check_error(infer(application, tensor(np.ones((5000, 3), np.float32))), 413, "too_large")
    state.metrics.count()
    labels = {"model": "flowers", "version": "1", "mode": "uncertainty", "code": "ok"}
    before = state.metrics.registry.get_sample_value("errorbar_requests_total", labels) or 0
    outputs(infer(application, parameters=SAMPLED))
    state.metrics.count()
    assert state.metrics.registry.get_sample_value("errorbar_requests_total", labels) == before + 1


def test_a_request_of_the_native_route_is_told_what_is_missing(application, state) -> None:
    body = example_request(state.repository.get("flowers").manifest, uncertainty=False)
    check_error(application.post(PATH, json=body), 400, "invalid_input", "inputs")
    check_error(application.post(PATH, content=b"{"), 400, "malformed_body")
    check_error(application.post(PATH, content=b"[]"), 400, "malformed_body", "inputs")
    check_error(application.post(PATH, content=b""), 400, "malformed_body")
