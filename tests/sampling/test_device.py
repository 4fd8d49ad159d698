"""What can be shown of CUDA devices without one."""

import pytest
import torch

from benchmarks.gpu import COLUMNS, calls, medians_ms
from benchmarks.networks import NETWORKS, SMALL_NETWORKS
from service.sampling import Sampler, prepare
from service.sampling.device import exact_float32

FLAGS = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul


def test_tf32_is_off_while_a_device_computes_and_back_as_it_was_afterwards() -> None:
    before = [flag.fp32_precision for flag in FLAGS]

    def fail() -> None:
        with exact_float32(torch.device("cuda")):
            assert [flag.fp32_precision for flag in FLAGS] == ["ieee"] * 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [flag.fp32_precision for flag in FLAGS] == before


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    network = SMALL_NETWORKS[0]
    return prepare(network.module(), network.rows(4), task="classification")


def test_the_gpu_benchmark_times_every_column_of_its_table(sampler) -> None:
    device = torch.device("cpu")
    medians = medians_ms(calls(SMALL_NETWORKS[0], sampler, 2, 10, device), 1, device)
    assert len(medians) == len(COLUMNS)
    assert all(median is not None and median > 0 for median in medians)


def test_what_the_gpu_benchmark_compares_is_the_same_statistic(sampler) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        _, *sampled = (call(1) for call in calls(SMALL_NETWORKS[0], sampler, 3, 1000, torch.device("cpu")))
    for mean, std in sampled:
        torch.testing.assert_close(mean.double(), sampled[0][0].double(), atol=0.02, rtol=0)
        torch.testing.assert_close(std.double(), sampled[0][1].double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("network", [*NETWORKS, *SMALL_NETWORKS], ids=lambda network: network.name)
def test_a_benchmarks_network_gives_a_row_of_numbers_a_row(network) -> None:
    with torch.no_grad():
        output = network.module()(network.rows(1))
    assert output.shape == (1, output.numel())
    assert output.isfinite().all()
