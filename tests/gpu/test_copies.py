"""Copies that run beside what the device computes arrive whole, however the memory is used before and after."""

import torch

from service.sampling.copies import to_device, to_host
from tests.gpu.needs import NEEDS_CUDA

pytestmark = NEEDS_CUDA
CUDA = torch.device("cuda")


def busy() -> torch.Tensor:
    """Work that keeps the device for some milliseconds."""
    value = torch.randn(2048, 2048, device=CUDA)
    for _ in range(20):
        value = value @ value * 1e-3
    return value


def test_what_is_computed_next_waits_for_its_input() -> None:
    for turn in range(50):
        busy()
        value = torch.full((1 << 20,), float(turn))
        assert float(to_device(value, CUDA).double().sum()) == turn * (1 << 20)


def test_memory_that_is_let_go_is_not_overwritten_while_it_is_read() -> None:
    sums = []
    for turn in range(50):
        busy()
        sums.append(to_device(torch.full((1 << 18,), float(turn)), CUDA).double().sum())  # read after it is let go
    assert [float(s) for s in sums] == [float(turn * (1 << 18)) for turn in range(50)]


def test_a_result_is_copied_once_it_is_computed() -> None:
    for turn in range(20):
        value = busy() * 0 + turn
        found = to_host({"a": value, "b": torch.ones(3), "c": value[:, :5]})
        assert all(not tensor.is_cuda for tensor in found.values())
        assert torch.equal(found["a"], torch.full((2048, 2048), float(turn)))
        assert torch.equal(found["c"], torch.full((2048, 5), float(turn)))


def test_a_value_that_is_there_stays_where_it_is() -> None:
    value = torch.ones(3, device=CUDA)
    assert to_device(value, torch.device("cuda", torch.cuda.current_device())) is value
