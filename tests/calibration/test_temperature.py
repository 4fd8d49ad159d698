"""The temperature has the greatest likelihood of the Monte-Carlo mean, and says so where it means little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from service.calibration import apply_temperature, fit_temperature, logits_of, temperature
from service.errors import InvalidInput
from tests.calibration.laws import drawn, sampled_logits, softmax

CLOSE = 3e-6  # of T: a search to 1e-6 in ln T, twice


def plain_nll(z, labels, t: float) -> float:
    mean = softmax(z / t).mean(0)
    return float(-np.log(mean[np.arange(len(labels)), labels]).mean())


def labelled(seed: int, samples: int = 20, rows: int = 400, classes: int = 4, true: float = 2.5, spread: float = 1.0):
    """Logits whose mean at temperature `true` is the labels' law."""
    g = np.random.default_rng(seed)
    z = sampled_logits(samples, rows, classes, g, spread)
    return z, drawn(softmax(z / true).mean(0), g)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5, 7.0])
@pytest.mark.parametrize("samples", [1, 20])
def test_the_temperature_is_the_one_scipy_finds(true, samples) -> None:
    z, labels = labelled(1, samples, true=true)
    found = fit_temperature(z, labels)
    known = minimize_scalar(lambda x: plain_nll(z, labels, math.exp(x)), bounds=(-3, 3), options={"xatol": 1e-9})
    assert found.value == pytest.approx(math.exp(known.x), rel=CLOSE)
    assert found.nll == pytest.approx(known.fun, rel=1e-10)
    assert found.nll_uncalibrated == pytest.approx(plain_nll(z, labels, 1.0), rel=1e-12)
    assert (found.at_bound, found.rows) == (False, 400)


def test_the_temperature_that_made_the_labels_is_found_again_from_many_rows() -> None:
    z, labels = labelled(2, samples=10, rows=20_000, true=2.5)
    assert fit_temperature(z, labels).value == pytest.approx(2.5, rel=0.04)


def test_the_means_own_temperature_is_another_and_less_likely_one() -> None:
    """The tempting rule: fit T on the logits of the mean, then divide every sample's by it."""
    z, labels = labelled(3, rows=4000, true=3.0, spread=3.0)
    of_mean = fit_temperature(np.log(softmax(z).mean(0))[None], labels).value
    found = fit_temperature(z, labels)
    assert abs(math.log(of_mean / found.value)) > 0.2
    assert plain_nll(z, labels, of_mean) > found.nll + 0.005


def test_log_probabilities_will_do_for_logits() -> None:
    z, labels = labelled(4)
    of_logits = fit_temperature(z, labels)
    for other in (np.log(softmax(z)), logits_of(softmax(z)), z + np.random.default_rng(0).normal(0, 9, (20, 400, 1))):
        assert fit_temperature(other, labels).value == pytest.approx(of_logits.value, rel=CLOSE)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.5, 2))
def test_logits_times_a_factor_have_a_temperature_times_it(seed, factor) -> None:
    z, labels = labelled(seed, samples=5, rows=100, true=1.5)
    one, other = fit_temperature(z, labels), fit_temperature(factor * z, labels)
    if not (one.at_bound or other.at_bound):
        assert other.value == pytest.approx(factor * one.value, rel=CLOSE)
    assert other.nll == pytest.approx(one.nll, rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_rows_samples_and_classes_changes_nothing(seed) -> None:
    z, labels = labelled(seed, samples=5, rows=100, true=1.5)
    g = np.random.default_rng(seed)
    rows, samples, classes = g.permutation(100), g.permutation(5), g.permutation(4)
    renamed = np.argsort(classes)[labels]
    other = fit_temperature(z[samples][:, rows][:, :, classes], renamed[rows])
    assert other.value == pytest.approx(fit_temperature(z, labels).value, rel=CLOSE)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), multilabel=st.booleans())
def test_no_temperature_nearby_and_none_of_a_fine_grid_is_likelier(seed, multilabel) -> None:
    g = np.random.default_rng(seed)
    z = sampled_logits(4, 30, 3, g, 2.0)
    labels = g.integers(0, 2, (30, 3)) if multilabel else g.integers(0, 3, 30)
    found = fit_temperature(z, labels, multilabel=multilabel)
    for t in [found.value * 1.001, found.value / 1.001, *np.exp(np.linspace(math.log(0.0501), math.log(19.9), 60))]:
        p = apply_temperature(z, t, multilabel=multilabel).mean(0)
        likely = np.where(labels, p, 1 - p) if multilabel else p[np.arange(30), labels]
        if 0.05 <= t <= 20 and (likely > 0).all():
            assert found.nll <= -np.log(likely).sum() / 30 + 1e-12


def test_a_few_rows_at_a_time_give_what_all_at_once_give(monkeypatch) -> None:
    z, labels = labelled(5)
    at_once = fit_temperature(z, labels)
    monkeypatch.setattr(temperature, "_NUMBERS_AT_ONCE", 300)
    in_parts = fit_temperature(z, labels)
    assert in_parts.value == pytest.approx(at_once.value, rel=CLOSE)
    assert in_parts.nll == pytest.approx(at_once.nll, rel=1e-13)


def test_float32_is_left_as_it_is_and_computed_in_float64() -> None:
    z, labels = labelled(6)
    narrow = z.astype(np.float32)
    before = narrow.copy()
    assert fit_temperature(narrow, labels).value == fit_temperature(narrow.astype(np.float64), labels).value
    assert (narrow == before).all()


def test_one_label_that_is_so_or_not_is_a_class_of_two() -> None:
    g = np.random.default_rng(7)
    z = sampled_logits(10, 500, 1, g)
    labels = (g.random((500, 1)) < (1 / (1 + np.exp(-z / 2))).mean(0)).astype(int)
    as_label = fit_temperature(z, labels, multilabel=True)
    as_class = fit_temperature(np.concatenate([np.zeros_like(z), z], 2), labels[:, 0])
    assert as_label.value == pytest.approx(as_class.value, rel=CLOSE)
    assert as_label.nll == pytest.approx(as_class.nll, rel=1e-12)


def test_many_labels_share_the_temperature_that_made_them() -> None:
    g = np.random.default_rng(8)
    z = sampled_logits(10, 8000, 5, g)
    labels = g.random((8000, 5)) < (1 / (1 + np.exp(-z / 0.5))).mean(0)
    found = fit_temperature(z, labels, multilabel=True)
    assert found.value == pytest.approx(0.5, rel=0.05)
    in_logs = fit_temperature(logits_of(1 / (1 + np.exp(-z)), multilabel=True), labels, multilabel=True)
    assert in_logs.value == pytest.approx(found.value, rel=1e-5)


def test_where_every_row_is_right_or_every_row_wrong_the_bound_is_said() -> None:
    z = np.zeros((3, 50, 2))
    z[..., 0] = 1
    right = fit_temperature(z, np.zeros(50, int))
    assert (right.value, right.at_bound) == (pytest.approx(0.05), True)
    wrong = fit_temperature(z, np.ones(50, int))
    assert (wrong.value, wrong.at_bound) == (pytest.approx(20.0), True)


def test_where_the_temperature_changes_nothing_it_is_1() -> None:
    found = fit_temperature(np.zeros((3, 50, 4)), np.arange(50) % 4)
    assert (found.value, found.at_bound) == (1.0, False)
    assert found.nll == found.nll_uncalibrated == pytest.approx(math.log(4))


def test_a_probability_that_float32_rounded_to_0_costs_much_and_not_everything() -> None:
    z, labels = labelled(9, samples=4)
    p = softmax(z).astype(np.float32)
    p[:, 0] = np.float32([0, 0, 0, 1])
    labels[0] = 0
    found = fit_temperature(logits_of(p), labels)
    assert math.isfinite(found.nll)
    assert found.nll_uncalibrated > 0.25  # 103 nats, over 400 rows
    assert np.isfinite(logits_of([0.0, 1.0], multilabel=True)).all()


def test_huge_logits_overflow_nowhere() -> None:
    z, labels = labelled(10)
    with np.errstate(all="raise", under="ignore"):
        found = fit_temperature(1000 * z, labels)
        fit_temperature(1000 * z[..., :1], (labels[:, None] > 0), multilabel=True)
        apply_temperature(1000 * z, 0.05)
    assert found.at_bound
    assert math.isfinite(found.nll)


def test_applied_temperatures_leave_distributions_over_classes() -> None:
    z, _ = labelled(11)
    np.testing.assert_allclose(apply_temperature(z, 1.0), softmax(z), rtol=1e-13)
    np.testing.assert_allclose(apply_temperature(z, 3.0), softmax(z / 3), rtol=1e-13)
    np.testing.assert_allclose(apply_temperature(z, 3.0, multilabel=True), 1 / (1 + np.exp(-z / 3)), rtol=1e-13)
    assert apply_temperature(z[0, 0], 3.0).sum() == pytest.approx(1)


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda z, y: (np.where(np.arange(4) == 2, np.nan, z), y), r"logits\[0\]\[0\]\[2\]: a finite number.*nan"),
    (lambda z, y: (np.where(np.arange(4) == 1, -np.inf, z), y), r"logits\[0\]\[0\]\[1\]: a finite number.*-inf"),
    (lambda z, y: (z[:, :0], y[:0]), "logits: at least one row"),
    (lambda z, y: (z[:0], y), "logits: at least one row"),
    (lambda z, y: (z[0], y), "logits: .*got 2 axes"),
    (lambda z, y: (z.astype(str), y), "logits: numbers expected"),
    (lambda z, y: (z, np.where(np.arange(400) == 7, 4, y)), r"labels\[7\]: a class from 0 to 3 expected, got 4"),
    (lambda z, y: (z, np.where(np.arange(400) == 7, -1, y)), r"labels\[7\]: a class"),
    (lambda z, y: (z, np.where(np.arange(400) == 7, np.nan, y)), r"labels\[7\]: a whole number expected, got nan"),
    (lambda z, y: (z, np.where(np.arange(400) == 7, 0.5, y)), r"labels\[7\]: a whole number expected, got 0\.5"),
    (lambda z, y: (z, y[:-1]), r"labels: the shape \[400\] expected, got \[399\]"),
])
def test_what_has_no_likelihood_is_refused_by_its_place(spoil, words) -> None:
    with pytest.raises(InvalidInput, match=words):
        fit_temperature(*spoil(*labelled(12)))


def test_labels_that_are_neither_so_nor_not_are_refused() -> None:
    z, _ = labelled(13)
    with pytest.raises(InvalidInput, match=r"labels\[0\]\[0\]: 0 or 1 expected, got 2"):
        fit_temperature(z, np.full((400, 4), 2), multilabel=True)
    for t in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InvalidInput, match="temperature"):
            apply_temperature(z, t)
