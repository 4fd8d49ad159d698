"""A regression with a noise head: the law of total variance, exact by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from service.errors import ModelFailed, UnservableModel
from service.sampling import prepare
from service.statistics import NoiseHead


def tiny(seed: int = 4) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.25), nn.Linear(3, 4))
    with torch.no_grad():
        net[3].weight[2:] *= 3  # so that the noise differs much between masks
    return net, torch.randn(5, 2)


class Positive(nn.Module):
    """Locations as they are, noise as a standard deviation."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        location, noise = self.net(x).chunk(2, 1)
        return torch.cat([location, nn.functional.softplus(noise)], 1)


def all_masks(net: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """What every mask of the tiny network gives, (masks, rows, 4), and how likely it is."""
    hidden = torch.tanh(net[0](x)).detach().double()
    weight, bias = net[3].weight.detach().double(), net[3].bias.detach().double()
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    chance = torch.tensor([math.prod(0.75 if k else 0.25 for k in mask) for mask in masks]).double()
    return (hidden * masks.unsqueeze(1) / 0.75) @ weight.T + bias, chance.view(-1, 1, 1)


@pytest.mark.parametrize("head", ["log_variance", "std"])
@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_spread_and_noise_are_those_of_all_masks(head: NoiseHead, masks) -> None:
    net, x = tiny()
    values, chance = all_masks(net, x)
    location, noise = values.chunk(2, -1)
    variance = noise.exp() if head == "log_variance" else nn.functional.softplus(noise).square()
    mean = (chance * location).sum(0)
    std = (chance * (location - mean).square()).sum(0).sqrt()
    noise_std = (chance * variance).sum(0).sqrt()

    sampler = prepare(net if head == "log_variance" else Positive(net), x, task="regression", noise_head=head)
    answer = sampler.uncertainty(x, 20_000, masks=masks)
    assert answer.method == "sampled"
    torch.testing.assert_close(answer.mean, mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(answer.std, std, rtol=0.02, atol=0)
    assert answer.noise_std is not None
    torch.testing.assert_close(answer.noise_std, noise_std, rtol=0.01, atol=0)
    averaged = (chance * variance.log()).sum(0).exp().sqrt()  # one distribution from averaged numbers
    assert (averaged / noise_std).min() < 0.95


def test_the_prediction_and_the_samples_are_locations_only() -> None:
    net, x = tiny()
    sampler = prepare(net, x, task="regression", noise_head="log_variance")
    torch.testing.assert_close(sampler.predict(x), net.eval()(x)[:, :2].detach(), atol=1e-6, rtol=0)
    answer = sampler.uncertainty(x, 20, include_samples=True)
    assert answer.mean.shape == answer.std.shape == answer.noise_std.shape == (5, 2)
    assert answer.draws.shape == (5, 20, 2)
    assert answer.quantiles([0.25, 0.5]).shape == (5, 2, 2)
    torch.testing.assert_close(answer.draws.double().mean(1), answer.mean, atol=1e-6, rtol=0)


def test_the_noise_too_is_that_of_one_eager_pass_a_sample_and_of_any_chunking(monkeypatch) -> None:
    net, x = tiny()
    sampler = prepare(net, x, task="regression", noise_head="log_variance")
    whole, slow = sampler.uncertainty(x, 50, seed=3), sampler.reference(x, 50, seed=3)
    torch.testing.assert_close(whole.noise_std, slow.noise_std, atol=1e-6, rtol=1e-6)
    for kernel in sampler.kernels:
        monkeypatch.setattr(kernel, "working_set_bytes", 1)
        monkeypatch.setattr(kernel, "rows", 2)
    torch.testing.assert_close(
        sampler.uncertainty(x, 50, seed=3).noise_std, whole.noise_std, atol=1e-9, rtol=1e-6)


def test_a_network_without_a_noise_head_has_no_noise() -> None:
    net, x = tiny()
    assert prepare(net, x, task="regression").uncertainty(x, 20).noise_std is None


@pytest.mark.parametrize(("task", "outputs", "words"), [
    ("regression", 3, r"\(rows, 2·targets\)"), ("generic", 4, "task generic"),
])
def test_a_network_that_can_have_no_noise_head_is_refused(task, outputs, words) -> None:
    net = nn.Sequential(nn.Dropout(0.2), nn.Linear(2, outputs))
    with pytest.raises(UnservableModel, match=words):
        prepare(net, torch.randn(3, 2), task=task, noise_head="std")


def test_a_negative_standard_deviation_or_an_endless_variance_is_an_error() -> None:
    net, x = tiny()
    for head, bias in (("std", -50.0), ("log_variance", 800.0)):
        with torch.no_grad():
            net[3].bias[2:] = bias
        sampler = prepare(net, x, task="regression", noise_head=head)
        with pytest.raises(ModelFailed, match="noise head"):
            sampler.uncertainty(x, 20)
