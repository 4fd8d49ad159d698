"""What a follower is told on the way, and that following changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from service.errors import ModelFailed
from service.sampling import Sampler, drawing, prepare, running
from service.sampling.memory import Room
from service.sampling.steps import Pace
from service.statistics import Uncertainty
from tests.sampling.test_steps import OPTIONS, near, rows, sampler  # noqa: F401

FIGURES = ("mean", "std", "mean_se", "std_se")


def followed(network: Sampler, count: int, pace: Pace | None = None, **options) -> tuple[list[Uncertainty], Uncertainty]:
    """The answers on the way, and the answer."""
    seen: list[Uncertainty] = []

    def follow(so_far: Callable[[], Uncertainty]) -> None:
        found = so_far()
        for name in FIGURES:
            getattr(found, name)
        seen.append(found)

    inputs = rows(count, seed=2)
    return seen, network.sampling(inputs, **options, pace=(pace or Pace())._replace(follower=follow)).whole()


@pytest.fixture(scope="module")
def regression() -> Sampler:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.4),
                        nn.Linear(8, 2))
    return prepare(net, rows(8), task="regression")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("step", [None, 20])
def test_an_answer_is_the_same_to_its_last_bit_whether_anybody_follows(sampler, options, step) -> None:  # noqa: F811
    seen, found = followed(sampler, 7, Pace(step), **options)
    alone = sampler.sampling(rows(7, seed=2), **options, pace=Pace(step)).whole()
    assert seen
    for name in (*FIGURES, "entropy", "mutual_information", "mutual_information_se"):
        torch.testing.assert_close(getattr(found, name), getattr(alone, name), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
@pytest.mark.parametrize("method", ["auto", "sampled"])
def test_an_answer_so_far_is_that_of_a_request_for_so_many_samples(regression, options, method) -> None:
    seen, _ = followed(regression, 5, method=method, **options)
    assert [found.samples for found in seen][:9] == [10, 20, 30, 40, 50, 60, 70, 80, 90][: len(seen)]
    for found in seen:
        expected = regression.uncertainty(rows(5, seed=2), method=method, **{**options, "samples": found.samples})
        for name in FIGURES:
            if (figure := getattr(expected, name)) is None:
                assert getattr(found, name) is None
            else:
                near(getattr(found, name), figure)


def test_rows_that_settled_stay_as_they_are_while_others_are_sampled(sampler) -> None:  # noqa: F811
    seen, whole = followed(sampler, 30, samples=2000, tolerance=0.05)
    counts = torch.stack([found.samples_per_row for found in seen])
    assert (counts.diff(dim=0) >= 0).all()
    for found in seen:
        early = torch.tensor(found.after_stopping)
        assert torch.equal(found.samples_per_row[early], whole.samples_per_row[early])
        near(found.mean[early], whole.mean[early])
    assert len({tuple(found.after_stopping) for found in seen}) > 2


@pytest.mark.parametrize(("options", "where"), [({"samples": 40}, running), ({"tolerance": 0.1}, drawing)])
def test_rows_that_have_no_samples_yet_are_left_out_at_the_end(sampler, options, where, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(where, "PREFIX_BYTES", 1)
    for kernel in sampler.kernels:
        monkeypatch.setattr(kernel, "rows", 2)
    seen, whole = followed(sampler, 5, **options)
    lengths = [len(found.mean) for found in seen]
    assert lengths == sorted(lengths)
    assert set(lengths) == ({2, 4, 5} if where is running else {1, 2, 3, 4, 5})
    last = seen[-1]
    near(last.mean[:2], whole.mean[:2])


def test_rows_of_several_parts_are_told_of_together(sampler, monkeypatch) -> None:  # noqa: F811
    for kernel in sampler.kernels:
        monkeypatch.setattr(kernel, "rows", 2)
    seen, _ = followed(sampler, 5, Pace(10), samples=40)
    assert [(len(found.mean), found.samples) for found in seen] == [(5, 10), (5, 20), (5, 30)]


def test_a_group_that_starts_over_for_lack_of_memory_is_told_of_anew(sampler, monkeypatch) -> None:  # noqa: F811
    tried = []

    def using(room: Room, rows: int, samples: int = 1) -> None:
        room._used = rows * samples
        tried.append(samples)
        if len(tried) == 5:
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Room, "using", using)
    seen, whole = followed(sampler, 3, Pace(10), samples=60)
    counts = [found.samples for found in seen]
    assert counts.count(10) == 2
    near(whole.mean, sampler.uncertainty(rows(3, seed=2), samples=60).mean)


def test_nobody_is_told_numbers_that_are_not_finite() -> None:
    class Bursts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(self.drop(x.abs() + 1))

    network = prepare(nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.2), nn.Linear(4, 2)), rows(4), task="regression")
    broken = prepare(nn.Sequential(nn.Linear(6, 4), Bursts()), rows(4), task="regression")
    assert followed(network, 2, samples=30)[1].samples == 30
    with pytest.raises(ModelFailed, match="not finite"):
        followed(broken, 2, samples=30)
