"""Calibration error is that of a slow loop over bins; coverage is that of intervals at every level."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from service.evaluation.reliability import (
    calibration_error,
    expected_calibration_error,
    gaussian_interval_coverage,
    reliability,
    top_label,
)
from service.evaluation.scores import interval_coverage
from tests.evaluation.made import classified, measured


def slow_error(confidence: list[float], hits: list[bool], bins: int) -> float:
    """Rows sorted, cut where the middle of each row's ties says, gaps of bins by hand."""
    ordered = sorted(zip(confidence, hits, strict=True))
    members: dict[int, list[tuple[float, bool]]] = {}
    for c, hit in ordered:
        below = sum(other < c for other in confidence)
        ties = sum(other == c for other in confidence)
        members.setdefault((2 * below + ties) * bins // (2 * len(ordered)), []).append((c, hit))
    gaps = [abs(sum(h for _, h in m) - sum(c for c, _ in m)) for m in members.values()]
    return sum(gaps) / len(ordered)


@pytest.mark.parametrize("rows", [1, 2, 14, 97, 300])
@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("bins", [1, 15, 400])
def test_the_error_is_that_of_the_slow_loop_and_both_ways_agree(rows, decimals, bins) -> None:
    confidence, hits = top_label(*classified(rows))
    if decimals is not None:
        confidence = confidence.round(decimals)
    found = calibration_error(confidence, hits, bins).once()
    assert found == pytest.approx(slow_error(confidence.tolist(), hits.tolist(), bins))
    assert reliability(confidence, hits, bins).expected_error == pytest.approx(found)


@pytest.mark.parametrize("rows", [15, 100, 301])
def test_bins_hold_as_many_rows_as_each_other_up_to_one_and_none_is_lost(rows) -> None:
    found = reliability(*top_label(*classified(rows)))
    assert len(found.rows) == 15
    assert found.rows.sum() == rows
    assert np.ptp(found.rows) <= 1
    assert (found.low <= found.confidence).all()
    assert (found.confidence <= found.high).all()
    assert (found.high[:-1] < found.low[1:]).all()


def test_rows_of_equal_confidence_share_a_bin() -> None:
    found = reliability([0.7] * 10 + [0.9] * 2, [1] * 7 + [0] * 3 + [1, 1], bins=4)
    assert found.rows.tolist() == [10, 2]
    assert found.frequency.tolist() == pytest.approx([0.7, 1])
    assert found.expected_error == pytest.approx(2 / 12 * 0.1)


def test_a_predictor_that_always_answers_with_the_share_of_one_class_is_calibrated_and_useless() -> None:
    labels = np.array([0, 0, 0, 1])
    assert expected_calibration_error(np.tile([0.75, 0.25], (4, 1)), labels) == 0


def test_a_perfect_predictor_has_no_error_and_one_that_is_sure_and_wrong_has_1() -> None:
    sure = np.eye(2)[[0, 1, 1]]
    assert expected_calibration_error(sure, [0, 1, 1]) == 0
    assert expected_calibration_error(sure, [1, 0, 0]) == 1
    assert reliability(*top_label(sure, [0, 1, 1])).error_if_calibrated == 0


def test_the_order_of_rows_and_of_classes_changes_nothing() -> None:
    p, y = classified()
    random = np.random.default_rng(1)
    rows, classes = random.permutation(len(y)), random.permutation(p.shape[1])
    found = expected_calibration_error(p, y)
    assert expected_calibration_error(p[rows], y[rows]) == pytest.approx(found, rel=1e-12)
    assert expected_calibration_error(p[:, classes], classes.argsort()[y]) == pytest.approx(found, rel=1e-12)


def test_chance_alone_gives_a_calibrated_predictor_the_error_that_is_said() -> None:
    found = [reliability(*top_label(*classified(500, seed=seed))) for seed in range(200)]
    by_chance = np.mean([r.expected_error for r in found])
    assert np.mean([r.error_if_calibrated for r in found]) == pytest.approx(by_chance, rel=0.05)
    z = np.concatenate([(r.frequency - r.confidence) / r.spread for r in found])
    assert z.std() == pytest.approx(1, abs=0.05)


def test_an_overconfident_predictor_has_more_error_than_chance_gives() -> None:
    p, y = classified(5000)
    sharper = p**2 / (p**2).sum(1, keepdims=True)
    found = reliability(*top_label(sharper, y))
    assert found.expected_error > 5 * found.error_if_calibrated
    assert (found.frequency < found.confidence).sum() >= 13


def test_every_cell_of_a_multilabel_prediction_counts() -> None:
    random = np.random.default_rng(3)
    p = random.random((100, 4))
    y = random.random((100, 4)) < p
    assert calibration_error(p, y).once() == pytest.approx(slow_error(p.ravel().tolist(), y.ravel().tolist(), 15))
    assert reliability(p, y).rows.sum() == 400


def test_gaussian_intervals_cover_what_scipys_do() -> None:
    mean, std, target = measured()
    found = gaussian_interval_coverage(mean, std, target, (0.1, 0.5, 0.9))
    for k, level in enumerate((0.1, 0.5, 0.9)):
        low, high = stats.norm.interval(level, mean, std)
        assert found.coverage[k] == pytest.approx(interval_coverage(low, high, target))
        assert found.width[k] == pytest.approx((high - low).mean())


def test_true_spreads_cover_as_asked_and_small_ones_less() -> None:
    mean, std, target = measured(20_000)
    found = gaussian_interval_coverage(mean, std, target)
    np.testing.assert_allclose(found.coverage, found.level, atol=0.012)
    assert (gaussian_interval_coverage(mean, std / 2, target).coverage < found.level).all()


def test_an_interval_holds_its_ends() -> None:
    quartile = NormalDist().inv_cdf(0.75)
    assert gaussian_interval_coverage([0.0], [1.0], [quartile], [0.49, 0.5]).coverage.tolist() == [0, 1]
    assert gaussian_interval_coverage([0.0], [1.0], [-quartile], [0.49, 0.5]).coverage.tolist() == [0, 1]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: reliability([], []), "confidence: at least one row expected"),
    (lambda: reliability([0.5, np.nan], [1, 0]), "confidence: finite numbers expected, got nan at row 1"),
    (lambda: reliability([1.2], [1]), "confidence: numbers from 0 to 1 expected, got 1.2 at row 0"),
    (lambda: reliability([0.5], [2]), "came_true: 0 or 1 expected, got 2 at row 0"),
    (lambda: reliability([0.5], [1, 0]), r"came_true: the shape of confidence, \[1\], expected, got \[2\]"),
    (lambda: reliability([0.5], [1], bins=0), "bins: an integer of at least 1 expected, got 0"),
    (lambda: calibration_error([0.5], [1], bins=2.5), "bins: an integer of at least 1 expected, got 2.5"),
    (lambda: top_label([[0.5, 0.5]], [2]), "labels: integers from 0 to 1 expected, got 2 in row 0"),
    (lambda: gaussian_interval_coverage([1.0], [0.0], [1.0]), "total_std: numbers above 0 expected"),
    (lambda: gaussian_interval_coverage([1.0], [1.0], [1.0], [1.0]),
     "levels: a number between 0 and 1 expected, got 1.0"),
])
def test_what_says_nothing_of_calibration_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
