"""Kernels that bring a prefix of their own."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from service.errors import InvalidOption
from service.sampling import Sampler, prepare
from service.sampling.bank import Draw
from service.sampling.kernels import Kernel, Places

X = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))


class Doubling(nn.Module):
    """Gives twice what a prefix gives."""

    def __init__(self, prefix: nn.Module) -> None:
        super().__init__()
        self._prefix = prefix

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [2 * value for value in self._prefix(*inputs)]


class Halving:
    """Another kernel's answers, exactly, from the doubled values of its prefix; wrong ones from any other values."""

    name = "halving"

    def __init__(self, kernel: Kernel, most: int = 1 << 30) -> None:
        """most: passes that fit into memory."""
        self._kernel, self._most, self.ran = kernel, most, 0
        self.split = replace(kernel.split, prefix=Doubling(kernel.split.prefix))
        self.rows, self.bytes_per_sample = kernel.rows, kernel.bytes_per_sample
        self.working_set_bytes = kernel.working_set_bytes
        self.per_row_masks, self.normalised = kernel.per_row_masks, kernel.normalised

    def drawn(self, draw: Draw, places: Places) -> list[Tensor]:
        return self._kernel.drawn(draw, places)

    def run(self, values: Sequence[Tensor], rows: int, samples: int, drawn: Sequence[Tensor]) -> Tensor:
        if rows * samples > self._most:
            raise torch.OutOfMemoryError
        self.ran += 1
        return self._kernel.run([value / 2 for value in values], rows, samples, drawn)


def halving(sampler: Sampler, kernel: Kernel, most: int = 1 << 30) -> Halving:
    """One of the sampler's kernels from now on."""
    own = Halving(kernel, most)
    sampler.kernels.append(own)
    return own


@pytest.fixture
def sampler() -> Sampler:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.2),
                        nn.Linear(8, 3))
    return prepare(net, X, task="classification")


def test_a_kernel_reads_what_its_own_prefix_gives(sampler) -> None:
    for kernel in list(sampler.kernels):
        own = halving(sampler, kernel)
        found, expected = sampler.uncertainty(X, kernel=own), sampler.uncertainty(X, kernel=kernel)
        assert own.ran > 0
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.std, expected.std)


def test_a_kernel_that_takes_over_where_memory_runs_out_reads_its_own_prefix(sampler) -> None:
    expected = sampler.uncertainty(X, seed=3)
    found = sampler.uncertainty(X, seed=3, kernel=halving(sampler, sampler.kernels[0], most=5))
    assert sampler.out_of_memory_retries > 0
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std, expected.std, atol=1e-6, rtol=0)


def test_rows_that_stop_early_are_run_by_kernels_of_one_split(sampler) -> None:
    expected = sampler.uncertainty(X, tolerance=0.05, kernel=sampler.kernels[0])
    own = halving(sampler, sampler.kernels[0])
    sampler.serves_from[:] = [(1, sampler.kernels[0]), (10, own)]
    found = sampler.uncertainty(X, tolerance=0.05)
    assert own.ran == 0
    assert torch.equal(found.samples_per_row, expected.samples_per_row)
    assert torch.equal(found.mean, expected.mean)
    sampler.uncertainty(X)
    assert own.ran > 0


def test_early_stop_cannot_be_asked_of_a_kernel_with_a_prefix_of_its_own(sampler) -> None:
    with pytest.raises(InvalidOption, match="prefix of its own"):
        sampler.uncertainty(X, tolerance=0.05, kernel=halving(sampler, sampler.kernels[0]))
