"""Risk-coverage curves, their area and AUROC are averages over every order of equal scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from service.evaluation import selection

RANDOM = np.random.default_rng(0)
LOSSES = RANDOM.integers(2, size=200).astype(float)
SCORES = {
    "distinct": RANDOM.random(200), "few": RANDOM.integers(5, size=200).astype(float), "constant": np.zeros(200),
    "helpful": LOSSES + RANDOM.normal(size=200),
}


def plain_area(losses: np.ndarray) -> float:
    """Losses in the order in which rows are kept."""
    return float(np.mean([np.mean(losses[:k]) for k in range(1, len(losses) + 1)]))


def every_order(losses: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Losses in every order in which scores do not fall."""
    return [losses[list(p)] for p in itertools.permutations(range(len(losses)))
            if all(scores[a] <= scores[b] for a, b in itertools.pairwise(p))]


@pytest.mark.parametrize("scores", [[0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 2, 1], [2, 2, 1, 1, 1, 0], [5, 4, 3, 2, 1, 0]])
def test_area_and_curve_are_the_average_over_all_orders_of_equal_scores(scores) -> None:
    losses = np.array([1.0, 0.0, 0.0, 4.0, 2.5, 1.0])
    orders = every_order(losses, np.array(scores))
    assert selection.aurc(losses, scores) == pytest.approx(np.mean([plain_area(order) for order in orders]))
    risks = np.mean([order.cumsum() / np.arange(1, 7) for order in orders], axis=0)
    np.testing.assert_allclose(selection.risk_coverage(losses, scores).risk, risks, rtol=1e-12)


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_the_area_is_the_mean_of_the_curve_and_its_end_the_mean_loss(scores) -> None:
    curve = selection.risk_coverage(LOSSES, scores)
    assert selection.aurc(LOSSES, scores) == pytest.approx(curve.risk.mean())
    assert curve.risk[-1] == pytest.approx(LOSSES.mean())
    assert curve.coverage[-1] == 1
    np.testing.assert_array_equal(curve.score, np.sort(scores))


def test_without_equal_scores_the_area_is_that_of_sorting() -> None:
    scores = SCORES["distinct"]
    assert selection.aurc(LOSSES, scores) == pytest.approx(plain_area(LOSSES[scores.argsort()]))


def test_a_score_that_says_nothing_has_the_mean_loss_as_area() -> None:
    assert selection.aurc(LOSSES, SCORES["constant"]) == pytest.approx(LOSSES.mean())


def test_the_best_score_has_no_excess_and_the_excess_of_others_is_what_is_above_it() -> None:
    assert selection.excess_aurc(LOSSES, LOSSES) == 0
    wrong = int(LOSSES.sum())
    best = sum((k - (200 - wrong)) / k for k in range(201 - wrong, 201)) / 200
    assert selection.aurc(LOSSES, LOSSES) == pytest.approx(best)
    for scores in SCORES.values():
        assert selection.excess_aurc(LOSSES, scores) == pytest.approx(selection.aurc(LOSSES, scores) - best)
    worst, helpful = selection.excess_aurc(LOSSES, -LOSSES), selection.excess_aurc(LOSSES, SCORES["helpful"])
    assert worst > selection.excess_aurc(LOSSES, SCORES["constant"]) > helpful > 0


def test_errors_may_be_given_as_truth_values() -> None:
    assert selection.aurc(LOSSES > 0, SCORES["few"]) == selection.aurc(LOSSES, SCORES["few"])


def test_a_predictor_without_errors_has_an_area_of_0_whatever_the_score() -> None:
    assert selection.aurc(np.zeros(50), np.arange(50)) == 0
    assert selection.excess_aurc(np.zeros(50), np.arange(50)) == 0


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_only_the_order_of_scores_matters_and_not_that_of_rows(scores) -> None:
    rows = np.random.default_rng(1).permutation(200)
    for measure in (selection.aurc, selection.excess_aurc):
        found = measure(LOSSES, scores)
        assert measure(LOSSES[rows], scores[rows]) == pytest.approx(found, rel=1e-12)
        assert measure(LOSSES, np.exp(scores) - 7) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("ties", [None, 20, 2, 1])
def test_auroc_is_that_of_scikit_learn_with_and_without_equal_scores(ties) -> None:
    random = np.random.default_rng(2)
    inside, outside = random.normal(size=150), random.normal(0.5, 1.5, size=90)
    if ties is not None:
        inside, outside = (np.floor(v * ties) / ties for v in (inside, outside))
    truth = np.repeat([0, 1], [150, 90])
    found = selection.auroc(inside, outside)
    assert found == pytest.approx(roc_auc_score(truth, np.concatenate((inside, outside))))
    assert selection.auroc(outside, inside) == pytest.approx(1 - found)


def test_auroc_is_1_where_all_is_apart_0_upside_down_and_a_half_where_all_is_equal() -> None:
    assert selection.auroc([1.0, 2.0], [3.0, np.inf]) == 1
    assert selection.auroc([3.0], [1.0, 2.0, -np.inf]) == 0
    assert selection.auroc([1.0, 1.0], [1.0]) == 0.5


@pytest.mark.parametrize(("call", "message"), [
    (lambda: selection.aurc([], []), "losses: at least one row expected"),
    (lambda: selection.aurc([0, 1], [0.0, np.nan]), "scores: numbers expected, got nan at row 1"),
    (lambda: selection.aurc([0, np.inf], [0.0, 1.0]), "losses: finite numbers expected, got inf at row 1"),
    (lambda: selection.risk_coverage([0, 1], [0.0]), r"scores: the shape of losses, \[2\], expected, got \[1\]"),
    (lambda: selection.auroc([], [1.0]), "negatives: at least one row expected"),
    (lambda: selection.auroc([1.0], [np.nan]), "positives: numbers expected, got nan at row 0"),
])
def test_what_has_no_order_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
