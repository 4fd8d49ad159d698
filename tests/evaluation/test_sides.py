"""Several ways to answer the same rows: each metric of each, and their differences row by row."""

from __future__ import annotations

import json

import numpy as np
import pytest

from service.evaluation.bootstrap import Interval
from service.evaluation.sides import Side, as_json, of_classes, of_labels, of_strangers, of_target

DRAW = np.random.default_rng(0)
LABELS = DRAW.integers(0, 3, 300)
SURE = np.where(np.eye(3)[LABELS] > 0, 0.98, 0.01)
GUESS = np.full((300, 3), 1 / 3)
TARGET = DRAW.normal(0, 1, 300)


def test_a_way_that_is_better_on_the_same_rows_has_differences_without_0_in_them() -> None:
    compared = of_classes({"guess": Side(GUESS), "sure": Side(SURE)}, LABELS)
    by_name = {metric.name: metric for metric in compared.metrics}
    for name, sign in (("accuracy", 1), ("negative log-likelihood", -1), ("Brier score", -1)):
        difference = by_name[name].differences["sure"]
        assert sign * difference.low > 0
        assert sign * difference.high > 0
        assert "guess" not in by_name[name].differences
    assert by_name["accuracy"].values["sure"].estimate == 1


def test_where_every_row_is_right_the_accuracy_may_still_be_less() -> None:
    (accuracy, *_) = of_classes({"sure": Side(SURE)}, LABELS).metrics
    value = accuracy.values["sure"]
    assert isinstance(value, Interval)
    assert (value.estimate, value.high) == (1, 1)
    assert value.low == pytest.approx(0.05 ** (1 / 300) / 1, abs=0.005)


def test_a_way_without_a_score_has_no_risk_coverage_and_the_others_have() -> None:
    score = DRAW.random(300)
    compared = of_classes({"guess": Side(GUESS), "sure": Side(SURE, score)}, LABELS)
    (area,) = [metric for metric in compared.metrics if metric.name == "area under risk-coverage"]
    assert list(area.values) == ["sure"]
    assert list(compared.risk_coverage) == ["sure"]
    assert list(compared.reliability) == ["guess", "sure"]


def test_several_labels_are_each_a_yes_or_no() -> None:
    truth = DRAW.integers(0, 2, (200, 4))
    compared = of_labels({"right": Side(np.where(truth, 0.9, 0.1), DRAW.random(200))}, truth)
    values = {metric.name: metric.values["right"] for metric in compared.metrics}
    assert values["exact matches"].estimate == 1
    assert values["Hamming loss"].estimate == 0
    assert values["negative log-likelihood"].estimate == pytest.approx(-np.log(0.9))


def test_of_a_target_whose_noise_is_not_known_nothing_is_said_of_likelihood_and_intervals() -> None:
    mean = TARGET + DRAW.normal(0, 0.5, 300)
    plain = of_target({"a": Side(mean)}, TARGET)
    assert [metric.name for metric in plain.metrics] == ["RMSE", "MAE"]
    assert not plain.interval_coverage
    known = of_target({"a": Side(mean, total_std=np.full(300, 0.5))}, TARGET, of="target 0")
    values = {metric.name: metric.values["a"].estimate for metric in known.metrics}
    assert values["target 0: 90% interval: coverage"] == pytest.approx(0.9, abs=0.05)


def test_a_mixture_of_equal_samples_is_the_gaussian() -> None:
    mean, noise = TARGET + 0.3, np.full(300, 0.7)
    compared = of_target({"a": Side(mean, total_std=noise, samples=np.tile(mean, (5, 1)), noise_std=noise)}, TARGET)
    values = {metric.name: metric.values["a"].estimate for metric in compared.metrics}
    assert values["log-likelihood, mixture"] == pytest.approx(values["log-likelihood, Gaussian"])


def test_scores_that_are_higher_for_other_rows_tell_them_apart() -> None:
    found = of_strangers({"good": np.arange(50.0), "blind": np.zeros(50)},
                         {"good": np.arange(60.0, 90), "blind": np.zeros(30)})
    assert found["good"].estimate == 1
    assert found["blind"].estimate == 0.5


def test_what_is_infinite_is_null_in_json() -> None:
    certain = np.eye(3)[(LABELS + 1) % 3]
    written = as_json(of_classes({"wrong": Side(certain)}, LABELS).metrics)
    by_name = {metric["name"]: metric["values"]["wrong"] for metric in json.loads(json.dumps(written))}
    assert by_name["negative log-likelihood"]["estimate"] is None
    assert by_name["accuracy"]["estimate"] == 0
