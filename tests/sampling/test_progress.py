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
from tests.sampling.test_steps import OPTIONS, classifier, near, rows

FIGURES = ("mean", "std", "mean_se", "std_se")


class Seen:
    """An answer on the way, as it was then."""

    def __init__(self, found: Uncertainty) -> None:
        self.mean, self.std, self.mean_se, self.std_se = (getattr(found, name) for name in FIGURES)
        self.samples, self.counts, self.early = found.samples, found.samples_per_row, torch.tensor(found.after_stopping)


def followed(
    network: Sampler, count: int, pace: Pace | None = None, **options
) -> tuple[list[Seen], Uncertainty]:
    """The answers on the way, and the answer."""
    seen: list[Seen] = []

    def follow(so_far: Callable[[], Uncertainty]) -> None:
        seen.append(Seen(so_far()))

    pace = (pace or Pace())._replace(follower=follow)
    return seen, network.sampling(rows(count, seed=2), **options, pace=pace).whole()


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return classifier()


@pytest.fixture(scope="module")
def regression() -> Sampler:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.4),
                        nn.Linear(8, 2))
    return prepare(net, rows(8), task="regression")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("step", [None, 20])
def test_an_answer_is_the_same_to_its_last_bit_whether_anybody_follows(sampler, options, step) -> None:
    seen, found = followed(sampler, 7, Pace(step), **options)
    alone = sampler.sampling(rows(7, seed=2), **options, pace=Pace(step)).whole()
    assert seen or "decide" in options  # where all rows settle at the first look
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


def test_rows_that_settled_stay_as_they_are_while_others_are_sampled(sampler) -> None:
    seen, whole = followed(sampler, 30, samples=2000, tolerance=0.03)
    assert (torch.stack([found.counts for found in seen]).diff(dim=0) >= 0).all()
    for found in seen:
        assert torch.equal(found.counts[found.early], whole.samples_per_row[found.early])
        near(found.mean[found.early], whole.mean[found.early])
    assert len({int(found.early.sum()) for found in seen}) > 2


@pytest.mark.parametrize(("options", "where"), [({"samples": 40}, running), ({"tolerance": 0.1}, drawing)])
def test_rows_that_have_no_samples_yet_are_left_out_at_the_end(sampler, options, where, monkeypatch) -> None:
    monkeypatch.setattr(where, "PREFIX_BYTES", 1)
    for kernel in sampler.kernels:
        monkeypatch.setattr(kernel, "rows", 2)
    seen, whole = followed(sampler, 5, **options)
    lengths = [len(found.mean) for found in seen]
    assert lengths == sorted(lengths)
    assert 2 < len(set(lengths)) <= 5
    last = seen[-1]
    near(last.mean[:1], whole.mean[:1])


def test_rows_of_several_parts_are_told_of_together(sampler, monkeypatch) -> None:
    for kernel in sampler.kernels:
        monkeypatch.setattr(kernel, "rows", 2)
    seen, _ = followed(sampler, 5, Pace(10), samples=40)
    assert [(len(found.mean), found.samples) for found in seen] == [(5, 10), (5, 20), (5, 30)]


def test_a_group_that_starts_over_for_lack_of_memory_is_told_of_anew(sampler, monkeypatch) -> None:
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
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2), nn.Softplus()
    network = prepare(nn.Sequential(*layers), rows(4), task="regression")
    assert len(followed(network, 2, samples=30)[0]) == 2
    told: list[Callable[[], Uncertainty]] = []
    with pytest.raises(ModelFailed, match="not finite"):
        network.sampling(1e38 * rows(2), 30, pace=Pace(follower=lambda so_far: told.append(so_far))).whole()
    for so_far in told:
        with pytest.raises(ModelFailed, match="not finite"):
            so_far()
    assert told
