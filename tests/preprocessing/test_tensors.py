"""Numbers in base64 come out as they went in, or are refused by their place."""

import base64

import numpy as np
import pytest

from service.errors import InvalidInput
from service.preprocessing.tensors import TENSOR_TYPES, read_base64, read_tensor
from tests.preprocessing.files import noise, png


@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_every_type_keeps_its_numbers(kind) -> None:
    values = np.array([[0, 1, 2], [3, 100, 127]]).astype(kind)
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    found = read_tensor(content, kind, "float32", (2, 3), "x")
    assert found.dtype in (np.float32, np.float64)
    assert np.array_equal(found, values)
    if not kind.startswith("float"):
        assert np.array_equal(read_tensor(content, kind, "int64", (2, 3), "x"), values)


def test_large_integers_are_not_rounded_to_float32_before_they_are_checked() -> None:
    values = np.array([2**53, -(2**40) - 1], "<i8")
    assert read_tensor(values.tobytes(), "int64", "float32", (2,), "x").tolist() == values.tolist()


def test_without_a_type_it_is_the_inputs() -> None:
    values = np.array([0.1, -7.5], "<f4")
    assert np.array_equal(read_tensor(values.tobytes(), None, "float32", (2,), "x"), values)
    assert read_tensor(np.array(7, "<i8").tobytes(), None, "int64", (), "x") == 7


@pytest.mark.parametrize(("content", "kind", "dtype", "path", "words"), [
    (bytes(7), None, "float32", "x", "8 bytes, float32 of shape [2], expected, got 7"),
    (bytes(8), "float64", "float32", "x", "16 bytes, float64"),
    (bytes(8), "float23", "float32", "x.dtype", "did you mean 'float32'"),
    (bytes(8), 32, "float32", "x.dtype", "one of float16"),
    (bytes(8), ["float32"], "float32", "x.dtype", "one of float16"),
    (bytes(8), "float32", "int64", "x.dtype", "integers expected, got float32"),
    (png(noise(4, 4)), None, "float32", "x", "its manifest has no [inputs.image]"),
])
def test_what_does_not_fit_is_named(content, kind, dtype, path, words) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_tensor(content, kind, dtype, (2,), "x")
    assert caught.value.faults[0].path == path
    assert words in caught.value.detail


@pytest.mark.parametrize(
    "text", ["AAA", "AA=A", "A A=", "AAA\n", "AA-_", "ÄÄÄÄ", "data:image/png;base64,AAAA", 7, None, []])
def test_only_base64_is_base64(text) -> None:
    with pytest.raises(InvalidInput, match="base64 expected"):
        read_base64(text, "x")
    assert read_base64(base64.b64encode(b"\xfb\xff\x00").decode(), "x") == b"\xfb\xff\x00"
