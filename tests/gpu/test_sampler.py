"""The engine on a CUDA device gives the answers of the CPU's reference: the same masks, sample by sample."""

import pytest
import torch
from torch import Tensor

from benchmarks.networks import SMALL_NETWORKS, Network
from service.errors import UnservableModel
from service.sampling import Sampler, chunks, prepare, running
from service.sampling.fused import Fused
from service.sampling.outputs import Checks
from service.sampling.replayed import Replayed
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
    own = [k for k in cuda.kernels if k is cuda.kernels[0] or isinstance(k, Fused)]
    for kernel in cuda.kernels * 3 if masks == "shared" else own:  # what is asked for twice is replayed
        fast = cuda.uncertainty(
            x, 25, seed=4, masks=masks, design=design, include_samples=True, kernel=kernel)
        for name in ("draws", "mean", "std", "mean_se", "std_se", "entropy"):
            close(getattr(fast, name), getattr(slow, name))


@pytest.mark.parametrize("masks", ["shared", "independent"])
def test_chunks_of_samples_and_rows_change_nothing(pair, masks, monkeypatch) -> None:
    network, _, cuda = pair
    x = network.rows(9, seed=2)
    whole = cuda.uncertainty(x, 50, seed=5, masks=masks, include_samples=True, kernel=cuda.kernels[0])
    monkeypatch.setattr(chunks, "MASKS_AT_ONCE_BYTES", 1)
    monkeypatch.setattr(running, "PREFIX_BYTES", 1)
    monkeypatch.setattr(cuda.kernels[0], "rows", 2)
    monkeypatch.setattr(cuda.kernels[0], "working_set_bytes", 1)
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


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_replay_gives_what_the_kernel_gives_plain(pair, rows) -> None:
    network, _, cuda = pair
    plain = {kernel.name: kernel for kernel in cuda.kernels}
    for kernel in cuda.kernels:
        if not isinstance(kernel, Replayed):
            continue
        for seed in range(4):
            x = network.rows(rows, seed=seed)
            found, expected = (
                cuda.uncertainty(x, 50, seed=seed, kernel=k, include_samples=True)
                for k in (kernel, plain[kernel.name.removesuffix(", replayed")]))
            torch.testing.assert_close(found.draws, expected.draws, atol=1e-5, rtol=0)


def test_every_kernel_of_a_small_network_is_offered_and_replayed(pair) -> None:
    _, _, cuda = pair
    notes = cuda.described().notes
    assert any(isinstance(kernel, Fused) for kernel in cuda.kernels), notes
    assert [note for note in notes if ": replayed, " in note]
    assert not [note for note in notes if "not replayed" in note or "not offered" in note]


def test_where_recordings_have_no_room_the_answers_are_the_same(pair) -> None:
    network, cpu, cuda = pair
    x = network.rows(5, seed=6)
    graphs = cuda._kernels._graphs
    budget, graphs._budget = graphs._budget, 0
    graphs.clear()
    try:
        for kernel in cuda.kernels:
            for _ in range(3):
                close(cuda.uncertainty(x, 20, seed=3, kernel=kernel).mean, cpu.uncertainty(x, 20, seed=3).mean)
        assert graphs.bytes == 0
    finally:
        graphs._budget = budget
        graphs._plain.clear()


@pytest.mark.parametrize("seed", [1, 10**6], ids=["seen", "unseen"])
def test_nothing_waits_for_the_device_before_the_numbers_are_checked(pair, seed, monkeypatch) -> None:
    network, _, cuda = pair
    x = network.rows(8, seed=1)
    for turn in range(3):
        cuda.uncertainty(x, 50, seed=1 + 100 * turn)
    cuda.uncertainty(x, 50, seed=1)
    monkeypatch.setattr(Checks, "settle", lambda self: None)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        answer = cuda.uncertainty(x, 50, seed=seed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(answer.mean.isfinite().all())


def test_tf32_is_admitted_near_float32_and_leaves_the_flags_alone() -> None:
    network = SMALL_NETWORKS[0]
    flags = torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul
    before = [flag.fp32_precision for flag in flags]
    exact, tf32 = (prepare(network.module(), network.rows(4), "classification", dtype=dtype, device="cuda")
                   for dtype in ("float32", "tf32"))
    assert tf32.dtype == "tf32"
    assert tf32.dtype_error is not None
    assert tf32.dtype_error.mean < 0.1
    x = network.rows(32, seed=3)
    torch.testing.assert_close(tf32.uncertainty(x).mean, exact.uncertainty(x).mean, atol=5e-3, rtol=0)
    assert [flag.fp32_precision for flag in flags] == before
