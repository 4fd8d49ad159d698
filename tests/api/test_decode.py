"""Rows of JSON to tensors: the short way for plain numbers is the long way, only shorter."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from service.api.decode import decode_instances
from service.errors import InvalidInput
from service.repository.manifest import manifest_of
from tests.manifests import manifest, mlp, tensor

NUMBERS = st.one_of(st.integers(-2**53, 2**53), st.floats(allow_nan=False, allow_infinity=False))
PLAIN_ROWS = st.lists(st.one_of(
    st.lists(NUMBERS, min_size=3, max_size=3), st.lists(NUMBERS, max_size=4), st.lists(st.lists(NUMBERS, max_size=2)),
    NUMBERS,
), min_size=1, max_size=4)
THREE = manifest("three", "regression", [tensor("x", 3)], mlp(3, [4], 1, [0.5]))
MANIFEST = manifest_of(THREE.encode(), "three")


def decoded(rows: Any, plain: bool) -> tuple[torch.Size, bytes] | str:
    """The bits of the rows, or what is wrong with them."""
    try:
        (values,) = decode_instances(rows, MANIFEST, plain).values()
    except InvalidInput as e:
        return str(e)
    return values.shape, values.numpy().tobytes()


@given(PLAIN_ROWS)
@example([[3.4028235e38, -3.4028235e38, 1e30]])
@example([[3.4028236e38, 0, 0]])
@example([[1.0, 1e39, 0]])
@example([[0, 10**39, 0]])
@example([[-0.0, 1e-45, 2**24 + 1]])
def test_plain_numbers_have_the_same_bits_and_the_same_faults_either_way(rows) -> None:
    assert decoded(rows, plain=True) == decoded(rows, plain=False)


def test_no_room_is_made_for_more_than_came() -> None:
    wide = manifest_of(manifest("wide", "regression", [tensor("x", 4_000_000)], mlp(3, [4], 1, [0.5])).encode(), "wide")
    with pytest.raises(InvalidInput, match="4000000 values expected, got 1"):
        decode_instances([[0.0]] * 4096, wide, plain=True)


def test_numbers_come_as_float32_holds_them() -> None:
    shape, bits = decoded(orjson.loads(b"[[0.1, -3, 1e30], [7, 0, 2.5]]"), plain=True)
    assert shape == (2, 3)
    assert bits == torch.tensor([[0.1, -3, 1e30], [7, 0, 2.5]]).numpy().tobytes()
