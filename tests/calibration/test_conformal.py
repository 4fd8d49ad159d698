"""Sets and intervals hold the truth as often as asked, by the exact law, whatever the network."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from service.calibration import (
    calibrate_intervals,
    calibrate_sets,
    class_scores,
    conformal_quantile,
    least_calibration_rows,
    quantile_rank,
)
from service.errors import CalibrationRefused, InvalidInput, InvalidOption
from tests.calibration.laws import Array, overconfident, softmax

DRAWS, CALIBRATION, TEST = 500, 99, 300
ALPHA = 0.1
METHODS = ("lac", "aps")
tied_scores = st.lists(st.integers(0, 6), min_size=10, max_size=40)
plain_scores = st.lists(st.floats(-1e6, 1e6), min_size=10, max_size=40, unique=True)


def law(rows: int, alpha: float, test: int = TEST):
    """Of the number of covered test rows, where scores have no ties (Vovk 2012)."""
    rank = quantile_rank(rows, alpha)
    return stats.betabinom(test, rank, rows + 1 - rank)


def fit_of(counts: list[int], known) -> float:
    """The p-value of a chi-squared test in ten classes of about equal probability."""
    edges = np.unique([-1, *known.ppf(np.linspace(0.1, 0.9, 9)), TEST])
    expected = np.diff(known.cdf(edges)) * len(counts)
    seen = np.histogram(counts, edges + 0.5)[0]
    assert seen.sum() == len(counts)
    return float(stats.chisquare(seen, expected).pvalue)


def naive_quantile(scores: Array, alpha: float) -> float:
    """The tempting wrong one: of the calibration rows, without the one that comes."""
    return float(np.quantile(scores, 1 - alpha))


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3), (0.7, 1), (0.001, 999)])
def test_as_many_rows_are_needed_as_known(alpha, needed) -> None:
    assert least_calibration_rows(alpha) == needed
    assert quantile_rank(needed, alpha) <= needed
    assert quantile_rank(needed - 1, alpha) > needed - 1
    assert conformal_quantile(np.arange(needed), alpha) <= needed - 1
    with pytest.raises(CalibrationRefused, match=f"at least {needed} calibration rows, got {needed - 1}") as caught:
        conformal_quantile(np.arange(needed - 1), alpha)
    assert caught.value.needed == needed


@given(rows=st.integers(1, 10**6), hundredths=st.integers(1, 99))
def test_the_rank_is_that_of_whole_numbers_and_no_rounding_moves_it(rows, hundredths) -> None:
    assert quantile_rank(rows, hundredths / 100) == -(-(rows + 1) * (100 - hundredths) // 100)


@given(scores=st.one_of(tied_scores, plain_scores), alpha=st.sampled_from([0.1, 0.15, 0.2, 0.5, 0.9]))
def test_of_exchanged_rows_as_many_are_covered_as_promised(scores, alpha) -> None:
    """Each of n + 1 rows in turn is the new one. Equal to the promise without ties, over it with them."""
    n = len(scores) - 1
    s = np.array(scores, dtype=float)
    if n < least_calibration_rows(alpha):
        return
    covered = sum(s[i] <= conformal_quantile(np.delete(s, i), alpha) for i in range(n + 1))
    assert covered >= quantile_rank(n, alpha)
    if len(set(scores)) == len(scores):
        assert covered == quantile_rank(n, alpha)


@given(scores=tied_scores, alpha=st.floats(0.1, 0.9))
def test_equal_scores_count_each_by_itself(scores, alpha) -> None:
    s = np.array(scores, dtype=float)
    if len(s) < least_calibration_rows(alpha):
        return
    q, rank = conformal_quantile(s, alpha), quantile_rank(len(s), alpha)
    assert (s < q).sum() < rank <= (s <= q).sum()
    assert q == sorted(scores)[rank - 1]


@given(scores=plain_scores, alphas=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)), seed=st.integers(0, 99))
def test_who_asks_for_more_gets_a_higher_quantile_in_any_order_of_rows(scores, alphas, seed) -> None:
    less, more = sorted(alphas)
    s = np.array(scores)
    assert conformal_quantile(s, less) >= conformal_quantile(s, more)
    assert conformal_quantile(np.random.default_rng(seed).permutation(s), less) == conformal_quantile(s, less)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alpha", [0.1, 0.25])
def test_coverage_of_sets_follows_its_beta_binomial_law(method, alpha) -> None:
    g = np.random.default_rng(1)
    p, labels = overconfident((DRAWS, CALIBRATION + TEST), 6, g)
    covered, held = [], []
    for one, truth in zip(p, labels, strict=True):
        made = calibrate_sets(one[:CALIBRATION], truth[:CALIBRATION], alpha, method=method)
        sets = made.sets(one[CALIBRATION:])
        inside = sets.members[np.arange(TEST), truth[CALIBRATION:]]
        held.append(int(inside.sum()))
        covered.append(int((inside & ~sets.empty).sum()))
    assert fit_of(covered, law(CALIBRATION, alpha)) > 0.001
    assert np.mean(held) / TEST >= 1 - alpha - 3 * np.std(held) / TEST / math.sqrt(DRAWS)
    assert method == "lac" or held == covered  # aps leaves no set empty


@pytest.mark.parametrize("targets", [1, 2])
def test_coverage_of_intervals_follows_its_law_whatever_the_scale_says(targets) -> None:
    g = np.random.default_rng(2)
    shape = (DRAWS, CALIBRATION + TEST, targets)
    mean, scale = g.normal(0, 5, shape), g.uniform(0.1, 3, shape)
    y = mean + np.abs(mean) * g.standard_t(3, shape) + 1  # heavy tails, biased, and no scale knows of it
    covered = []
    for a, b, c in zip(y, mean, scale, strict=True):
        made = calibrate_intervals(a[:CALIBRATION], b[:CALIBRATION], c[:CALIBRATION], ALPHA)
        low, high = made.intervals(b[CALIBRATION:], c[CALIBRATION:])
        covered.append(((low <= a[CALIBRATION:]) & (a[CALIBRATION:] <= high)).sum(0))
    assert made.calibration_rows == CALIBRATION
    for target in range(targets):
        assert fit_of([c[target] for c in covered], law(CALIBRATION, ALPHA)) > 0.001


def test_the_law_is_sharp_enough_to_refuse_the_usual_quantile() -> None:
    """So the tests above can fail."""
    g = np.random.default_rng(3)
    scores, rows = g.standard_normal((DRAWS, 29 + TEST)), 29
    right = [int((s[rows:] <= conformal_quantile(s[:rows], ALPHA)).sum()) for s in scores]
    naive = [int((s[rows:] <= naive_quantile(s[:rows], ALPHA)).sum()) for s in scores]
    assert fit_of(right, law(rows, ALPHA)) > 0.001
    assert fit_of(naive, law(rows, ALPHA)) < 1e-6
    assert np.mean(naive) / TEST < 1 - ALPHA - 0.01


@pytest.mark.parametrize("method", METHODS)
def test_class_by_class_every_class_has_its_own_law(method) -> None:
    g = np.random.default_rng(4)
    rows = (24, 49, 99)
    truth = np.repeat(np.arange(3), [n + TEST for n in rows])
    calibration = np.concatenate([np.arange(n + TEST) < n for n in rows])
    covered = [[], [], []]
    for _ in range(DRAWS):
        p = softmax(2 * g.standard_normal((len(truth), 3)) + 1.2 * np.eye(3)[truth])
        made = calibrate_sets(p[calibration], truth[calibration], ALPHA, method=method, class_conditional=True)
        sets = made.sets(p[~calibration])
        inside = sets.members[np.arange(3 * TEST), truth[~calibration]] & ~sets.empty
        for c, count in enumerate(inside.reshape(3, TEST).sum(1)):
            covered[c].append(int(count))
    assert made.calibration_rows == rows
    for n, counts in zip(rows, covered, strict=True):
        assert fit_of(counts, law(n, ALPHA)) > 0.001


def test_a_rare_class_is_covered_less_where_nobody_asked_class_by_class() -> None:
    g = np.random.default_rng(5)
    truth = (g.random(40_000) < 0.05).astype(int)
    p = softmax(g.standard_normal((40_000, 2)) + 2 * np.eye(2)[truth] + [3.0, 0.0])
    half = 20_000
    shares = {}
    for by_class in (False, True):
        made = calibrate_sets(p[:half], truth[:half], ALPHA, method="aps", class_conditional=by_class)
        inside = made.sets(p[half:]).members[np.arange(half), truth[half:]]
        shares[by_class] = inside[truth[half:] == 1].mean()
    assert shares[False] < 0.5
    assert shares[True] == pytest.approx(0.9, abs=0.05)


def test_a_class_with_too_few_rows_is_named() -> None:
    p, labels = np.full((60, 3), 1 / 3), np.repeat([0, 1, 2], [30, 22, 8])
    with pytest.raises(CalibrationRefused, match="at least 9 calibration rows of class 2, got 8") as caught:
        calibrate_sets(p, labels, ALPHA, class_conditional=True)
    assert caught.value.needed == 9
    assert calibrate_sets(p, labels, ALPHA).calibration_rows == (60,)


def test_lac_and_aps_are_what_their_papers_say() -> None:
    p = np.array([[0.5, 0.3, 0.15, 0.05], [0.2, 0.3, 0.3, 0.2]])
    np.testing.assert_allclose(class_scores(p, "lac"), 1 - p)
    np.testing.assert_allclose(class_scores(p, "aps"), [[0, 0.5, 0.8, 0.95], [0.6, 0, 0, 0.6]], atol=1e-15)


def test_aps_is_the_likeliest_classes_up_to_the_one_that_crosses_the_level() -> None:
    g = np.random.default_rng(6)
    p, labels = overconfident((2000,), 6, g)
    made = calibrate_sets(p[:1000], labels[:1000], 0.05, method="aps")
    level, = made.thresholds
    for row, members in zip(p[1000:], made.sets(p[1000:]).members, strict=True):
        order = np.argsort(-row)
        size = int(members.sum())
        assert members[order[:size]].all()
        assert row[order[: size - 1]].sum() <= level + 1e-12
        assert size == 6 or row[order[:size]].sum() > level - 1e-12


def test_where_the_likeliest_class_is_right_often_enough_aps_gives_it_alone() -> None:
    g = np.random.default_rng(7)
    p = softmax(6 * g.standard_normal((500, 4)))
    labels = np.where(g.random(500) < 0.95, p.argmax(1), p.argmin(1))
    made = calibrate_sets(p, labels, ALPHA, method="aps")
    assert made.thresholds == (0.0,)
    assert (made.sets(p).members == (p == p.max(1, keepdims=True))).all()


def test_where_lac_leaves_no_class_all_are_given_and_it_is_said() -> None:
    sure = np.array([[0.9, 0.05, 0.05]] * 40)
    made = calibrate_sets(sure, np.zeros(40, int), ALPHA)
    sets = made.sets([[0.4, 0.35, 0.25], [0.95, 0.03, 0.02]])
    assert sets.empty.tolist() == [True, False]
    assert sets.members.tolist() == [[True] * 3, [True, False, False]]


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), method=st.sampled_from(METHODS), by_class=st.booleans())
def test_who_asks_for_more_gets_larger_sets_unless_one_was_empty(seed, method, by_class) -> None:
    g = np.random.default_rng(seed)
    p, _ = overconfident((200,), 4, g)
    labels = np.arange(200) % 4
    sets = [calibrate_sets(p, labels, a, method=method, class_conditional=by_class).sets(p) for a in (0.3, 0.1, 0.03)]
    for small, large in pairwise(sets):
        assert (small.members <= large.members)[~small.empty].all()
        assert (large.empty <= small.empty).all()


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), method=st.sampled_from(METHODS), by_class=st.booleans(), tied=st.booleans())
def test_the_order_of_rows_and_the_names_of_classes_change_nothing(seed, method, by_class, tied) -> None:
    g = np.random.default_rng(seed)
    p, _ = overconfident((80,), 4, g)
    if tied:
        p = np.ceil(4 * p) / 8
    labels = np.arange(80) % 4
    rows, classes = g.permutation(80), g.permutation(4)
    plain = calibrate_sets(p, labels, ALPHA, method=method, class_conditional=by_class).sets(p)
    other = calibrate_sets(p[rows][:, classes], np.argsort(classes)[labels][rows], ALPHA, method=method,
                           class_conditional=by_class).sets(p[:, classes])
    assert (other.members == plain.members[:, classes]).all()
    assert (other.empty == plain.empty).all()


@given(p=arrays(float, (7, 5), elements=st.sampled_from([0.0, 0.1, 0.2, 0.3])))
def test_equal_probabilities_have_equal_scores_and_are_in_together(p) -> None:
    for method in METHODS:
        scores = class_scores(p, method)
        for row, score in zip(p, scores, strict=True):
            for a in range(5):
                for b in range(5):
                    assert (row[a] == row[b]) <= (score[a] == score[b])
                    assert (row[a] > row[b]) <= (score[a] <= score[b])


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), method=st.sampled_from(METHODS))
def test_sets_with_ties_cover_at_least_what_is_promised_when_rows_are_exchanged(seed, method) -> None:
    g = np.random.default_rng(seed)
    p = g.integers(0, 4, (20, 3)) / 6
    labels = g.integers(0, 3, 20)
    covered = 0
    for i in range(20):
        others = np.arange(20) != i
        sets = calibrate_sets(p[others], labels[others], ALPHA, method=method).sets(p[i : i + 1])
        covered += int(sets.members[0, labels[i]])
    assert covered >= 18


@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100))
def test_the_unit_of_the_scale_does_not_matter(seed, factor) -> None:
    g = np.random.default_rng(seed)
    y, mean, scale = g.normal(size=50), g.normal(size=50), g.uniform(0.1, 2, 50)
    one = calibrate_intervals(y, mean, scale, ALPHA)
    other = calibrate_intervals(y, mean, factor * scale, ALPHA)
    np.testing.assert_allclose(one.intervals(mean, scale), other.intervals(mean, factor * scale), rtol=1e-9, atol=1e-12)


def test_an_end_of_an_interval_is_inside() -> None:
    y = np.arange(-10, 11)
    made = calibrate_intervals(y, np.zeros(21), np.full(21, 2), ALPHA)
    assert made.factors == (5.0,)  # the 20th smallest of |y| / 2: 10 stands there twice
    low, high = made.intervals([1.0], [2.0])
    assert (low, high) == (-9, 11)


@pytest.mark.parametrize("spoil", ["p", "nan", "label", "label of no class", "rows", "empty", "ragged", "text", "axes"])
def test_what_is_no_probability_and_no_class_is_refused_by_its_place(spoil) -> None:
    p, labels = np.full((30, 3), 1 / 3), np.arange(30) % 3
    p[4, 1], place = {"p": (1.1, r"probabilities\[4\]\[1\]"), "nan": (np.nan, r"probabilities\[4\]\[1\]")}.get(
        spoil, (0.2, "labels" if "label" in spoil or spoil == "rows" else "probabilities"))
    labels = np.where(np.arange(30) == 8, {"label": 3, "label of no class": -1}.get(spoil, 0), labels)
    values = {"empty": p[:0], "ragged": [[0.5], [0.2, 0.3]], "text": p.astype(str), "axes": p[0]}.get(spoil, p)
    with pytest.raises(InvalidInput, match=place):
        calibrate_sets(values, labels[:29] if spoil == "rows" else labels, ALPHA)


def test_intervals_refuse_a_scale_that_is_no_width() -> None:
    y = np.arange(30.0)
    for scale in (0.0, -1.0, math.nan, math.inf):
        scales = np.where(np.arange(30) == 3, scale, 1.0)
        with pytest.raises(InvalidInput, match=r"scales\[3\]"):
            calibrate_intervals(y, y, scales, ALPHA)
        with pytest.raises(InvalidInput, match=r"scales\[3\]"):
            calibrate_intervals(y, y, np.ones(30), ALPHA).intervals(y, scales)
    with pytest.raises(InvalidInput, match=r"targets\[0\]"):
        calibrate_intervals(np.where(y == 0, np.nan, y), y, np.ones(30), ALPHA)
    with pytest.raises(InvalidInput, match=r"means: the shape \[30\] expected"):
        calibrate_intervals(y, y[:29], np.ones(30), ALPHA)
    with pytest.raises(InvalidInput, match="1 targets expected"):
        calibrate_intervals(y, y, np.ones(30), ALPHA).intervals(np.ones((5, 2)), np.ones((5, 2)))


def test_what_cannot_be_asked_for_is_refused() -> None:
    p, labels = np.full((30, 3), 1 / 3), np.arange(30) % 3
    for alpha in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(InvalidOption, match="alpha"):
            calibrate_sets(p, labels, alpha)
    with pytest.raises(InvalidOption, match="'lac' or 'aps' expected, got 'raps'"):
        calibrate_sets(p, labels, ALPHA, method="raps")
    with pytest.raises(InvalidInput, match="3 classes expected, got 2"):
        calibrate_sets(p, labels, ALPHA).sets(p[:, :2])
