"""Errors are measured by the scale of the output that they are of."""

import pytest
import torch
from torch import nn

from service.sampling import prepare
from service.sampling.agreement import agree, furthest, scale_of
from service.sampling.kernels import Thinned

VALUES = torch.tensor([[1e9, 1.0], [2e9, -0.5]])


def test_every_output_has_a_scale_of_its_own_and_probabilities_have_1() -> None:
    assert scale_of(VALUES).tolist() == [2e9, 1.0]
    assert scale_of(VALUES, "classification") == scale_of(VALUES, "multilabel") == 1.0


def test_a_small_output_that_is_wrong_beside_a_large_one_is_seen() -> None:
    wrong = VALUES + torch.tensor([0.0, 0.01])
    assert not agree(VALUES, wrong, scale_of(VALUES))
    assert furthest(VALUES, wrong, scale_of(VALUES)) == pytest.approx(0.01, rel=1e-5)


def test_what_is_no_number_agrees_with_nothing() -> None:
    assert not agree(VALUES, VALUES * float("nan"), scale_of(VALUES))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))
        self.register_buffer("scale", torch.tensor([1e6, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.scale


def test_a_kernel_that_is_wrong_in_a_small_output_is_left_out(monkeypatch) -> None:
    right = Thinned.run
    monkeypatch.setattr(Thinned, "run", lambda *given: right(*given) * torch.tensor([1.0, 1.1]))
    sampler = prepare(Scaled(), torch.randn(4, 6), task="regression")
    assert "thinned" not in [kernel.name for kernel in sampler.kernels]
    assert any(note.startswith("thinned: left out") for note in sampler.described().notes)
