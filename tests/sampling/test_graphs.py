"""Work that is recorded and replayed, with a recording that a CPU can make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.errors import InvalidOption
from service.sampling import Sampler, prepare, replayed, serving
from service.sampling import kernels as kernels_module
from service.sampling import sampler as sampler_module
from service.sampling.graphs import Graphs
from service.sampling.kernels import Folded, Kernel
from service.sampling.replayed import Replayed, filled_up

BUDGET = 1 << 20
Work = Callable[[], Sequence[Tensor]]


class Tape:
    """Replays by running again; results lie where the first ones lay, as a device's do."""

    held_bytes = 1000

    def __init__(self, work: Work) -> None:
        self._work, self.outputs = work, [output.clone() for output in work()]
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for place, output in zip(self.outputs, self._work(), strict=True):
            place.copy_(output)


class Frozen(Tape):
    """Gives for ever what it gave when it was recorded."""

    def replay(self) -> None:
        pass


class Drive:
    """Records tapes and keeps them."""

    def __init__(self, kind: type[Tape] = Tape) -> None:
        self.kind, self.tapes = kind, []

    def __call__(self, work: Work) -> Tape:
        self.tapes.append(self.kind(work))
        return self.tapes[-1]


def double(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [2 * inputs[0]]


def ask(graphs: Graphs, value: Tensor, key: Any = "double", work: Any = double) -> list[Tensor] | None:
    """What a graph gives; None where there is none."""
    graph = graphs.get(key, work, lambda: [value])
    return None if graph is None else graph.run([value])


def recorded(graphs: Graphs, key: Any = "double", work: Any = double, size: int = 3) -> list[Tensor] | None:
    ask(graphs, torch.arange(1.0, size + 1), key, work)
    return ask(graphs, torch.arange(1.0, size + 1), key, work)


def test_work_is_recorded_when_it_is_asked_for_twice_and_replayed_from_then_on() -> None:
    drive = Drive()
    graphs = Graphs(drive, BUDGET)
    assert ask(graphs, torch.ones(3)) is None
    assert drive.tapes == []
    for factor in (1.0, 5.0, -2.0):
        found = ask(graphs, factor * torch.arange(1.0, 4.0))
        assert found is not None
        assert torch.equal(found[0], 2 * factor * torch.arange(1.0, 4.0))
    assert len(drive.tapes) == 1


def test_a_result_stays_when_the_recording_is_replayed_for_somebody_else() -> None:
    graphs = Graphs(Drive(), BUDGET)
    recorded(graphs)
    (one,), (other,) = (ask(graphs, torch.full((3,), value)) or [] for value in (1.0, 7.0))
    assert one.tolist() == [2.0] * 3
    assert other.tolist() == [14.0] * 3


def test_a_recording_that_does_not_read_its_inputs_is_not_admitted() -> None:
    graphs = Graphs(Drive(Frozen), BUDGET)
    assert recorded(graphs) is None
    assert graphs.described() == ["double: not replayed: a replay differs from the run itself"]


def test_work_with_a_number_baked_in_is_not_admitted() -> None:
    class Baked(Tape):
        def __init__(self, work: Work) -> None:
            (first,) = work()
            super().__init__(lambda: [first + 0 * work()[0]])

    graphs = Graphs(Drive(Baked), BUDGET)
    assert recorded(graphs) is None


def test_work_whose_inputs_change_nothing_shows_nothing_and_is_not_admitted() -> None:
    graphs = Graphs(Drive(), BUDGET)
    assert recorded(graphs, work=lambda inputs: [torch.ones(2)]) is None
    assert "nothing shows that a replay reads them" in graphs.described()[0]


def test_results_that_are_not_finite_in_the_same_places_are_the_same() -> None:
    graphs = Graphs(Drive(), BUDGET)
    found = recorded(graphs, work=lambda inputs: [torch.cat([inputs[0], inputs[0] * torch.inf, inputs[0] * torch.nan])])
    assert found is not None


@pytest.mark.parametrize(("error", "reason"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
    (RuntimeError("operation not permitted when stream is capturing\nmore"),
     "RuntimeError: operation not permitted when stream is capturing"),
    (ValueError(), "ValueError"),
])
def test_what_cannot_be_recorded_runs_as_it_is_and_says_why(error, reason) -> None:
    tries = []

    def refuse(work: Work) -> Tape:
        tries.append(1)
        raise error

    graphs = Graphs(refuse, BUDGET)
    assert recorded(graphs) is None
    assert recorded(graphs) is None
    assert graphs.described() == [f"double: not replayed: {reason}"]
    assert len(tries) == 1


def test_the_recording_that_was_not_used_for_longest_goes_first() -> None:
    graphs = Graphs(Drive(), 3 * (Tape.held_bytes + 12))
    for key in "abc":
        assert recorded(graphs, key) is not None
    ask(graphs, torch.ones(3), "a")
    assert recorded(graphs, "d") is not None
    assert [line[0] for line in graphs.described()] == ["c", "a", "d"]
    assert graphs.bytes == 3 * (Tape.held_bytes + 12)
    assert ask(graphs, torch.ones(3), "b") is not None  # it was asked for before: it is recorded at once


@pytest.mark.parametrize(("budget", "tapes"), [(2 * Tape.held_bytes, 1), (20, 0)])
def test_a_recording_that_takes_more_than_half_of_the_memory_is_not_kept(budget, tapes) -> None:
    drive = Drive()
    graphs = Graphs(drive, budget)
    assert recorded(graphs) is None
    assert "more than half of what all may hold" in graphs.described()[0]
    assert len(drive.tapes) == tapes


def test_rows_are_filled_up_to_a_power_of_two() -> None:
    assert [filled_up(rows) for rows in (1, 2, 3, 4, 5, 8, 9, 100)] == [1, 2, 4, 4, 8, 8, 16, 128]


class Deep(nn.Module):
    """A prefix of several steps, and attention-like axes folded into the rows behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*[nn.Sequential(nn.Linear(12, 12), nn.Tanh()) for _ in range(5)])
        self.drop, self.inner, self.last = nn.Dropout(0.4), nn.Linear(4, 4), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        folded = self.first(x).view(-1, 3, 4).flatten(0, 1)
        return self.last(self.inner(self.drop(folded)).relu().view(-1, 12))


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.2),
                         nn.Linear(8, 3))


@pytest.fixture
def drive(monkeypatch) -> Drive:
    """Every sampler that is prepared records on it."""
    drive = Drive()
    monkeypatch.setattr(sampler_module, "graphs_of", lambda device: Graphs(drive, BUDGET))
    return drive


@pytest.fixture(params=[chain, Deep], ids=["chain", "deep"])
def sampler(request, drive) -> Sampler:
    torch.manual_seed(0)
    return prepare(request.param(), torch.randn(4, 12), task="classification")


def replaying(sampler: Sampler) -> list[Kernel]:
    found = [kernel for kernel in sampler.kernels if isinstance(kernel, Replayed)]
    assert found
    return found


def test_every_kernel_replayed_answers_for_any_number_of_rows_as_it_does_plain(sampler, drive) -> None:
    for kernel in replaying(sampler):
        plain = next(k for k in sampler.kernels if f"{k.name}, replayed" == kernel.name)
        for turn in range(3):
            for rows in (1, 2, 3, 5, 8, 9):
                x = torch.randn(rows, 12)
                for seed in (1, 2):
                    found, expected = (
                        sampler.uncertainty(x, 50, seed=seed + turn, kernel=k, include_samples=True)
                        for k in (kernel, plain))
                    torch.testing.assert_close(found.draws, expected.draws, atol=1e-6, rtol=0)
    assert sum(tape.replays for tape in drive.tapes) > 100
    refused = [line for line in sampler.described().as_dict()["notes"] if ": not replayed: " in line]
    assert all(line.startswith("stacked") for line in refused)  # whose weights oneDNN packs on the CPU


def test_rows_that_fill_up_are_never_read(sampler, monkeypatch) -> None:
    x = torch.randn(5, 12)
    whole = [sampler.uncertainty(x, 50, kernel=kernel) for kernel in replaying(sampler)]
    fill = replayed._filled

    def poisoned(values: Sequence[Tensor], layouts: Any, rows: int) -> list[Tensor]:
        full = fill(values, layouts, rows)
        for value, layout in zip(full, layouts, strict=True):
            if value.shape[layout.axis] != rows * layout.per_row:
                split = layout.split(value, -1)
                split.narrow(layout.lead, rows, split.shape[layout.lead] - rows).fill_(torch.nan)
        return full

    monkeypatch.setattr(replayed, "_filled", poisoned)
    for kernel, expected in zip(replaying(sampler), whole, strict=True):
        for _ in range(3):
            found = sampler.uncertainty(x, 50, kernel=kernel)
        torch.testing.assert_close(found.mean, expected.mean, atol=1e-6, rtol=0)


def test_a_long_prefix_is_replayed_and_a_short_one_is_not(sampler) -> None:
    long = isinstance(sampler.kernels[0].split.prefix, replayed.ReplayedPrefix)
    assert long == any(line.startswith("prefix, ") for line in sampler.described().notes)
    assert long == (len(list(sampler._plan.split.prefix.graph.nodes)) > 10)


def test_kernels_replayed_are_timed_beside_the_plain_ones_with_recording_done_before(sampler, monkeypatch) -> None:
    sampler._kernels._graphs.clear()
    monkeypatch.setattr(kernels_module, "warm_up_turns", lambda device: 2)
    monkeypatch.setattr(kernels_module, "_TRIES", 1)
    sampler.tune(torch.randn(4, 12))
    assert {kernel.name for kernel in sampler.timings[0].kernels} == {k.name for k in sampler.kernels}
    assert [line for line in sampler.described().notes if ", 1 rows, 50 samples: replayed" in line]


def test_rows_that_stop_early_are_replayed_too(sampler) -> None:
    x = torch.randn(9, 12)
    kernel = replaying(sampler)[0]
    found, expected = (sampler.uncertainty(x, 200, tolerance=0.2, kernel=k) for k in (kernel, sampler.kernels[0]))
    assert torch.equal(found.samples_per_row, expected.samples_per_row)
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-6, rtol=0)


def test_where_memory_runs_out_recordings_go_and_less_runs_at_once(sampler, monkeypatch) -> None:
    x, kernel = torch.randn(7, 12), replaying(sampler)[0]
    expected = sampler.uncertainty(x, 50, kernel=sampler.kernels[0])
    run, held = kernel.run, []

    def limited(values: Any, rows: int, samples: int, drawn: Any) -> Tensor:
        held.append(sampler._kernels._graphs.bytes)
        if rows * samples > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(values, rows, samples, drawn)

    monkeypatch.setattr(kernel, "run", limited)
    found = sampler.uncertainty(x, 50, kernel=kernel)
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-6, rtol=0)
    assert sampler.out_of_memory_retries > 0
    assert held[0] > 0
    assert 0 in held


def test_a_network_without_a_graph_or_without_dropout_records_nothing(drive) -> None:
    prepare(nn.Linear(12, 3), torch.randn(4, 12), task="classification")
    assert drive.tapes == []


class Second(Folded):
    """In place of the kernel that makes its masks itself, which needs Triton."""

    name = "fused"


def test_a_kernel_that_makes_its_masks_itself_serves_rows_with_masks_of_their_own_too(drive, monkeypatch) -> None:
    monkeypatch.setattr(serving, "Fused", Second)
    monkeypatch.setattr(serving, "offered", lambda kernel: "")
    torch.manual_seed(0)
    x = torch.randn(4, 12)
    sampler = prepare(Deep(), x, task="classification")
    general, second = (k for k in sampler.kernels if k.name in ("folded", "fused"))
    one, other = (sampler.uncertainty(x, 20, masks="independent", kernel=kernel) for kernel in (general, second))
    torch.testing.assert_close(one.mean, other.mean, atol=1e-6, rtol=0)
    with pytest.raises(InvalidOption, match="cannot run rows that have masks of their own"):
        sampler.uncertainty(x, 20, masks="independent", kernel=replaying(sampler)[0])
