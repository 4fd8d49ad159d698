"""Where a rule chooses, no clock does."""

from __future__ import annotations

import pytest
import torch

from models.architectures.mlp import MLP
from service.clock import ManualClock
from service.sampling import prepare, products
from service.sampling.sampler import Sampler
from service.sampling.untimed import by_rule, chosen_by_rule


def prepared() -> Sampler:
    torch.manual_seed(0)
    return prepare(MLP(6, (32, 16), 3, (0.5, 0.3)), torch.randn(4, 6), "classification")


def test_by_rule_the_last_kernel_serves_any_number_of_rows() -> None:
    assert prepared().timings
    with chosen_by_rule():
        sampler = prepared()
    assert len(sampler.kernels) > 1
    assert sampler.timings == []
    assert sampler.serves_from == [(1, sampler.kernels[-1])]


@pytest.mark.parametrize("faster", [True, False])
def test_by_rule_it_does_not_matter_which_library_multiplies_faster(monkeypatch, faster) -> None:
    monkeypatch.setattr(products, "_onednn_won", lambda: faster)
    with chosen_by_rule():
        assert products.onednn_is_faster() == products._has_onednn()
    assert products.onednn_is_faster() == (faster and products._has_onednn())


def test_by_rule_no_clock_is_asked(monkeypatch) -> None:
    class Broken(ManualClock):
        def now(self) -> float:
            raise AssertionError("somebody asked the clock")

    products._onednn_won.cache_clear()
    for module in ("products", "serving"):
        monkeypatch.setattr(f"service.sampling.{module}.MonotonicClock", Broken)
    with chosen_by_rule():
        sampler = prepared()
        rows = torch.randn(200, 6)
        assert torch.equal(sampler.uncertainty(rows).mean, sampler.uncertainty(rows).mean)
    with pytest.raises(Exception, match="somebody asked the clock"):
        prepared()


def test_the_rule_ends_where_it_was_asked_for() -> None:
    with chosen_by_rule():
        with chosen_by_rule():
            assert by_rule()
        assert by_rule()
    assert not by_rule()
