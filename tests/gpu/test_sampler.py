"""The engine on a CUDA device gives the answers of the CPU's reference: the same masks, sample by sample."""

import pytest
import torch
from torch import Tensor

from benchmarks.networks import SMALL_NETWORKS, Network
from service.errors import UnservableModel
from service.sampling import Sampler, prepare
from service.sampling import sampler as sampler_module
from tests.gpu.needs import NEEDS_CUDA

pytestmark = NEEDS_CUDA
BETWEEN_DEVICES = 1e-4  # of a probability; one wrong mask bit moves a sample by far more


@pytest.fixture(scope="module", params=SMALL_NETWORKS, ids=lambda network: network.name)
def pair(request) -> tuple[Network, Sampler, Sampler]:
    network: Network = request.param
    try:
        cpu = prepare(network.module(), network.rows(4), task="classification")
    except UnservableModel as refusal:
        pytest.skip(f"the engine refuses it on the CPU too: {refusal}")
    return network, cpu, prepare(network.module(), network.rows(4), task="classification", device="cuda")


def close(found: Tensor | None, expected: Tensor | None) -> None:
    assert found is not None
    assert expected is not None
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, atol=BETWEEN_DEVICES, rtol=0)


def test_the_prediction_is_the_cpus(pair) -> None:
    network, cpu, cuda = pair
    x = network.rows(7, seed=1)
    close(cuda.predict(x), cpu.predict_reference(x))


@pytest.mark.parametrize("masks", ["shared", "independent"])
@pytest.mark.parametrize("design", ["balanced", "iid"])
def test_every_kernel_equals_one_eager_pass_a_sample_on_the_cpu(pair, masks, design) -> None:
    network, cpu, cuda = pair
    x = network.rows(7, seed=1)
    slow = cpu.reference(x, 25, seed=4, masks=masks, design=design)
    for kernel in cuda.kernels if masks == "shared" else cuda.kernels[:1]:
        fast = cuda.uncertainty(
            x, 25, seed=4, masks=masks, design=design, include_samples=True, kernel=kernel)
        for name in ("draws", "mean", "std", "mean_se", "std_se", "entropy"):
            close(getattr(fast, name), getattr(slow, name))


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_chunks_of_samples_and_rows_change_nothing(pair, masks, monkeypatch) -> None:
    network, _, cuda = pair
    x = network.rows(9, seed=2)
    whole = cuda.uncertainty(x, 50, seed=5, masks=masks, include_samples=True, kernel=cuda.kernels[0])
    monkeypatch.setattr(sampler_module, "_MASKS_AT_ONCE_BYTES", 1)
    monkeypatch.setattr(sampler_module, "_PREFIX_BYTES", 1)
    monkeypatch.setattr(cuda.kernels[0], "rows", 2)
    pieces = cuda.uncertainty(x, 50, seed=5, masks=masks, include_samples=True, kernel=cuda.kernels[0])
    torch.testing.assert_close(pieces.draws, whole.draws, atol=1e-5, rtol=0)


def test_a_row_alone_equals_itself_in_company(pair) -> None:
    network, _, cuda = pair
    x = network.rows(6, seed=3)
    company = cuda.uncertainty(x, 50, seed=2)
    alone = cuda.uncertainty(x[2:3], 50, seed=2)
    torch.testing.assert_close(alone.mean[0], company.mean[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.std[0], company.std[2], atol=1e-5, rtol=0)


def test_preparing_and_asking_leaves_the_devices_generator_and_flags_as_they_were() -> None:
    flags = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    network = SMALL_NETWORKS[1]
    before = torch.cuda.get_rng_state(), torch.get_rng_state(), [flag.fp32_precision for flag in flags]
    prepare(network.module(), network.rows(4), "classification", device="cuda").uncertainty(network.rows(3), 20)
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert [flag.fp32_precision for flag in flags] == before[2]
