"""`errorbar evaluate`: how good a model's answers are on rows whose truth is known, with every dropout off and sampled,
side by side."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import service
from service.errors import InvalidOption
from service.evaluation.bootstrap import Interval
from service.evaluation.report import Report, ScoreHistogram, render, score_histogram
from service.evaluation.sides import Compared, Side, as_json, of_classes, of_labels, of_strangers, of_target, shown
from service.files.answers import Answers, Array, answers_of
from service.files.parts import TruthAt
from service.files.truths import NAMES
from service.repository import ReadyModel
from service.scheduling import Options

EVAL, MC = "eval mode", "MC dropout"
_WAYS = (EVAL, MC)


@dataclass(frozen=True)
class Evaluation:
    """report: for people. as_json: all its numbers, for programs."""

    report: Report
    as_json: dict[str, Any]

    def html(self) -> str:
        return render(self.report)


def evaluated(
    model: ReadyModel, data: str, options: Callable[[], Options], truth: str | None = None,
    other: str | None = None, watch: Callable[[int], object] = lambda rows: None,
) -> Evaluation:
    """model: loaded and evaluated within `chosen_by_rule`, so that the same figures come out again. data: the labelled
    file. truth: what holds the truth in it; by default "label", or "value" of a regression. other: a file of rows of
    another kind, whose truth does not matter. watch: told how many rows are done. InvalidInput, InvalidOption,
    UncertaintyUnavailable, ModelFailed."""
    task = model.manifest.task
    if task not in NAMES:
        raise InvalidOption.at("MODEL", f"a model whose answers have a truth expected, got the task {task!r}")
    chosen = options()  # refuses a model without dropout
    keep = task == "regression" and _noise_is_known(model)
    name = NAMES[task] if truth is None else truth
    found = answers_of(data, model, chosen, TruthAt(name, needed=True), keep, watch)
    strangers = None if other is None else answers_of(other, model, chosen, TruthAt(name, needed=False), watch=watch)
    compared = _compared(model, found)
    histograms, separations = ((), {}) if strangers is None else _strangers(model, found, strangers)
    facts = _facts(model, chosen, data, found, other, strangers)
    report = Report(
        f"{model.name}/{model.version}: evaluation", _WAYS, compared.metrics, facts, _notes(model),
        compared.reliability, compared.risk_coverage, score=_score_name(model),
        loss="squared error" if task == "regression" else "error rate (share of those answered)",
        interval_coverage=compared.interval_coverage, histograms=histograms)
    return Evaluation(report, {
        "model": model.name, "version": model.version, "digest": model.digest, "task": task, "rows": found.rows,
        "data": f"sha256:{found.digest}",
        "sampling": {"samples": chosen.effective_samples, "seed": chosen.seed, "masks": chosen.masks,
                     "design": chosen.design, "dtype": model.sampler.dtype},
        "metrics": as_json(compared.metrics),
        "other": None if strangers is None else {
            "rows": strangers.rows, "data": f"sha256:{strangers.digest}",
            "auroc": {score: {way: shown(separations[score, way]) for way in _WAYS if (score, way) in separations}
                      for score in dict.fromkeys(score for score, _ in separations)}},
    })


def _compared(model: ReadyModel, found: Answers) -> Compared:
    task, truths = model.manifest.task, found.truths
    assert truths is not None
    if task == "regression":
        return _targets(model, found, truths)
    by_score = _scores(model, found)
    sides = {EVAL: Side(found.predicted, by_score["entropy", EVAL]),
             MC: Side(found.sampled["mean"], by_score["entropy", MC])}
    labels = truths.astype(np.int64)
    return of_classes(sides, labels) if task == "classification" else of_labels(sides, labels)


def _targets(model: ReadyModel, found: Answers, truths: Array) -> Compared:
    """Each target by itself."""
    targets, fixed = truths.shape[1], _fixed_noise(model, found.rows)
    parts = []
    for j in range(targets):
        std, noise = _column(found.sampled["std"], j), _noise(model, found, j)
        sides = {
            EVAL: Side(found.predicted[:, j], None, fixed, found.predicted[None, :, j], fixed),
            MC: Side(_column(found.sampled["mean"], j), std, None if noise is None else np.sqrt(std**2 + noise**2),
                     None if found.samples is None else found.samples[..., j].T, noise),
        }
        parts.append(of_target(sides, truths[:, j], of=f"target {j}" if targets > 1 else ""))
    first = parts[0]
    return Compared(tuple(metric for part in parts for metric in part.metrics), {}, first.risk_coverage,
                    first.interval_coverage)


def _noise_is_known(model: ReadyModel) -> bool:
    return model.manifest.tau is not None or model.sampler.noise_head is not None


def _fixed_noise(model: ReadyModel, rows: int) -> Array | None:
    tau = model.manifest.tau
    return None if tau is None else np.full(rows, tau**-0.5)


def _noise(model: ReadyModel, found: Answers, target: int) -> Array | None:
    own = found.sampled.get("noise_std")
    return _fixed_noise(model, found.rows) if own is None else _column(own, target)


def _column(values: Array, at: int) -> Array:
    return values if values.ndim == 1 else values[:, at]


def _scores(model: ReadyModel, found: Answers) -> dict[tuple[str, str], Array]:
    """How unsure each way is of each row, (rows,), by score and way; of several targets or labels, summed over them."""
    if model.manifest.task == "regression":
        return {("std", MC): found.sampled["std"].reshape(found.rows, -1).sum(1)}
    several = model.manifest.task == "multilabel"
    p = np.stack([found.predicted, 1 - found.predicted]) if several else found.predicted[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = -np.where(p > 0, p * np.log(p), 0.0).sum((0, 2))
    by_score = {("entropy", EVAL): plain}
    for name in ("entropy", "mutual_information"):
        values = found.sampled[name]
        by_score[name.replace("_", " "), MC] = values if values.ndim == 1 else values.sum(1)
    return by_score


def _score_name(model: ReadyModel) -> str:
    return "dropout standard deviation" if model.manifest.task == "regression" else "entropy"


def _strangers(
    model: ReadyModel, found: Answers, strangers: Answers
) -> tuple[tuple[ScoreHistogram, ...], Mapping[tuple[str, str], Interval]]:
    own, other = _scores(model, found), _scores(model, strangers)
    separations = of_strangers(own, other)
    unit = "unit of the target" if model.manifest.task == "regression" else "nats"
    return tuple(
        score_histogram(", ".join(key), unit, {"own rows": own[key], "other rows": other[key]}, separations[key])
        for key in own), separations


def _facts(
    model: ReadyModel, options: Options, data: str, found: Answers, other: str | None, strangers: Answers | None
) -> dict[str, str]:
    facts = {
        "model": f"{model.name}/{model.version}", "digest": model.digest,
        "data": f"{Path(data).name}, {found.rows:,} rows, sha256:{found.digest}",
        "sampling": f"{options.effective_samples} samples, seed {options.seed}, {options.masks} masks, "
                    f"{options.design} design, {model.sampler.dtype}",
        "made": f"{datetime.date.today().isoformat()} by Errorbar {service.__version__}",
    }
    if other is not None and strangers is not None:
        facts["other rows"] = f"{Path(other).name}, {strangers.rows:,} rows, sha256:{strangers.digest}"
    return facts


def _notes(model: ReadyModel) -> tuple[str, ...]:
    notes = ["Both ways answered the same rows; with masks that all rows share, one seed's luck is in every number of "
             "MC dropout." if model.manifest.sampling.masks == "shared" else "Both ways answered the same rows."]
    if model.manifest.task == "regression" and not _noise_is_known(model):
        notes.append("The noise of the observations is not known, so nothing is said of likelihood and coverage: the "
                     "dropout standard deviation alone is no predictive distribution.")
    if prod(model.sampler.output_shape) > 1 and model.manifest.task == "regression":
        notes.append("The curves are of the first target.")
    return tuple(notes)
