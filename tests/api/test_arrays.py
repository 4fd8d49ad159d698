"""Rows and answers as numpy arrays: the same numbers as in JSON, and bad bytes refused by name."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.array_files import npy, npz

NPY, NPZ = "application/x-npy", "application/x-npz"
ROWS = np.array([[1.0, 12.0, 2.0], [0.5, 3.0, 1.0], [2.0, 29.0, 3.5]])
PREDICT, UNCERTAIN = "/v1/models/flowers:predict", "/v1/models/flowers:uncertainty"


def post(
    client: TestClient, path: str, body: bytes, kind: str = NPY, accept: str = "*/*", **query: Any
) -> httpx.Response:
    return client.post(path, content=body, params=query, headers={"Content-Type": kind, "Accept": accept})


def unpacked(answer: httpx.Response) -> dict[str, np.ndarray]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == NPZ
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize("array", [
    ROWS, ROWS.astype(np.float32), np.asfortranarray(ROWS), ROWS.astype(">f8"), ROWS.astype(np.float16),
], ids=["float64", "float32", "columns first", "big-endian", "float16"])
def test_an_array_is_answered_as_its_rows_in_json_are(application, array) -> None:
    rows = array.astype(np.float64).tolist()
    expected = application.post(UNCERTAIN, json={"instances": rows, "samples": 30, "seed": 4}).json()
    found = post(application, UNCERTAIN, npy(array), samples=30, seed=4).json()
    assert found["predictions"] == expected["predictions"]
    assert found["sampling"] == expected["sampling"]
    assert post(application, UNCERTAIN, npz(x=array), NPZ, samples=30, seed=4).json()["predictions"] == (
        expected["predictions"])


def test_options_in_the_query_are_those_of_json(application) -> None:
    options = {"decide": {"above": 0.6, "error": 0.05}, "samples": 200, "masks": "independent", "timeout_ms": 30_000}
    expected = application.post(UNCERTAIN, json={"instances": ROWS.tolist(), **options}).json()["predictions"]
    query = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    assert post(application, UNCERTAIN, npy(ROWS), **query).json()["predictions"] == expected


def test_an_answer_in_arrays_has_the_numbers_of_json(application) -> None:
    body = {"instances": ROWS.tolist(), "samples": 50, "quantiles": [0.1, 0.9], "include_samples": True}
    expected = application.post(UNCERTAIN, json=body).json()
    arrays = unpacked(application.post(UNCERTAIN, json=body, headers={"Accept": NPZ}))
    rest = json.loads(str(arrays.pop("answer")))
    assert rest["sampling"] == expected["sampling"]
    assert rest["digest"] == expected["digest"]
    assert rest["labels"] == ["daisy", "rose"]
    rows = expected["predictions"]
    assert rest["out_of_range"] == [row["out_of_range"] for row in rows]
    for name, values in arrays.items():
        assert len(values) == 3
        wanted = np.array([row[name] for row in rows], values.dtype)
        if values.dtype.kind == "f":  # Two requests: their last bits may differ.
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-7, err_msg=name)
        else:
            np.testing.assert_array_equal(values, wanted, err_msg=name)
    assert {"index", "mean", "std", "mean_se", "std_se", "entropy", "mutual_information", "samples", "se_df", "stopped",
            "quantiles", "sample_values"} <= arrays.keys()


def test_a_prediction_and_a_regression_come_as_arrays_too(application) -> None:
    arrays = unpacked(post(application, PREDICT, npy(ROWS), accept=NPZ))
    expected = application.post(PREDICT, json={"instances": ROWS.tolist()}).json()["predictions"]
    np.testing.assert_array_equal(arrays["probabilities"], np.array([r["probabilities"] for r in expected], np.float32))
    assert arrays["index"].tolist() == [row["index"] for row in expected]
    four = np.ones((2, 4))
    heights = unpacked(post(application, "/v1/models/height:predict", npy(four), accept=NPZ))
    assert heights["value"].shape == (2,)
    spread = unpacked(post(application, "/v1/models/height:uncertainty", npy(four), accept=NPZ))
    plain = application.post("/v1/models/height:uncertainty", json={"instances": four.tolist()}).json()["predictions"]
    for name in ("mean", "std", "noise_std", "total_std"):
        np.testing.assert_allclose(spread[name], [row[name] for row in plain])


def test_rows_that_stopped_early_say_so_in_arrays(application) -> None:
    body = {"instances": ROWS.tolist(), "tolerance": 0.1}
    arrays = unpacked(application.post(UNCERTAIN, json=body, headers={"Accept": NPZ}))
    rows = application.post(UNCERTAIN, json=body).json()["predictions"]
    for name in ("samples", "se_df", "stopped", "after_stopping"):
        assert arrays[name].tolist() == [row[name] for row in rows]
    assert arrays["settled"].tolist() == [row["settled"] or "" for row in rows]


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def pickled() -> bytes:
    return npy(np.array([Trap()], dtype=object))


def claiming(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


HUGE = claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3)}")


@pytest.mark.parametrize(("body", "kind", "status", "words"), [
    (b"", NPY, 400, "not an .npy array"), (b"\x93NUMPY", NPY, 400, "not an .npy array"),
    (npy(ROWS)[:-1], NPY, 400, "bytes of data expected"), (npy(ROWS) + b"x", NPY, 400, "bytes of data expected"),
    (HUGE, NPY, 413, "at most 4096 rows"), (pickled(), NPY, 400, "numbers expected"),
    (claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3)}"), NPY, 400, "a shape expected"),
    (claiming("__import__('os')"), NPY, 400, "not an .npy array"),
    (npy(np.array("abc")), NPY, 400, "numbers expected"), (npy(ROWS.astype(bool)), NPY, 400, "numbers expected"),
    (npy(ROWS[0]), NPY, 400, "('rows', 3)"), (npy(np.float64(1)), NPY, 400, "('rows', 3)"),
    (npy(ROWS[:0]), NPY, 400, "at least one row"), (npy(np.full((1, 3), np.nan)), NPY, 400, "instances[0]"),
    (npy(np.array([[1, 1e300, 1]])), NPY, 400, "float32 can hold"),
    (b"PK\x03\x04", NPZ, 400, "not an .npz archive"), (npz(x=ROWS, y=ROWS), NPZ, 400, "got 2 arrays"),
    (npz(x=ROWS)[:-30], NPZ, 400, "not an .npz archive"), (npz(), NPZ, 400, "missing"),
    (b"{}", NPZ, 400, "not an .npz archive"), (npy(ROWS), NPZ, 400, "not an .npz archive"),
])
def test_a_body_that_is_no_array_of_this_model_is_refused(application, capsys, body, kind, status, words) -> None:
    answer = post(application, PREDICT, body, kind)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert "unpickled" not in capsys.readouterr().out


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(application) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(50_000_000))
    assert len(file.getvalue()) < 100_000
    answer = post(application, PREDICT, file.getvalue(), NPZ)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(("query", "words"), [
    ("sampels=3", "did you mean 'samples'"), ("samples=3&samples=4", "given twice"), ("samples=x", "an integer from"),
    ("seed=1.5", "an integer from"), ("masks=mine", "shared"), ("instances=[[1,2,3]]", "not a parameter"),
    ("include_samples=1", "true or false"), ("decide={}", "missing"), ("quantiles=" + "1" * 3000, "at most 2000"),
])
def test_a_wrong_option_in_the_query_is_refused_by_name(application, query, words) -> None:
    answer = application.post(f"{UNCERTAIN}?{query}", content=npy(ROWS), headers={"Content-Type": NPY})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_option")
    assert words in answer.json()["detail"]


def test_a_query_that_cannot_be_read_is_refused(application) -> None:
    answer = application.post(f"{UNCERTAIN}?{'&'.join('a=1' for _ in range(60))}", content=npy(ROWS),
                              headers={"Content-Type": NPY})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")
