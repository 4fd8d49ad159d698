"""Memory that runs out: less at once, the same answer, and an error only where one row and one sample do not fit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.sampling import Sampler, memory, prepare
from service.sampling.memory import Room, ran_out_of_memory
from service.sampling.steps import Steps, Work
from service.statistics import Accumulator, ConditionalAccumulator, NoisyAccumulator

ROWS = 7


def classifier() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16), nn.Tanh(), nn.Dropout(0.3),
                        nn.Linear(16, 3))
    return net, torch.randn(ROWS, 6)


def sampler_of(task: str = "classification") -> tuple[Sampler, Tensor]:
    net, x = classifier()
    return prepare(net, x, task=task), x


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


class Small:
    """Lets so many passes run at once and raises beyond; remembers what ran."""

    def __init__(self, limit: int, error: Callable[[], Exception] = out_of_memory) -> None:
        self.limit, self.error = limit, error
        self.ran: list[int] = []

    def check(self, passes: int) -> None:
        if passes > self.limit:
            raise self.error()
        self.ran.append(passes)

    def around(self, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def limited(values: Any, rows: int, samples: int, drawn: Any) -> Tensor:
            self.check(rows * samples)
            return run(values, rows, samples, drawn)
        return limited


def kernels_of(sampler: Sampler) -> list[Any]:
    """All that may run, the exact averages' among them."""
    return [*sampler.kernels, *([sampler._conditional] if sampler._conditional else [])]


def limited(sampler: Sampler, monkeypatch: pytest.MonkeyPatch, limit: int, **options: Any) -> Small:
    small = Small(limit, **options)
    for kernel in kernels_of(sampler):
        monkeypatch.setattr(kernel, "run", small.around(kernel.run))
    return small


def answers(sampler: Sampler, x: Tensor, **options: Any) -> dict[str, Tensor]:
    answer = sampler.uncertainty(x, seed=2, **options)
    return {name: getattr(answer, name) for name in ("mean", "std", "mean_se", "std_se")}


@pytest.mark.parametrize("limit", [200, 69, 30, 10, 9, 1])
@pytest.mark.parametrize("options", [
    {"samples": 50}, {"samples": 50, "masks": "independent"}, {"samples": 45, "design": "iid"},
    {"samples": 400, "tolerance": 0.05},
])
def test_the_answer_is_the_same_with_less_at_once(monkeypatch, limit, options) -> None:
    sampler, x = sampler_of()
    whole = answers(sampler, x, **options)
    small = limited(sampler, monkeypatch, limit)
    for name, value in answers(sampler, x, **options).items():
        torch.testing.assert_close(value, whole[name], atol=1e-6, rtol=0, equal_nan=True)
    assert sampler.out_of_memory_retries > 0
    assert max(small.ran) <= limit


@pytest.mark.parametrize("limit", [30, 1])
def test_averages_over_the_last_site_survive_it_too(monkeypatch, limit) -> None:
    sampler, x = sampler_of("regression")
    whole = sampler.uncertainty(x, 50)
    assert whole.method == "rao_blackwell"
    limited(sampler, monkeypatch, limit)
    small = sampler.uncertainty(x, 50)
    torch.testing.assert_close(small.std, whole.std, atol=1e-6, rtol=1e-6)
    assert sampler.out_of_memory_retries > 0


def test_fewer_samples_come_before_fewer_rows_and_both_before_parts_of_a_block() -> None:
    room = Room(torch.device("cpu"))
    tried = []

    def run(rows: range) -> Work[None]:
        yield from ()
        most = room.rows(8)
        samples = room.samples(40, most)
        room.using(most, samples)
        tried.append((most, samples))
        if most * samples > 2:
            raise out_of_memory()

    Steps(room.through(8, 8, run), nullcontext).whole()
    assert tried[:7] == [(8, 40), (8, 20), (8, 10), (4, 10), (2, 10), (1, 10), (1, 5)]
    assert room.retries == 7


def test_only_one_row_and_one_sample_that_do_not_fit_are_an_error(monkeypatch) -> None:
    sampler, x = sampler_of()
    limited(sampler, monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        sampler.uncertainty(x, 20)


def test_another_error_is_not_tried_again(monkeypatch) -> None:
    sampler, x = sampler_of()
    limited(sampler, monkeypatch, 5, error=lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        sampler.uncertainty(x, 20)
    assert sampler.out_of_memory_retries == 0


@pytest.mark.parametrize("part", ["prefix", "predict"])
def test_the_prediction_and_the_prefix_run_on_fewer_rows(monkeypatch, part) -> None:
    sampler, x = sampler_of()
    whole = sampler.predict(x), sampler.uncertainty(x, 20).std
    small, module = Small(2), sampler._plan.predict if part == "predict" else sampler.kernels[0].split.prefix
    forward = module.forward

    def limited_forward(*inputs: Tensor) -> Any:
        small.check(len(inputs[0]))
        return forward(*inputs)

    monkeypatch.setattr(module, "forward", limited_forward)
    found = sampler.predict(x), sampler.uncertainty(x, 20).std
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert sampler.out_of_memory_retries > 0


def test_rows_that_are_done_are_not_run_again(monkeypatch) -> None:
    room, ran = Room(torch.device("cpu"), samples_a_row=1), []

    def run(rows: range) -> Work[range]:
        yield from ()
        ran.append(rows)
        if len(ran) == 3:
            raise out_of_memory()
        return rows

    done = Steps(room.through(12, 4, run), nullcontext).whole()
    assert done == [range(4), range(4, 8), range(8, 10), range(10, 12)]


def test_what_fitted_is_remembered_and_more_is_tried_after_many_quiet_requests(monkeypatch) -> None:
    monkeypatch.setattr(memory, "_QUIET_REQUESTS", 5)
    sampler, x = sampler_of()
    small = limited(sampler, monkeypatch, 70)
    sampler.uncertainty(x, 50)
    tries = sampler.out_of_memory_retries
    for _ in range(4):
        sampler.uncertainty(x, 50)
    assert sampler.out_of_memory_retries == tries
    assert max(small.ran) <= 70
    small.limit = 10_000
    for _ in range(2):
        sampler.uncertainty(x, 50)
    assert max(small.ran) > 70


def test_every_way_to_say_that_memory_ran_out_is_understood() -> None:
    assert ran_out_of_memory(out_of_memory())
    for allocate in (lambda: torch.empty(2**60, dtype=torch.uint8), lambda: np.empty(2**60, np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert ran_out_of_memory(caught.value)
    assert not ran_out_of_memory(RuntimeError("boom"))
    assert not ran_out_of_memory(ValueError("out of memory"))


def numbers_held(thing: Any, seen: set[int]) -> int:
    """Of all tensors that can be reached from an object."""
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return thing.untyped_storage().nbytes() // 4
    if isinstance(thing, list | tuple):
        return sum(numbers_held(part, seen) for part in thing)
    return sum(numbers_held(part, seen) for part in vars(thing).values()) if hasattr(thing, "__dict__") else 0


@pytest.mark.parametrize(("make", "columns"), [
    (lambda: Accumulator("classification", balanced=True), 3), (lambda: Accumulator("generic", balanced=False), 3),
    (lambda: ConditionalAccumulator(balanced=True), 6), (lambda: NoisyAccumulator("log_variance", balanced=True), 6),
])
def test_what_is_kept_does_not_grow_with_the_number_of_samples(make, columns) -> None:
    """Once all 64 super-blocks are there."""
    held = []
    for samples in (1300, 10_000):
        accumulator, generator = make(), torch.Generator().manual_seed(0)
        for _ in range(0, samples, 10):
            accumulator.add(torch.rand(10, 4, columns, generator=generator))
        held.append(numbers_held(accumulator, set()))
        assert accumulator.samples == samples
    assert held[1] <= 1.05 * held[0]


@pytest.mark.parametrize("options", [
    {"masks": "shared"}, {"masks": "independent"}, {"masks": "independent", "design": "iid"}, {"method": "auto"},
])
def test_a_chunk_is_no_larger_with_ten_thousand_samples(monkeypatch, options) -> None:
    """What runs at once, and the masks of it, are those of fewer samples; none of a long request's are kept."""
    sampler, x = sampler_of("regression" if "method" in options else "classification")
    largest = []
    for samples in (1000, 10_000):
        small = Small(10**9)
        with pytest.MonkeyPatch.context() as patch:
            for kernel in kernels_of(sampler):
                patch.setattr(kernel, "run", small.around(kernel.run))
                patch.setattr(kernel, "working_set_bytes", 1 << 16)
            answer = sampler.uncertainty(x, samples, seed=samples, **options)
        assert answer.samples == samples == sum(small.ran) // ROWS
        largest.append(max(small.ran))
    assert largest[0] == largest[1]
