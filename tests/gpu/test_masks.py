"""A mask is the same on every device, bit by bit."""

import numpy as np
import pytest
import torch

from service.sampling import masks
from service.sampling.masks import multipliers
from tests.gpu.needs import NEEDS_CUDA

pytestmark = NEEDS_CUDA


@pytest.mark.parametrize("design", ["balanced", "iid"])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("rows", [None, [0], [3, 11, 2**31]])
@pytest.mark.parametrize("shape", [(), (1,), (257,), (5, 64), (8, 1, 1), (2, 3, 4, 5)])
def test_a_device_makes_the_bits_of_the_cpu(design, p, rows, shape) -> None:
    places = None if rows is None else np.array(rows)
    made = multipliers(design, 2**53 - 1, "a.b", p, shape, 20, 25, places, torch.device("cuda"))
    assert made.is_cuda
    assert torch.equal(made.cpu(), multipliers(design, 2**53 - 1, "a.b", p, shape, 20, 25, places))


@pytest.mark.parametrize("design", ["balanced", "iid"])
def test_pieces_of_any_size_make_the_same_mask(design, monkeypatch) -> None:
    whole = multipliers(design, 1, "site", 0.3, (3, 700), 0, 50)
    monkeypatch.setattr(masks, "_DEVICE_WORDS", 512)
    assert torch.equal(multipliers(design, 1, "site", 0.3, (3, 700), 0, 50, device=torch.device("cuda")).cpu(), whole)
