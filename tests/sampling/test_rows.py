"""Rows that are not what the network takes are an error that says so, never other numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.errors import InvalidInput
from service.sampling import Sampler, prepare


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop, self.head = nn.Embedding(50, 4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.drop(self.embed(ids.long()).mean(1)))


def of_type(dtype: torch.dtype) -> Sampler:
    examples = torch.randint(0, 2 if dtype is torch.bool else 50, (4, 5), generator=torch.Generator().manual_seed(0))
    return prepare(Embedded(), examples.to(dtype), task="generic")


@pytest.mark.parametrize(("dtype", "beyond"), [
    (torch.int32, 2**32 + 1), (torch.uint8, 300), (torch.uint8, -1), (torch.bool, 2), (torch.int16, 2**16),
])
def test_whole_numbers_that_the_inputs_type_does_not_hold_are_refused(dtype, beyond) -> None:
    rows = torch.ones(2, 5, dtype=torch.int64)
    sampler = of_type(dtype)
    torch.testing.assert_close(sampler.predict(rows), sampler.predict(rows.to(dtype)))
    rows[1, 3] = beyond
    for ask in (sampler.predict, sampler.uncertainty):
        with pytest.raises(InvalidInput, match=rf"input: {beyond} of torch.int64 is beyond what {dtype} holds"):
            ask(rows)


def test_unsigned_numbers_are_taken_where_they_fit() -> None:
    sampler, rows = of_type(torch.int64), np.full((1, 5), 7, np.uint64)
    torch.testing.assert_close(sampler.predict(rows), sampler.predict(rows.astype(np.int64)))
    with pytest.raises(InvalidInput, match="beyond what"):
        sampler.predict(np.full((1, 5), 2**63 + 7, np.uint64))


def dense(*shape: int) -> Sampler:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Unflatten(0, (-1, 1)) if not shape else nn.Identity(), nn.Linear(3 if shape else 1, 4),
                        nn.Dropout(0.5), nn.Linear(4, 2))
    return prepare(net, torch.randn(4, *shape), task="generic")


def test_numbers_that_become_infinite_in_float32_are_refused_and_infinite_ones_are_the_models_to_fail() -> None:
    with pytest.raises(InvalidInput, match=r"1e\+300 of torch.float64 is beyond what torch.float32 holds"):
        dense(3).predict(torch.tensor([[1.0, 1e300, 0.0]], dtype=torch.float64))


def test_whole_numbers_floats_and_complex_ones_are_not_taken_for_each_other() -> None:
    for rows in (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.complex64)):
        with pytest.raises(InvalidInput, match=r"torch\.float32 of shape"):
            dense(3).predict(rows)
    with pytest.raises(InvalidInput, match=r"torch\.int64 of shape"):
        of_type(torch.int64).predict(torch.ones(2, 5, dtype=torch.complex64))


def test_a_single_number_is_no_row() -> None:
    sampler = dense()
    assert sampler.predict(torch.randn(2)).shape == (2, 2)
    for ask in (sampler.predict, sampler.uncertainty):
        with pytest.raises(InvalidInput, match=r"of shape \(rows, \) expected, got torch.float32 of \(\)"):
            ask(torch.tensor(3.0))


@pytest.mark.parametrize("rows", [None, 3, object(), "rows", [None], ["a"], {"input": None}, [[[1.0, 2.0, 3.0], [1.0]]],
                                  np.array([[None, 1, 2]])])
def test_what_is_no_tensor_is_refused(rows) -> None:
    for ask in (dense(3).predict, dense(3).uncertainty):
        with pytest.raises(InvalidInput, match="expected"):
            ask(rows)
