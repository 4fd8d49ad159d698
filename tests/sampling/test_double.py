"""Networks and examples of float64 are run in float32, or refused where that shows."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.errors import UnservableModel
from service.sampling import prepare

EPOCH = 1.7e9  # seconds


class Clocked(nn.Module):
    """Reads seconds since 1970; works in the type of what it is given, or in float32 behind the difference."""

    def __init__(self, narrow: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2))
        self.narrow = narrow

    def forward(self, x: Tensor) -> Tensor:
        since = (x - EPOCH) / 50
        return self.net(since.float() if self.narrow else since)


SECONDS = EPOCH + 100 * torch.rand(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression", "generic"])
def test_a_module_of_float64_that_float32_gets_wrong_is_refused_with_the_figure(task) -> None:
    with pytest.raises(UnservableModel, match=r"served in float32, where its prediction differs by 0\.\d+ of"):
        prepare(Clocked().double(), SECONDS, task=task)


def test_examples_of_float64_that_float32_gets_wrong_are_refused_whatever_the_weights_are() -> None:
    with pytest.raises(UnservableModel, match="served in float32"):
        prepare(Clocked(narrow=True), SECONDS.numpy(), task="regression")
    with pytest.raises(UnservableModel, match="served in float32"):
        prepare(Clocked(narrow=True), {"x": SECONDS}, task="regression")


class Wide(nn.Module):
    """One buffer is float64, and float32 cannot hold it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.out = nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 2)
        self.register_buffer("offset", torch.full((1,), EPOCH + 2.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.first(x))) + EPOCH - self.offset


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_buffer_of_float64_is_enough_to_be_looked_at(dtype) -> None:
    with pytest.raises(UnservableModel, match="served in float32"):
        prepare(Wide(), torch.rand(4, 3, dtype=dtype), task="regression")


def test_a_module_of_float64_that_float32_gets_right_is_served_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3)).double()
    x = torch.randn(300, 6, dtype=torch.float64)
    for rows in (x, x.float(), x.numpy()):
        sampler = prepare(net, rows, task="regression")
        torch.testing.assert_close(sampler.predict(rows), net.eval()(x).detach().float(), atol=1e-5, rtol=1e-5)
        assert bool((sampler.uncertainty(rows).std > 0).all())
    assert {p.dtype for p in net.parameters()} == {torch.float64}


def test_a_network_of_float32_takes_examples_of_float64() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    assert prepare(net, np.random.default_rng(0).normal(size=(4, 6)), task="classification").samples_something


class Beside(nn.Module):
    """An output of its own beside seconds since 1970, which are 10⁹ times as large."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.net((x - EPOCH) / 50)], 1)


def test_an_output_that_float32_gets_wrong_is_not_hidden_by_a_larger_one() -> None:
    with pytest.raises(UnservableModel, match=r"differs by 0\.\d+ of the output's scale"):
        prepare(Beside().double(), SECONDS[:, :1], task="regression")


class Later(nn.Module):
    """Seconds since 1970 as the target: float32 has one number in 128 s, and dropout moves it by less."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2))
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return 30 * self.net(x) + self.offset


def test_a_spread_that_float32_cannot_tell_is_refused_though_the_prediction_is_close() -> None:
    x = torch.rand(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(UnservableModel, match="of the output's standard deviation over dropout"):
        prepare(Later(EPOCH).double(), x, task="regression")
    assert prepare(Later(1000.0).double(), x, task="regression").samples_something


def test_an_output_that_dropout_does_not_reach_needs_no_spread() -> None:
    class Given(Beside):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, self.net(x)], 1)

    x = torch.rand(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert prepare(Given().double(), x, task="regression").uncertainty(x).std[:, 0].tolist() == [0.0] * 12
