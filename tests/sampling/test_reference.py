"""The oracle of every fast path takes nothing for granted."""

import pytest
import torch
from torch import nn

from service.errors import UnservableModel
from service.sampling.reference import with_noise

X = {"x": torch.randn(3, 4, 5)}


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 4, 1), (4, 1), (1,)])
def test_what_the_module_draws_apart_is_never_given_copies_of_one_number(shape) -> None:
    with pytest.raises(UnservableModel, match=r"draws noise of shape \(3, 4, 1\), where its graph has"):
        with_noise(nn.Dropout1d(0.5), X, True, lambda _shape, _keep: torch.ones(shape))


def test_noise_of_the_shape_that_is_asked_for_and_one_number_for_all_are_taken() -> None:
    noise = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 4, 1).expand(3, 4, 1)
    given = with_noise(nn.Dropout1d(0.5), X, True, lambda _shape, _keep: noise)
    torch.testing.assert_close(given, X["x"] * noise * 2)
    assert torch.equal(with_noise(nn.Dropout1d(0.5), X, True, lambda _shape, keep: torch.tensor(keep)), X["x"])
