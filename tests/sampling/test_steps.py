"""Work in steps: what it gives does not depend on where it gave way or what ran in between."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.errors import InvalidOption
from service.sampling import Sampler, prepare, running
from service.sampling.steps import LEAST_WHEN_CUT, Pace, Steps

OPTIONS = [
    {"samples": 100}, {"samples": 95, "design": "iid"}, {"samples": 100, "masks": "independent", "seed": 3},
    {"tolerance": 0.05, "samples": 400}, {"decide": {"above": 0.6, "error": 0.05}, "samples": 400},
    {"samples": 60, "include_samples": True},
]


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, equal_nan=True)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return classifier()


def classifier() -> Sampler:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 16), nn.Tanh(), nn.Dropout(0.3),
                        nn.Linear(16, 3))
    return prepare(net, rows(8), task="classification")


def rows(count: int, seed: int = 1) -> Tensor:
    return 2 * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_in_small_steps_the_answer_is_the_same(sampler, options) -> None:
    steps, count = sampler.sampling(rows(7), **options, pace=Pace(samples=20)), 1
    while steps.step():
        count += 1
    assert count >= 2
    whole = sampler.uncertainty(rows(7), **options)
    for name in ("mean", "std", "mean_se", "std_se", "mutual_information"):
        near(getattr(steps.result, name), getattr(whole, name))
    assert steps.result.samples_per_row.tolist() == whole.samples_per_row.tolist()


def test_requests_that_take_turns_answer_as_they_do_alone(sampler) -> None:
    asked = [(rows(n, seed=n), options) for n, options in enumerate(OPTIONS, start=2)]
    under_way = [sampler.sampling(x, **options, pace=Pace(samples=10)) for x, options in asked]
    left = list(under_way)
    while left:
        left = [steps for steps in left if steps.step()]
        sampler.predict(rows(3))
    for steps, (x, options) in zip(under_way, asked, strict=True):
        near(steps.result.mean, sampler.uncertainty(x, **options).mean)


def test_a_pace_bounds_what_one_step_draws(sampler) -> None:
    steps = sampler.sampling(rows(1), 1000, pace=Pace(samples=95))
    count = 1
    while steps.step():
        count += 1
    assert count == 12  # ninety at a time


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_an_answer_that_is_cut_is_that_of_its_samples_and_says_so(sampler, options) -> None:
    left = [False, False, True]
    steps = sampler.sampling(rows(5), **options, pace=Pace(samples=10, cut=lambda share: left.pop(0)))
    found = steps.whole()
    expected = sampler.uncertainty(rows(5), **{**options, "samples": 40})
    assert (found.samples, set(found.stopped)) == (40, {"deadline"})
    for name in ("mean", "std", "mean_se", "std_se", "entropy_se"):
        near(getattr(found, name), getattr(expected, name))
    assert found.se_df == expected.se_df


def test_no_answer_is_cut_to_fewer_than_twenty_samples(sampler) -> None:
    found = sampler.sampling(rows(2), 200, pace=Pace(samples=10, cut=lambda share: True)).whole()
    assert found.samples == LEAST_WHEN_CUT == 20


def test_rows_that_had_not_settled_when_time_was_up_say_so(sampler) -> None:
    found = sampler.sampling(rows(30), samples=2000, tolerance=0.02, pace=Pace(cut=lambda share: True)).whole()
    whole = sampler.uncertainty(rows(30), samples=2000, tolerance=0.02)
    assert "deadline" in found.stopped
    for n, why, expected in zip(found.samples_per_row.tolist(), found.stopped, whole.samples_per_row.tolist(),
                                strict=True):
        assert (n == expected) if why == "tolerance" else (why == "deadline" and n < expected)


def test_parts_of_a_request_that_are_cut_at_different_samples_keep_their_own_figures(sampler, monkeypatch) -> None:
    monkeypatch.setattr(running, "PREFIX_BYTES", 1)
    monkeypatch.setattr(sampler.kernels[0], "rows", 2)
    shares: list[float] = []

    def cut(share: float) -> bool:
        shares.append(share)
        return share == 1.0

    found = sampler.sampling(rows(4), 60, kernel=sampler.kernels[0], include_samples=True,
                             pace=Pace(samples=10, cut=cut)).whole()
    assert found.samples_per_row.tolist() == [60, 60, 20, 20]
    assert (found.stopped, found.se_df, found.se_df_per_row) == (["samples"] * 2 + ["deadline"] * 2, None, [5, 5, 1, 1])
    assert set(shares) == {0.5, 1.0}
    long, short = sampler.uncertainty(rows(4), 60), sampler.uncertainty(rows(4), 20)
    near(found.mean, torch.cat([long.mean[:2], short.mean[2:]]))
    near(found.std_se[:2], long.std_se[:2])
    assert found.std_se[2:].isnan().all()
    assert found.draws.shape == (4, 60, 3)
    assert found.draws[2:, 20:].isnan().all()
    near(found.quantiles([0.5])[2:, 0], found.draws[2:, :20].double().quantile(0.5, 1))


def test_rows_of_several_requests_have_the_masks_of_their_own_places(sampler) -> None:
    together = sampler.uncertainty(rows(5), masks="independent", first_row=np.array([0, 1, 2, 0, 1]))
    first, second = (sampler.uncertainty(part, masks="independent") for part in (rows(5)[:3], rows(5)[3:]))
    near(together.mean, torch.cat([first.mean, second.mean]))
    near(together.std, torch.cat([first.std, second.std]))


@pytest.mark.parametrize("places", [
    np.array([0, 1]), np.array([0, 1, -1]), np.array([0.0, 1.0, 2.0]), np.array(0), np.array([[0, 1, 2]]),
    np.array([0, 1, 2**32 - 1]),
], ids=str)
def test_places_that_are_not_one_whole_number_a_row_are_refused(sampler, places) -> None:
    with pytest.raises(InvalidOption, match="first_row"):
        sampler.uncertainty(rows(3), masks="independent", first_row=places)


def test_what_holds_within_a_step_does_not_hold_between_steps() -> None:
    seen: list[bool] = []

    def work():
        seen.append(torch.is_grad_enabled())
        yield
        seen.append(torch.is_grad_enabled())
        return 7

    steps = Steps(work(), nullcontext)
    assert steps.step()
    assert torch.is_grad_enabled()
    assert not steps.step()
    assert (seen, steps.result) == ([False, False], 7)
