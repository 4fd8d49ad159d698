"""Scores are their closed forms, agree with scipy and scikit-learn, and refuse what they cannot score."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from service.evaluation import scores
from tests.evaluation.made import classified, measured

NAN, INF = math.nan, math.inf


def test_a_perfect_classifier_has_the_best_of_each_score() -> None:
    labels = np.array([0, 2, 1, 2])
    perfect = np.eye(3)[labels]
    assert scores.accuracy(perfect, labels) == 1
    assert scores.negative_log_likelihood(perfect, labels) == 0
    assert scores.brier_score(perfect, labels) == 0
    assert not np.signbit(scores.log_losses(perfect, labels)).any()


def test_a_classifier_that_knows_nothing_scores_what_guessing_does() -> None:
    labels = np.arange(40) % 4
    useless = np.full((40, 4), 0.25)
    assert scores.accuracy(useless, labels) == 0.25
    assert scores.negative_log_likelihood(useless, labels) == pytest.approx(math.log(4))
    assert scores.brier_score(useless, labels) == pytest.approx(0.75**2 + 3 * 0.25**2)


def test_a_classifier_that_is_always_wrong_and_sure_has_the_worst_of_each_score() -> None:
    wrong, labels = [[1.0, 0.0], [0.0, 1.0]], [1, 0]
    assert scores.accuracy(wrong, labels) == 0
    assert scores.negative_log_likelihood(wrong, labels) == INF
    assert scores.brier_score(wrong, labels) == 2


def test_one_row_at_probability_0_makes_its_loss_infinite_and_no_other() -> None:
    found = scores.log_losses([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]], [1, 0, 0])
    assert found.tolist() == [INF, math.log(2), 0]


def test_of_classes_with_equal_probability_the_first_is_the_answer_as_the_server_has_it() -> None:
    assert scores.class_errors([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2]], [0, 1]).tolist() == [0, 1]


def test_scores_of_a_classifier_agree_with_scikit_learn() -> None:
    p, y = classified()
    assert scores.accuracy(p, y) == pytest.approx(metrics.accuracy_score(y, p.argmax(1)))
    assert scores.negative_log_likelihood(p, y) == pytest.approx(metrics.log_loss(y, p))
    binary, truth = p[:, :2] / p[:, :2].sum(1, keepdims=True), (y > 1).astype(int)
    assert scores.brier_score(binary, truth) == pytest.approx(2 * metrics.brier_score_loss(truth, binary[:, 1]))


@pytest.mark.parametrize("score", [scores.accuracy, scores.negative_log_likelihood, scores.brier_score])
def test_neither_the_order_of_rows_nor_that_of_classes_changes_a_score(score) -> None:
    p, y = classified()
    random = np.random.default_rng(1)
    rows, classes = random.permutation(len(y)), random.permutation(p.shape[1])
    assert score(p[rows], y[rows]) == pytest.approx(score(p, y), rel=1e-12)
    assert score(p[:, classes], classes.argsort()[y]) == pytest.approx(score(p, y), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("score", [scores.negative_log_likelihood, scores.brier_score])
def test_the_true_probabilities_score_better_than_sharper_or_flatter_ones(score, seed) -> None:
    p, y = classified(rows=20_000, seed=seed)
    for power in (0.7, 1.4):
        other = p**power / (p**power).sum(1, keepdims=True)
        assert score(p, y) < score(other, y)


def test_probabilities_in_float32_are_scored_as_they_are_and_what_is_given_stays_as_it_was() -> None:
    p, y = classified()
    single = p.astype(np.float32)
    kept = single.copy()
    assert scores.brier_score(single, y) == pytest.approx(scores.brier_score(p, y), rel=1e-5)
    assert scores.negative_log_likelihood([[1.0000001, -1e-7]], [0]) == 0
    np.testing.assert_array_equal(single, kept)


def test_multilabel_scores_are_those_of_each_label_by_itself() -> None:
    random = np.random.default_rng(2)
    p, y = random.random((200, 5)), random.random((200, 5)) < 0.3
    assert scores.hamming_losses(p, y).mean() == pytest.approx(metrics.hamming_loss(y, p > 0.5))
    assert 1 - scores.subset_errors(p, y).mean() == pytest.approx(metrics.accuracy_score(y, p > 0.5))
    each = [metrics.log_loss(y[:, k], p[:, k]) for k in range(5)]
    assert scores.binary_log_losses(p, y.astype(int)).mean() == pytest.approx(np.mean(each))
    each = [metrics.brier_score_loss(y[:, k], p[:, k]) for k in range(5)]
    assert scores.binary_brier_scores(p, y).mean() == pytest.approx(np.mean(each))


def test_a_label_at_a_half_is_answered_no_and_a_sure_wrong_label_is_an_infinite_surprise() -> None:
    assert scores.hamming_losses([[0.5, 0.5], [0.5, 0.5]], [[0, 1], [0, 0]]).tolist() == [0.5, 0]
    assert scores.subset_errors([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]], [[0, 1], [0, 0], [0, 1]]).tolist() == [1, 0, 0]
    assert scores.binary_log_losses([[0.0, 0.5], [1.0, 0.0]], [[1, 0], [1, 0]]).tolist() == [INF, 0]


def test_errors_of_a_regression_agree_with_scikit_learn() -> None:
    mean, _, target = measured()
    rmse = metrics.root_mean_squared_error(target, mean)
    assert scores.root_mean_squared_error(mean, target) == pytest.approx(rmse)
    assert scores.mean_absolute_error(mean, target) == pytest.approx(metrics.mean_absolute_error(target, mean))
    assert scores.root_mean_squared_error([1.0, 2.0], [1.0, 2.0]) == 0
    assert scores.root_mean_squared_error([0.0, 0.0], [3.0, 4.0]) == pytest.approx(math.sqrt(12.5))


def test_gaussian_log_likelihood_is_scipys_and_best_at_the_true_spread() -> None:
    mean, std, target = measured(20_000)
    expected = stats.norm.logpdf(target, mean, std)
    np.testing.assert_allclose(scores.gaussian_log_densities(mean, std, target), expected, rtol=1e-12)
    assert scores.gaussian_log_likelihood(mean, std, target) == pytest.approx(expected.mean())
    for factor in (0.9, 1.1):
        assert scores.gaussian_log_likelihood(mean, factor * std, target) < expected.mean()


def test_a_unit_a_thousand_times_smaller_costs_log_1000_of_log_density() -> None:
    mean, std, target = measured()
    metres = scores.gaussian_log_likelihood(mean, std, target)
    millimetres = scores.gaussian_log_likelihood(1000 * mean, 1000 * std, 1000 * target)
    assert millimetres == pytest.approx(metres - math.log(1000))


@pytest.mark.parametrize("noise", [0.7, np.linspace(0.3, 2, 50), np.random.default_rng(3).uniform(0.3, 2, (30, 50))],
                         ids=["one", "a row", "a sample and row"])
def test_mixture_log_likelihood_is_the_log_of_the_mean_density_over_samples(noise, monkeypatch) -> None:
    random = np.random.default_rng(4)
    samples, target = random.normal(size=(30, 50)), random.normal(size=50)
    expected = np.log(stats.norm.pdf(target, samples, noise).mean(0))
    np.testing.assert_allclose(scores.mixture_log_densities(samples, noise, target), expected, rtol=1e-12)
    monkeypatch.setattr(scores, "CELLS", 100)  # three rows at a time
    np.testing.assert_allclose(scores.mixture_log_densities(samples, noise, target), expected, rtol=1e-12)


def test_a_mixture_of_equal_samples_is_one_gaussian_also_where_its_density_underflows() -> None:
    target = np.array([0.0, 3.0, 1e6])
    found = scores.mixture_log_densities(np.ones((7, 3)), 0.5, target)
    np.testing.assert_allclose(found, scores.gaussian_log_densities(np.ones(3), np.full(3, 0.5), target), rtol=1e-12)
    assert np.isfinite(found).all()
    assert scores.mixture_log_densities([[0.0], [0.0]], 1e-10, [1e200]).tolist() == [-INF]


def test_the_order_of_samples_does_not_matter_and_more_of_the_same_changes_nothing() -> None:
    random = np.random.default_rng(5)
    samples, target = random.normal(size=(11, 6)), random.normal(size=6)
    found = scores.mixture_log_likelihood(samples, 0.5, target)
    assert scores.mixture_log_likelihood(samples[::-1], 0.5, target) == pytest.approx(found)
    assert scores.mixture_log_likelihood(np.tile(samples, (3, 1)), 0.5, target) == pytest.approx(found)


def test_an_interval_covers_its_own_ends_and_an_infinite_one_everything() -> None:
    low, high = [0.0, 0.0, 0.0, -INF], [1.0, 1.0, 1.0, INF]
    assert scores.interval_hits(low, high, [0.0, 1.0, 1.1, 1e300]).tolist() == [1, 1, 0, 1]
    assert scores.interval_coverage(low, high, [0.0, 1.0, 1.1, 1e300]) == 0.75
    assert scores.interval_widths(low, high).tolist() == [1, 1, 1, INF]
    assert scores.mean_interval_width([1.0, 2.0, 3.0], [2.0, 7.0, 3.0]) == 2


def test_a_set_covers_what_is_in_it_and_an_empty_one_nothing() -> None:
    members, labels = [[1, 1, 0], [0, 0, 0], [0, 0, 1]], [1, 0, 0]
    assert scores.set_hits(members, labels).tolist() == [1, 0, 0]
    assert scores.set_coverage(np.array(members, bool), labels) == pytest.approx(1 / 3)
    assert scores.set_sizes(members).tolist() == [2, 0, 1]
    assert scores.mean_set_size(members) == 1


TWO = [[0.5, 0.5], [0.2, 0.8]]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: scores.accuracy(np.empty((0, 3)), []),
     r"probabilities: at least one row expected, got the shape \[0, 3\]"),
    (lambda: scores.accuracy([0.5, 0.5], [0]), r"the shape \(rows, classes\) expected, got \[2\]"),
    (lambda: scores.accuracy([[1.0], [1.0]], [0, 0]), "at least two classes expected, got 1"),
    (lambda: scores.accuracy([[0.5, NAN]], [0]), r"probabilities: finite numbers expected, got nan at \[0, 1\]"),
    (lambda: scores.accuracy([[0.5, 0.4]], [0]), "every row is expected to add up to 1, got 0.9 in row 0"),
    (lambda: scores.accuracy([[1.5, -0.5]], [0]), r"numbers from 0 to 1 expected, got 1.5 at \[0, 0\]"),
    (lambda: scores.accuracy([[0.5, 0.5], [1.0]], [0, 0]), "an array expected, got rows of unequal length"),
    (lambda: scores.accuracy([["a", "b"]], [0]), "probabilities: real numbers expected, got <U1"),
    (lambda: scores.accuracy(TWO, [0, 2]), "labels: integers from 0 to 1 expected, got 2 in row 1"),
    (lambda: scores.accuracy(TWO, [-1, 0]), "labels: integers from 0 to 1 expected, got -1 in row 0"),
    (lambda: scores.accuracy(TWO, [0.0, 1.0]), "labels: integers expected, got float64"),
    (lambda: scores.accuracy(TWO, [0]), "labels: one for each of 2 rows expected, got 1"),
    (lambda: scores.accuracy(TWO, [[0, 1]]), r"labels: the shape \(rows\) expected, got \[1, 2\]"),
    (lambda: scores.hamming_losses(TWO, [[0, 2], [0, 1]]), r"truth: 0 or 1 expected, got 2 at \[0, 1\]"),
    (lambda: scores.hamming_losses(TWO, [[0, 1]]),
     r"truth: the shape of probabilities, \[2, 2\], expected, got \[1, 2\]"),
    (lambda: scores.squared_errors([1.0], [1.0, 2.0]), r"target: the shape of mean, \[1\], expected, got \[2\]"),
    (lambda: scores.squared_errors([1.0, INF], [1.0, 2.0]), "mean: finite numbers expected, got inf at row 1"),
    (lambda: scores.root_mean_squared_error([], []), "mean: at least one row expected"),
    (lambda: scores.gaussian_log_likelihood([1.0], [0.0], [1.0]),
     "total_std: numbers above 0 expected, got 0 at row 0"),
    (lambda: scores.gaussian_log_likelihood([1.0], [1.0, 1.0], [1.0]), "total_std: the shape of mean"),
    (lambda: scores.mixture_log_densities([[1.0, 2.0]], 1.0, [1.0]), "samples: 1 rows, as target has, expected, got 2"),
    (lambda: scores.mixture_log_densities([[1.0]], -1.0, [1.0]), "noise_std: numbers above 0 expected, got -1"),
    (lambda: scores.mixture_log_densities([[1.0, 2.0]], [1.0], [1.0, 2.0]), r"one number, \[2\] or \[1, 2\] expected"),
    (lambda: scores.interval_widths([2.0], [1.0]), "low: numbers not above high expected, got 2 and 1 in row 0"),
    (lambda: scores.interval_widths([INF], [INF]), "low: numbers not above high expected, got inf and inf"),
    (lambda: scores.interval_hits([NAN], [1.0], [1.0]), "low: numbers expected, got nan at row 0"),
    (lambda: scores.set_coverage([[1, 0]], [2]), "labels: integers from 0 to 1 expected, got 2"),
    (lambda: scores.set_sizes([[0.5, 0]]), r"members: 0 or 1 expected, got 0.5 at \[0, 0\]"),
])
def test_what_cannot_be_scored_is_refused_with_what_was_expected_and_what_came(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
