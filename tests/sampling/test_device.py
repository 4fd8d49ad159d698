"""How products of float32 are computed, and what can be shown of CUDA devices without one."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.networks import NETWORKS, SMALL_NETWORKS
from service.sampling import prepare
from service.sampling.device import exact_float32, tf32_products

FLAGS = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul


@pytest.mark.parametrize(("products", "kind"), [(exact_float32, "ieee"), (tf32_products, "tf32")])
def test_tf32_is_as_asked_for_while_a_device_computes_and_as_it_was_afterwards(products, kind) -> None:
    before = [flag.fp32_precision for flag in FLAGS]

    def fail() -> None:
        with products(torch.device("cuda")):
            assert [flag.fp32_precision for flag in FLAGS] == [kind] * 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [flag.fp32_precision for flag in FLAGS] == before


@pytest.mark.parametrize("network", [*NETWORKS, *SMALL_NETWORKS], ids=lambda network: network.name)
def test_a_benchmarks_network_gives_a_row_of_numbers_a_row(network) -> None:
    with torch.no_grad():
        output = network.module()(network.rows(1))
    assert output.shape == (1, output.numel())
    assert output.isfinite().all()


CPU = torch.device("cpu")
ONEDNN: Any = torch.backends.mkldnn
CPU_FLAGS = ONEDNN.conv, ONEDNN.rnn, ONEDNN.matmul


@pytest.fixture
def rounding() -> Iterator[None]:
    """As where somebody in the process allows oneDNN to round what float32 products multiply to bfloat16."""
    before = [flag.fp32_precision for flag in CPU_FLAGS]
    for flag in CPU_FLAGS:
        flag.fp32_precision = "bf16"
    yield
    for flag, value in zip(CPU_FLAGS, before, strict=True):
        flag.fp32_precision = value


def test_the_cpu_does_not_round_products_whatever_torch_is_set_to_and_the_flags_are_put_back(rounding) -> None:
    def fail() -> None:
        with exact_float32(CPU):
            assert [flag.fp32_precision for flag in CPU_FLAGS] == ["ieee"] * 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [flag.fp32_precision for flag in CPU_FLAGS] == ["bf16"] * 3


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_usual_way_to_allow_rounding_is_seen(precision) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with exact_float32(CPU):
            assert ONEDNN.matmul.fp32_precision == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


class Watched(nn.Module):
    """Notes how products are computed whenever it runs."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.head = nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)
        self.seen = seen

    def __deepcopy__(self, memo: dict[int, Any]) -> "Watched":
        copied = Watched(self.seen)
        copied.load_state_dict(self.state_dict())
        return copied

    def forward(self, x: Tensor) -> Tensor:
        self.seen.extend(flag.fp32_precision for flag in CPU_FLAGS)
        return self.head(self.drop(self.first(x if x.sum() > 0 else -x)))  # cannot be captured: it runs as it is


def test_a_network_is_prepared_and_run_with_exact_products(rounding) -> None:
    seen: list[str] = []
    x = torch.randn(3, 6)
    sampler = prepare(Watched(seen), x, task="classification")
    for ask in (sampler.predict, sampler.uncertainty, sampler.reference):
        ask(x)
    assert set(seen) == {"ieee"}
