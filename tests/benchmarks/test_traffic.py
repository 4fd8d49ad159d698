"""Arrivals are a Poisson process, drawn from a seed; requests are whole HTTP requests."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.traffic import Part, digit_rows, http_post, native_posts, poisson

ONE = [Part("one", [b"a", b"b", b"c"])]


def test_gaps_between_arrivals_are_exponential_with_the_rate_asked_for() -> None:
    arrivals = poisson(ONE, rate=500.0, seconds=40.0, seed=1)
    gaps = np.diff(arrivals.at_s)
    count = len(arrivals.at_s)
    assert count == pytest.approx(20_000, abs=5 * 20_000**0.5)
    assert gaps.min() >= 0
    # an exponential's spread is its mean, and the share above its mean is 1/e
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=5 * (0.25 / count) ** 0.5)


def test_counts_of_equal_stretches_of_time_vary_as_a_poisson_count_does() -> None:
    counts = np.histogram(poisson(ONE, 200.0, 100.0, seed=2).at_s, bins=500, range=(0.0, 100.0))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=5 * (2 / 500) ** 0.5)


def test_the_same_seed_gives_the_same_arrivals_and_another_seed_others() -> None:
    mix = [Part("stay", [b"a"]), Part("leave", [b"b", b"c"], weight=3, leaving=0.5)]
    one, same, other = (poisson(mix, 100.0, 5.0, seed) for seed in (7, 7, 8))
    assert np.array_equal(one.at_s, same.at_s)
    assert np.array_equal(one.patience_s, same.patience_s)
    assert list(one.requests) == list(same.requests)
    assert not np.array_equal(one.at_s[:100], other.at_s[:100])


def test_parts_come_by_their_weights_and_leave_by_their_shares() -> None:
    mix = [Part("stay", [b"a"], weight=1), Part("leave", [b"b"], weight=3, leaving=0.1, patience_s=0.2)]
    arrivals = poisson(mix, 1000.0, 40.0, seed=3)
    second = arrivals.part == 1
    leaving = np.isfinite(arrivals.patience_s)
    assert second.mean() == pytest.approx(0.75, abs=0.012)
    assert not leaving[~second].any()
    assert leaving[second].mean() == pytest.approx(0.1, abs=0.01)
    assert arrivals.patience_s[leaving].mean() == pytest.approx(0.2, rel=0.1)
    assert {request for request, of_second in zip(arrivals.requests, second, strict=True) if of_second} == {b"b"}


def test_a_parts_requests_take_turns() -> None:
    assert list(poisson(ONE, 100.0, 1.0, seed=4).requests[:7]) == [b"a", b"b", b"c", b"a", b"b", b"c", b"a"]


def test_a_run_is_bounded_in_count_as_well_as_in_time() -> None:
    arrivals = poisson(ONE, 1000.0, 10.0, seed=5, most=50)
    assert len(arrivals.at_s) == len(arrivals.requests) == len(arrivals.part) == len(arrivals.patience_s) == 50
    assert arrivals.at_s[-1] <= arrivals.seconds < 0.2


@pytest.mark.parametrize(("mix", "rate", "seconds"), [([], 1.0, 1.0), (ONE, 0.0, 1.0), (ONE, 1.0, -1.0)])
def test_a_run_of_nothing_is_refused(mix, rate, seconds) -> None:
    with pytest.raises(ValueError, match="above 0 expected"):
        poisson(mix, rate, seconds, seed=0)


def test_a_request_says_how_long_its_body_is() -> None:
    head, _, body = http_post("/p", b"abc", {"Content-Type": "application/x-npy"}).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /p HTTP/1.1", b"Host: 127.0.0.1", b"Content-Type: application/x-npy", b"Content-Length: 3"]
    assert body == b"abc"


def test_bodies_differ_and_seeds_rotate() -> None:
    bodies = [json.loads(post.partition(b"\r\n\r\n")[2]) for post in native_posts("uncertainty", 2, 16, 8, samples=50)]
    assert len({json.dumps(body["instances"]) for body in bodies}) == 16
    assert [body["seed"] for body in bodies] == [*range(8), *range(8)]
    assert {body["samples"] for body in bodies} == {50}
    assert all("seed" not in json.loads(post.partition(b"\r\n\r\n")[2]) for post in native_posts("predict", 1, 3))


def test_the_rows_are_digits_pixels() -> None:
    rows = np.array(digit_rows(20, 3))
    assert rows.shape == (20, 64)
    assert rows.min() == 0
    assert 10 <= rows.max() <= 16
    assert digit_rows(20, 3) == rows.tolist()
