"""Noise that a network makes of random numbers itself: two values each by itself, or it is no dropout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from service.errors import UnservableModel
from service.sampling import prepare

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
Made = Callable[[Tensor], Tensor]


class Noise(nn.Module):
    def __init__(self, made: Made) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        return x * self.made(x) if self.training else x


def network(made: Made) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), Noise(made), nn.Linear(20, 1))


def three_values(x: Tensor) -> Tensor:
    drawn = torch.rand_like(x)
    return (drawn > 0.1).float() + 4 * (drawn > 0.95).float()


@pytest.mark.parametrize("made", [
    lambda x: (torch.rand_like(x) * 1.5 - 0.25).clamp(0, 1), three_values,
    lambda x: torch.relu(torch.rand_like(x) - 0.2) * 3, lambda x: torch.floor(torch.rand_like(x) * 4) / 1.5,
    lambda x: torch.round(torch.rand_like(x) * 2), lambda x: ((torch.rand_like(x) - 0.3) * 100).clamp(0, 1),
], ids=["clamp", "three values", "relu", "floor", "round", "steep"])
def test_more_than_two_values_are_refused_with_the_reason(made) -> None:
    with pytest.raises(UnservableModel, match="that is no dropout"):
        prepare(network(made), X, task="regression")


@pytest.mark.parametrize("made", [
    lambda x: (torch.rand_like(x) > 0.3).float().mean(1, keepdim=True),
    lambda x: (torch.rand_like(x) > 0.3).float().flip(1),
], ids=["mean", "another unit's"])
def test_numbers_that_are_not_each_units_own_are_refused(made) -> None:
    with pytest.raises(UnservableModel, match="that is no dropout"):
        prepare(network(made), X, task="regression")


@pytest.mark.parametrize("made", [
    lambda x: torch.empty_like(x).bernoulli_(0.7).mean(1, keepdim=True) / 0.7,
    lambda x: torch.empty(x.shape[0], 1).bernoulli_(0.7).expand(-1, x.shape[1]) / 0.7,
    lambda x: (torch.rand_like(x) > 0.3).float() / 0.7,
], ids=["mean of Bernoulli numbers", "one number a row", "uniform"])
def test_what_is_served_has_the_spread_of_plain_passes(made) -> None:
    net = network(made)
    found = prepare(net, X, task="regression").uncertainty(X, 2000, 1, method="sampled")
    net.eval()[2].training = True
    torch.manual_seed(1)
    with torch.no_grad():
        passes = torch.stack([net(X) for _ in range(4000)]).double()
    assert float(passes.std(0).min()) > 0
    torch.testing.assert_close(found.std, passes.std(0), rtol=0.1, atol=0)
    torch.testing.assert_close(found.mean, passes.mean(0), atol=0.1 * float(passes.std(0).max()), rtol=0)


def test_one_number_a_row_is_one_unit() -> None:
    sampler = prepare(network(lambda x: torch.empty(x.shape[0], 1).bernoulli_(0.7).expand(-1, 20) / 0.7), X,
                      task="regression")
    assert [site.mask_shape for site in sampler.sites] == [(1,)]
