"""Arrays go as they are, and come as they are."""

from __future__ import annotations

import io
import json
from dataclasses import fields

import httpx
import numpy as np
import pytest
import torch

from service.client import Uncertain
from service.errors import ErrorbarError, InvalidInput, InvalidOption
from tests.client.conftest import ROWS, refused, scripted

OPTIONS = [
    {}, {"samples": 60, "seed": 4, "masks": "independent"}, {"quantiles": [0.1, 0.9]}, {"include_samples": True},
    {"tolerance": 0.08, "samples": 500}, {"decide": {"above": 0.6, "error": 0.1}, "include_samples": True},
]


def same(one: Uncertain, other: Uncertain) -> None:
    for field in fields(Uncertain):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "request_id":
            assert a != b
        elif isinstance(a, np.ndarray):
            assert a.shape == b.shape
            assert np.allclose(a, b, rtol=0, atol=1e-6, equal_nan=True), field.name
        else:
            assert a == b, field.name


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("model", ["flowers", "height"])
def test_an_array_gets_the_answer_that_the_same_lists_get(client, options, model) -> None:
    if model == "height" and {"tolerance", "decide"} & set(options):
        with pytest.raises(InvalidOption, match="classification"):
            client.uncertainty(model, np.ones((2, 4)), **options)
        return
    rows = ROWS if model == "flowers" else np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    same(client.uncertainty(model, rows, **options), client.uncertainty(model, rows.tolist(), **options))


@pytest.mark.parametrize("model", ["flowers", "height"])
def test_a_prediction_of_an_array_is_that_of_the_same_lists(client, model) -> None:
    rows = ROWS if model == "flowers" else np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    one, other = client.predict(model, rows), client.predict(model, rows.tolist())
    assert one.values == pytest.approx(other.values)
    assert (one.labels, one.out_of_range, one.digest) == (other.labels, other.out_of_range, other.digest)


@pytest.mark.parametrize("rows", [
    torch.tensor(ROWS, dtype=torch.float32), torch.tensor(ROWS, requires_grad=True), torch.tensor(ROWS).bfloat16(),
    ROWS.astype(np.float16), np.asfortranarray(ROWS), ROWS.astype(np.longdouble), np.repeat(ROWS, 2, 0)[::2],
    {"x": ROWS}, {"x": torch.tensor(ROWS)},
])
def test_tensors_and_arrays_of_any_real_kind_are_rows(client, rows) -> None:
    assert client.predict("flowers", rows).values == pytest.approx(client.predict("flowers", ROWS).values, abs=1e-2)


def test_arrays_go_and_come_without_json() -> None:
    other, seen = scripted(refused(500, "model_failed"))
    with pytest.raises(ErrorbarError):
        other.uncertainty("flowers", ROWS, samples=20, design="iid", quantiles=[0.5], decide=None)
    assert seen[0].headers["Content-Type"] == "application/x-npy"
    assert seen[0].headers["Accept"] == "application/x-npz"
    assert {k: json.loads(v) for k, v in seen[0].url.params.items()} == {
        "samples": 20, "design": "iid", "quantiles": [0.5], "decide": None}


def test_an_option_too_long_for_an_address_goes_as_json(client) -> None:
    levels = [float(level) for level in np.linspace(0.001, 0.999, 100)]  # of 18 digits each
    assert client.uncertainty("flowers", ROWS, quantiles=levels).quantiles.shape == (2, 100, 2)


@pytest.mark.parametrize(("rows", "path"), [
    (np.array([[1.0, 2.0, np.inf]]), "instances[0][2]"), ({"x": np.array([[1.0], [np.nan]])}, "instances[1].x[0]"),
    ({"x": ROWS, "y": "words"}, "y"), (np.array(np.nan), "instances"),
])
def test_an_array_that_cannot_be_sent_names_the_place(rows, path) -> None:
    other, seen = scripted()
    with pytest.raises(InvalidInput) as caught:
        other.predict("flowers", rows)
    assert caught.value.faults[0].path == path
    assert seen == []


@pytest.mark.parametrize("rows", [np.ones((2, 7)), np.ones(3), np.ones((0, 3)), {"z": ROWS, "x": ROWS}])
def test_the_server_says_what_is_wrong_with_an_array(client, rows) -> None:
    with pytest.raises(InvalidInput):
        client.predict("flowers", rows)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"rubbish"])
def test_an_archive_that_is_none_is_an_error_and_no_answer(content) -> None:
    answer = httpx.Response(200, content=content, headers={"Content-Type": "application/x-npz"})
    other, _ = scripted(answer, answer, answer)
    for ask in (other.predict, other.uncertainty):
        with pytest.raises(ErrorbarError, match="contract"):
            ask("flowers", ROWS)
    assert other.decide("flowers", ROWS) == ["abstain", "abstain"]


@pytest.mark.parametrize(("decision", "decided"), [
    (["accept", ""], ["accept", "abstain"]), (["accept"], ["abstain"] * 2),
])
def test_decide_accepts_by_arrays_only_where_the_server_says_so(decision, decided, application) -> None:
    file = io.BytesIO()
    np.save(file, ROWS)
    given = application.post("/v1/models/flowers:uncertainty", content=file.getvalue(),
                             headers={"Content-Type": "application/x-npy", "Accept": "application/x-npz"}).content
    arrays = dict(np.load(io.BytesIO(given))) | {"decision": np.array(decision)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    other, _ = scripted(httpx.Response(200, content=file.getvalue(), headers={"Content-Type": "application/x-npz"}))
    assert other.decide("flowers", ROWS) == decided


def test_a_number_is_the_same_whichever_way_it_came(client) -> None:
    options = {"include_samples": True, "samples": 30}
    by_array, by_list = (client.uncertainty("flowers", rows, **options) for rows in (ROWS, ROWS.tolist()))
    assert np.array_equal(by_array.sample_values, by_list.sample_values)
    assert np.array_equal(client.predict("flowers", ROWS).values, client.predict("flowers", ROWS.tolist()).values)


def test_what_is_masked_is_never_sent(client) -> None:
    whole, hidden = np.ma.masked_array(ROWS, False), np.ma.masked_array(ROWS, ROWS > 10)
    assert np.array_equal(client.predict("flowers", whole).values, client.predict("flowers", ROWS).values)
    with pytest.raises(InvalidInput, match="masked"):
        client.predict("flowers", hidden)


@pytest.mark.parametrize("rows", [torch.eye(3).to_sparse(), torch.ones(2, 3).to(torch.complex64).conj()])
def test_a_tensor_that_cannot_be_sent_is_told(client, rows) -> None:
    with pytest.raises(InvalidInput):
        client.predict("flowers", rows)


def test_lists_that_never_end_are_told(client) -> None:
    rows: list[object] = []
    rows.append(rows)
    with pytest.raises(InvalidInput, match="too deep"):
        client.predict("flowers", rows)


def test_an_input_may_have_any_name() -> None:
    other, seen = scripted(refused(500, "model_failed"))
    with pytest.raises(ErrorbarError):
        other.predict("m", {"file": ROWS, "x": ROWS})
    assert set(np.load(io.BytesIO(seen[0].content))) == {"file", "x"}


def test_an_option_that_is_no_number_is_named(client) -> None:
    with pytest.raises(InvalidInput, match=r"^tolerance: "):
        client.uncertainty("flowers", ROWS, tolerance=float("nan"))
