"""Copies on the CPU are none; checks that a device defers are told when they are settled."""

import pytest
import torch

from service.errors import ModelFailed
from service.sampling.copies import to_device, to_host
from service.sampling.outputs import Checks

CPU, DEVICE = torch.device("cpu"), torch.device("cuda")


def test_on_the_cpu_nothing_is_copied() -> None:
    value = torch.randn(3)
    assert to_device(value, CPU) is value
    assert to_host({"a": value})["a"] is value


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_a_number_that_is_not_finite_is_told_at_once_on_the_cpu_and_at_the_end_on_a_device(wrong) -> None:
    values = torch.tensor([1.0, wrong])
    with pytest.raises(ModelFailed, match="not finite"):
        Checks(CPU).finite(values)
    checks = Checks(DEVICE)
    assert checks.finite(values) is values
    checks.finite(torch.ones(2), "another reason")
    with pytest.raises(ModelFailed, match="not finite"):
        checks.settle()


@pytest.mark.parametrize("device", [CPU, DEVICE], ids=str)
def test_the_reason_is_that_of_what_is_wrong_and_numbers_whose_sum_overflows_are_finite(device) -> None:
    checks = Checks(device)
    checks.finite(torch.full((2,), torch.finfo(torch.float32).max))
    checks.settle()
    with pytest.raises(ModelFailed, match="the noise head"):  # noqa: PT012 - told by either
        checks.finite(torch.tensor([torch.nan]), "the noise head gave it")
        checks.settle()
