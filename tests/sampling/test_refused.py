"""A network that sampling would answer wrongly for is refused, with the reason."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from service.errors import UnservableModel
from service.sampling import prepare


class PythonRandom(nn.Module):
    """LayerDrop by Python's generator: capture would freeze one draw."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(4, 4), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.inner(x) if not self.training or random.random() < 0.5 else x)


class Additive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class ForAllRows(nn.Module):
    """Stochastic depth with one number for the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.new_empty(1, 1).bernoulli_(0.8).div_(0.8) if self.training else x


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.inner(x))


class OwnStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += x.mean(0)
        return self.drop(x - self.seen)


class UniformAfterABranch(nn.Module):
    """Drop path by comparison where no graph tells its rate."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x) if x[0, 0] > 0 else self.other(x)
        return hidden * (torch.rand(hidden.shape[0], 1) > 0.1).float() if self.training else hidden


class Ambiguous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.drop(x), x


class BernoulliOfTensor(nn.Module):
    """Its rates are numbers of a tensor, which the graph does not show."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full_like(x, 0.8)) / 0.8 if self.training else x


class Almost(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x)


@pytest.mark.parametrize(("net", "reason"), [
    (PythonRandom(), "Python's or numpy's generator"), (Additive(), "random numbers"), (ForAllRows(), "neighbours"),
    (OwnStatistics(), "state"), (Ambiguous(), "logits"), (Almost(1.0), "drops everything"),
    (Almost(1 - 1e-11), "drops everything"), (Almost(1e-11), "drops nothing"),
    (Spectral(), "state|something else"), (UniformAfterABranch(), "uniform random numbers"),
    (BernoulliOfTensor(), "aten.bernoulli.default"),
])
def test_a_trap_is_refused_with_its_reason(net, reason) -> None:
    with pytest.raises(UnservableModel, match=reason):
        prepare(net, torch.randn(3, 4), task="generic")


class MeanOfTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(50, 8), nn.Dropout(0.2)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.drop(self.embed(ids).mean(1))
        return hidden + hidden.mean(0)


def test_rows_of_tokens_that_look_at_each_other_are_found_out_from_one_example() -> None:
    with pytest.raises(UnservableModel, match="neighbours"):
        prepare(MeanOfTokens(), torch.tensor([[3, 14, 15, 9]]), task="generic")
