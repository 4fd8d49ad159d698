"""Products in tf32, as far as they show without a CUDA device."""

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from service.errors import UnservableModel
from service.sampling import preparation, prepare
from service.sampling import sampler as sampler_module
from service.sampling.bound import ADMITTED


def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3)), torch.randn(4, 6)


def test_it_is_refused_on_the_cpu_with_the_reason() -> None:
    with pytest.raises(UnservableModel, match="arithmetic of CUDA devices, and this is the CPU"):
        prepare(*network(), task="classification", dtype="tf32")


@pytest.fixture
def contexts(monkeypatch) -> list[str]:
    """Which products were computed with tf32 allowed, on a device that is the CPU."""
    entered: list[str] = []

    @contextmanager
    def allowed(device: torch.device):
        entered.append("tf32")
        yield

    monkeypatch.setattr(preparation, "lacks_tf32", lambda device: "")
    monkeypatch.setattr(sampler_module, "tf32_products", allowed)
    return entered


def test_where_there_is_tf32_it_is_measured_and_every_sampled_answer_uses_it(contexts) -> None:
    net, x = network()
    sampler = prepare(net, x, task="classification", dtype="tf32")
    assert sampler.dtype == "tf32"
    assert sampler.dtype_error is not None
    assert sampler.dtype_error.mean < ADMITTED
    for ask in (lambda: sampler.predict(x), lambda: sampler.uncertainty(x), lambda: sampler.uncertainty(x, decide={
            "above": 0.5, "error": 0.1})):
        contexts.clear()
        ask()
        assert contexts
    contexts.clear()
    sampler.reference(x, 10)
    assert contexts == []


def test_exact_endings_stay_float32(contexts) -> None:
    net, x = network()
    sampler = prepare(net, x, task="regression", dtype="tf32")
    contexts.clear()
    assert sampler.uncertainty(x).method == "closed_form"
    assert contexts == []
    assert sampler.uncertainty(x, method="sampled").method == "sampled"
    assert contexts == ["tf32"]
