"""Masks made and multiplied in one pass on a device are the CPU's, bit by bit."""

import numpy as np
import pytest
import torch
from torch import nn

from service.sampling.bank import Draw, SeedBank
from service.sampling.dithering import bfloat16_multipliers
from service.sampling.fused import Fused, offered
from service.sampling.masks import multipliers
from service.sampling.sites import Site
from service.sampling.split import Split
from tests.gpu.needs import NEEDS_CUDA

pytestmark = NEEDS_CUDA
CUDA = torch.device("cuda")


def fused(p: float, shape: tuple[int, ...], dtype: torch.dtype) -> Fused:
    site = Site("a.b", "dropout", p, True, shape, scale=1 / (1 - p))
    return Fused(Split(nn.Identity(), [], 1, nn.Identity(), 1, ["a.b"]), [site], SeedBank(), CUDA, dtype)


@pytest.mark.parametrize("design", ["balanced", "iid"])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("rows", [None, [0], [3, 11, 2**31]])
@pytest.mark.parametrize("shape", [(), (1,), (257,), (5000,), (5, 64), (8, 1, 1), (2, 3, 4, 5), (12, 128, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_multipliers_are_the_cpus(design, p, rows, shape, dtype) -> None:
    places, make = None if rows is None else np.array(rows), multipliers if dtype is torch.float32 else (
        bfloat16_multipliers)
    true = make(design, 2**53 - 1, "a.b", p, shape, 20, 25, places)
    (recipe,) = fused(p, shape, dtype).drawn(Draw(design, 2**53 - 1, 20, 25, 50), places)
    made = recipe.multiplied(torch.ones(1, 3 if rows is None else len(rows), *shape, dtype=dtype, device=CUDA), 0)
    assert made.dtype is dtype
    assert torch.equal(made.cpu(), (true.unsqueeze(1) if rows is None else true).expand(made.shape))


@pytest.mark.parametrize("rows", [1, 2, 17, 70])
def test_values_of_any_number_of_rows_are_multiplied(rows) -> None:
    value = torch.randn(20, rows, 300, device=CUDA)
    draw = Draw("balanced", 5, 10, 20, 30)
    (recipe,) = fused(0.3, (300,), torch.float32).drawn(draw, None)
    true = multipliers("balanced", 5, "a.b", 0.3, (300,), 10, 20).unsqueeze(1)
    assert torch.equal(recipe.multiplied(value, 0).cpu(), value.cpu() * true)


def test_it_is_offered() -> None:
    assert offered(fused(0.3, (5, 64), torch.float32)) == ""
    assert offered(fused(0.1, (64,), torch.bfloat16)) == ""
