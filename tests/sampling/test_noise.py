"""Noise that a network makes of random numbers itself: two values each by itself, or it is no dropout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from service.errors import UnservableModel
from service.sampling import prepare
from service.sampling.arming import private_copy
from service.sampling.capture import capture
from service.sampling.noise import collapse

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


def given_its_shape(x: Tensor) -> Tensor:
    drawn = torch.empty_like(x).bernoulli_(0.7) / 0.7
    return x.expand_as(drawn) * drawn


class Whole(nn.Module):
    """What the network does with a value in training mode, drawing and all."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        return self.made(x) if self.training else x


def whole(made: Made) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), Whole(made), nn.Linear(20, 1))


def bernoulli(x: Tensor) -> Tensor:
    return torch.empty_like(x).bernoulli_(0.7) / 0.7


def test_a_value_that_reads_the_shape_of_its_noise_is_captured() -> None:
    sampler = prepare(whole(given_its_shape), X, task="regression")
    assert not sampler.eager_reason
    assert [(site.p, site.mask_shape) for site in sampler.sites] == [(0.3, (20,))]
    torch.testing.assert_close(sampler.uncertainty(X, 20, method="sampled").std, sampler.reference(X, 20).std,
                               atol=1e-6, rtol=1e-5)


def test_noise_that_is_multiplied_by_noise_first_runs_eagerly_with_both_sites() -> None:
    sampler = prepare(whole(lambda x: x * (bernoulli(x) * bernoulli(x))), X, task="regression")
    assert "multiplies random numbers by others before they reach a value" in sampler.eager_reason
    other = prepare(whole(lambda x: x * bernoulli(x) * bernoulli(x)), X, task="regression")
    assert not other.eager_reason
    for name in ("mean", "std"):
        found, expected = (getattr(s.uncertainty(X, 50, 3, method="sampled"), name) for s in (sampler, other))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_uniform_noise_that_is_multiplied_by_noise_first_is_refused_with_that_reason() -> None:
    def made(x: Tensor) -> Tensor:
        return x * ((torch.rand_like(x) > 0.3) * (torch.rand_like(x) > 0.3) / 0.49)

    with pytest.raises(UnservableModel, match="multiplies random numbers by others before they reach a value"):
        prepare(whole(made), X, task="regression")


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, KeyError])
def test_noise_that_cannot_be_followed_is_refused_whatever_the_error_is(error) -> None:
    def fails(_: Tensor) -> Tensor:
        raise error("no")

    graph = fx.Graph()
    x = graph.placeholder("x")
    drawn = graph.call_function(torch.ops.aten.rand_like.default, (x,))
    made = graph.call_function(fails, (drawn,))
    graph.output(graph.call_function(torch.ops.aten.mul.Tensor, (x, made)))
    for node in graph.nodes:
        node.meta["val"] = X
    with pytest.raises(UnservableModel, match="makes of random numbers what cannot be followed"):
        collapse(graph)


@pytest.mark.parametrize("p", [2.4e-6, 1.25e-5, 0.0024, 0.05, 0.2, 0.9, 1e-7])
def test_the_rate_of_uniform_noise_is_known_to_its_own_digits(p) -> None:
    net = network(lambda x: (torch.rand_like(x) > p).float() / (1 - p))
    (site,) = prepare_sites(net)
    assert site == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize("p", [2.4e-6, 0.0024, 0.2, 0.9])
def test_a_rate_that_float32_rounds_is_known_as_far_as_its_numbers_are_apart(p) -> None:
    (site,) = prepare_sites(network(lambda x: ((1 - p) + torch.rand_like(x)).floor_() / (1 - p)))
    assert site == pytest.approx(p, abs=2**-23)


def test_a_rate_that_masks_cannot_hold_is_refused() -> None:
    with pytest.raises(UnservableModel, match="drops nothing"):
        prepare_sites(network(lambda x: (torch.rand_like(x) > 0).float()))


def prepare_sites(net: nn.Module) -> list[float]:
    """The rates of a network's sites, as its graph shows them."""
    return [mark.p for mark in capture(private_copy(net), {"input": X}, True).sites.values()]
