"""Ways to answer, side by side: every metric of each on the same rows, the same resamples, and their differences.

The first way is the baseline. What is infinite, or has no meaning for a way, is said or left out, never made up.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.evaluation import scores
from service.evaluation.bootstrap import Bootstrapped, Interval, Statistic, bootstrap, mean_of, one_minus, root_mean_of
from service.evaluation.checks import Array
from service.evaluation.proportions import proportion_interval
from service.evaluation.reliability import (
    IntervalCoverage,
    Reliability,
    gaussian_interval_coverage,
    reliability,
    top_label,
)
from service.evaluation.report import Metric
from service.evaluation.selection import RiskCoverage, risk_coverage, risk_coverage_area, separation

Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.9
_Z = 1.6448536269514722  # of a Gaussian's central 90 %


@dataclass(frozen=True)
class Side:
    """One way to answer some rows. mean: probabilities (rows, classes), or values (rows,) of one target. score: how
    unsure it is of each row, (rows,); None where it cannot say. total_std: of a target, noise included, (rows,); None
    where the noise is not known. samples: (samples, rows) of a target, with `noise_std` (rows,) or None."""

    mean: Array
    score: Array | None = None
    total_std: Array | None = None
    samples: Array | None = None
    noise_std: Array | None = None


@dataclass(frozen=True)
class Compared:
    """metrics: in the report's form. The rest by way, where it exists."""

    metrics: tuple[Metric, ...]
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    risk_coverage: Mapping[str, RiskCoverage] = field(default_factory=dict)
    interval_coverage: Mapping[str, IntervalCoverage] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wanted:
    """name, meaning, unit: of the metric. hits: whether it is a share of rows, for an exact interval."""

    name: str
    meaning: str
    unit: str
    hits: bool = False


_ACCURACY = _Wanted("accuracy", "How often the most probable class is the label; higher is better.",
                    "share of rows", hits=True)
_NLL = _Wanted("negative log-likelihood", "Surprise at the label; lower is better.", "nats a row")
_BRIER = _Wanted("Brier score", "Squared distance of the probabilities from the label; lower is better.", "0 to 2")
_AURC = _Wanted("area under risk-coverage", "Mean risk if only the surest rows are answered, over all shares of rows; "
                "lower is better.", "mean loss")


def of_classes(sides: Mapping[str, Side], labels: NDArray[np.int64], seed: int = 0) -> Compared:
    """Classification. labels: (rows,), places of classes."""
    wanted: dict[tuple[_Wanted, str], Statistic] = {}
    curves, bins = {}, {}
    for way, side in sides.items():
        errors = scores.class_errors(side.mean, labels)
        wanted[_ACCURACY, way] = one_minus(mean_of(errors))
        wanted[_NLL, way] = mean_of(scores.log_losses(side.mean, labels))
        wanted[_BRIER, way] = mean_of(scores.brier_scores(side.mean, labels))
        if side.score is not None:
            wanted[_AURC, way] = risk_coverage_area(errors, side.score)
            curves[way] = risk_coverage(errors, side.score)
        bins[way] = reliability(*top_label(side.mean, labels))
    metrics = _measured(wanted, tuple(sides), seed)
    return Compared((*metrics, *_calibration(bins)), reliability=bins, risk_coverage=curves)


def of_labels(sides: Mapping[str, Side], truth: NDArray[np.int64], seed: int = 0) -> Compared:
    """Multilabel. truth: (rows, labels) of 0 and 1."""
    exact = _Wanted("exact matches", "How often every label of a row is on the right side of 0.5; higher is better.",
                    "share of rows", hits=True)
    hamming = _Wanted("Hamming loss", "Share of a row's labels on the wrong side of 0.5; lower is better.",
                      "share of labels")
    surprise = _Wanted(_NLL.name, "Surprise at each label's yes or no; lower is better.", "nats a label")
    brier = _Wanted("Brier score", "Squared distance of a label's probability from 0 or 1; lower is better.", "0 to 1")
    wanted: dict[tuple[_Wanted, str], Statistic] = {}
    curves, bins = {}, {}
    for way, side in sides.items():
        losses = scores.hamming_losses(side.mean, truth)
        wanted[exact, way] = one_minus(mean_of(scores.subset_errors(side.mean, truth)))
        wanted[hamming, way] = mean_of(losses)
        wanted[surprise, way] = mean_of(scores.binary_log_losses(side.mean, truth))
        wanted[brier, way] = mean_of(scores.binary_brier_scores(side.mean, truth))
        if side.score is not None:
            wanted[_AURC, way] = risk_coverage_area(losses, side.score)
            curves[way] = risk_coverage(losses, side.score)
        bins[way] = reliability(side.mean, truth)
    metrics = _measured(wanted, tuple(sides), seed)
    return Compared((*metrics, *_calibration(bins)), reliability=bins, risk_coverage=curves)


def of_target(sides: Mapping[str, Side], target: Array, seed: int = 0, of: str = "") -> Compared:
    """Regression, one target, (rows,). of: its name, where there are several."""
    def named(name: str, meaning: str, unit: str, hits: bool = False) -> _Wanted:
        return _Wanted(f"{of}: {name}" if of else name, meaning, unit, hits)

    rmse = named("RMSE", "Root of the mean squared error; lower is better.", "unit of the target")
    mae = named("MAE", "Mean absolute error; lower is better.", "unit of the target")
    gaussian = named("log-likelihood, Gaussian", "Of mean and total standard deviation; higher is better.",
                     "nats a row")
    mixture = named("log-likelihood, mixture", "Of the samples, each with the noise; higher is better.", "nats a row")
    covered = named(f"{LEVEL:.0%} interval: coverage", f"How often mean ± 1.645 total standard deviations holds the "
                    f"target; {LEVEL:g} is right.", "share of rows", hits=True)
    width = named(f"{LEVEL:.0%} interval: width", "Narrower is better, where the coverage is right.",
                  "unit of the target")
    aurc = named(_AURC.name, "Mean squared error if only the surest rows are answered, over all shares of rows; lower "
                 "is better.", "unit of the target, squared")
    wanted: dict[tuple[_Wanted, str], Statistic] = {}
    curves, intervals = {}, {}
    for way, side in sides.items():
        squares = scores.squared_errors(side.mean, target)
        wanted[rmse, way] = root_mean_of(squares)
        wanted[mae, way] = mean_of(scores.absolute_errors(side.mean, target))
        if side.total_std is not None:
            low, high = side.mean - _Z * side.total_std, side.mean + _Z * side.total_std
            wanted[gaussian, way] = mean_of(scores.gaussian_log_densities(side.mean, side.total_std, target))
            wanted[covered, way] = mean_of(scores.interval_hits(low, high, target))
            wanted[width, way] = mean_of(scores.interval_widths(low, high))
            intervals[way] = gaussian_interval_coverage(side.mean, side.total_std, target)
        if side.samples is not None and side.noise_std is not None:
            wanted[mixture, way] = mean_of(scores.mixture_log_densities(side.samples, side.noise_std, target))
        if side.score is not None:
            wanted[aurc, way] = risk_coverage_area(squares, side.score)
            curves[way] = risk_coverage(squares, side.score)
    return Compared(_measured(wanted, tuple(sides), seed), risk_coverage=curves, interval_coverage=intervals)


def of_strangers(own: Mapping[Key, Array], other: Mapping[Key, Array], seed: int = 0) -> dict[Key, Interval]:
    """AUROC of each score, by its name, of rows of another kind against the model's own: (rows of each,)."""
    found = bootstrap({name: separation(own[name], other[name]) for name in own}, seed=seed)
    return {name: found.interval(name) for name in own}


def as_json(metrics: tuple[Metric, ...]) -> list[dict[str, Any]]:
    """Numbers that are no numbers, or infinite, are null."""
    return [{"name": m.name, "unit": m.unit, "values": {way: shown(v) for way, v in m.values.items()},
             "differences": {way: shown(v) for way, v in m.differences.items()}} for m in metrics]


def shown(value: Interval | float) -> dict[str, float | None]:
    """As JSON, as above."""
    numbers = ({"estimate": value.estimate, "low": value.low, "high": value.high, "level": value.level}
               if isinstance(value, Interval) else {"estimate": value})
    return {name: number if np.isfinite(number) else None for name, number in numbers.items()}


def _measured(
    wanted: Mapping[tuple[_Wanted, str], Statistic], ways: tuple[str, ...], seed: int
) -> tuple[Metric, ...]:
    found = bootstrap(wanted, seed=seed)
    (rows,) = next(iter(wanted.values())).sets
    metrics = []
    for metric in dict.fromkeys(metric for metric, _ in wanted):
        values = {way: _interval(found, metric, way, rows) for way in ways if (metric, way) in wanted}
        differences = {way: found.difference((metric, way), (metric, ways[0])) for way in values
                       if way != ways[0] and ways[0] in values}
        metrics.append(Metric(metric.name, metric.meaning, metric.unit, values, differences))
    return tuple(metrics)


def _interval(found: Bootstrapped[tuple[_Wanted, str]], metric: _Wanted, way: str, rows: int) -> Interval:
    """Of a share of rows the exact one: where all rows are right, resamples say that there can be no error."""
    interval = found.interval((metric, way))
    return proportion_interval(round(interval.estimate * rows), rows) if metric.hits else interval


def _calibration(bins: Mapping[str, Reliability]) -> tuple[Metric, Metric]:
    """And what chance makes of it."""
    return (
        Metric("calibration error (ECE)", "How far confidence is from the share that came true, in bins of equal size; "
               "lower is better. It has no interval: few rows bias it upwards.", "share of rows",
               {way: r.expected_error for way, r in bins.items()}),
        Metric("ECE by chance", "What perfectly calibrated answers with these confidences would show on as many rows.",
               "share of rows", {way: r.error_if_calibrated for way, r in bins.items()}))
