"""What can be shown of CUDA devices without one."""

import pytest
import torch

from benchmarks.networks import NETWORKS, SMALL_NETWORKS
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
