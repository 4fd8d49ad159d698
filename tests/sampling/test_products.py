"""Whichever library multiplies, the product is the same within rounding."""

import pytest
import torch

from service.sampling import products
from service.sampling.products import linear, packed


@pytest.fixture(params=[True, False], ids=["oneDNN", "torch's own"])
def library(request, monkeypatch) -> None:
    if request.param and not products.onednn_is_faster() and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param)


@pytest.mark.parametrize("shape", [(1, 24), (40, 24), (0, 24), (5, 7, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_is_torchs_own_within_rounding(library, shape, dtype) -> None:
    made = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(n, generator=made).to(dtype) for n in (shape, (9, 24), (9,)))
    for b in (bias, None):
        expected = torch.nn.functional.linear(rows, weight, b)
        torch.testing.assert_close(linear(rows, weight, b), expected)
        torch.testing.assert_close(linear(rows, packed(weight), b), expected)


def test_a_product_of_what_is_not_finite_is_not_finite(library) -> None:
    rows = torch.full((32, 24), float("nan"))
    assert linear(rows, packed(torch.ones(9, 24))).isnan().all()
