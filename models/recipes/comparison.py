"""A recipe's network beside the same one trained without dropout: does dropout help, and what does it cost?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev

import torch
from torch import nn
from torch.nn import functional

from models.recipes.data import Split
from models.recipes.evaluation import (
    Score,
    predict,
    sample_classes,
    sample_values,
    sampler_of,
    score_classes,
    score_values,
)
from models.recipes.noise import fit_tau
from models.recipes.recipe import Recipe
from models.recipes.training import EpochLosses, Fit, Loss, fit


@dataclass(frozen=True)
class Scores:
    """Held-out test scores of one pair, and the noise precisions they used (None for classification)."""

    deterministic: Score
    sampled: Score
    plain: Score
    tau: float | None
    plain_tau: float | None


@dataclass(frozen=True)
class Pair:
    """Two trainings with one seed: with dropout (`dropped`) and without (`plain`), and their test scores."""

    seed: int
    dropped: Fit
    plain: Fit
    scores: Scores


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences over training seeds, with its standard error (None for a single pair)."""

    mean: float
    standard_error: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the difference is more than three standard errors from zero.

        Three and not two, because a standard error from five seeds is itself uncertain: a t with 4 degrees of freedom
        is beyond three with chance 0.04.
        """
        return self.standard_error is not None and abs(self.mean) > 3 * self.standard_error


def train_pair(recipe: Recipe, split: Split, seed: int) -> Pair:
    """Trains with and without dropout in the same loop and scores both on the test rows."""
    loss = _loss(recipe, split)
    dropped, plain = (
        fit(partial(recipe.build, split, with_dropout=on), split, loss, recipe.schedule, seed, recipe.augment)
        for on in (True, False)
    )
    score = _score_classification if recipe.task == "classification" else _score_regression
    return Pair(seed, dropped, plain, score(dropped.module, plain.module, split))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Ours less theirs, paired."""
    gaps = [our - their for our, their in zip(ours, theirs, strict=True)]
    return Difference(mean(gaps), stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else None)


def epochs_to_same_loss(pair: Pair, of: Callable[[EpochLosses], float]) -> tuple[int, int]:
    """Epochs with and without dropout until the loss first is as low as both trainings get at some time.

    That level is the higher of the two lowest losses, so both reach it.
    """
    histories = [[of(losses) for losses in one.epochs] for one in (pair.dropped, pair.plain)]
    level = max(min(history) for history in histories)
    dropped, plain = (1 + next(i for i, loss in enumerate(history) if loss <= level) for history in histories)
    return dropped, plain


def _loss(recipe: Recipe, split: Split) -> Loss:
    """Cross-entropy, nats a row; for regression the squared error in units of the training target's variance."""
    if recipe.task == "classification":
        return functional.cross_entropy
    variance = torch.from_numpy(split.train.targets).double().var(correction=0).float()
    return lambda values, targets: functional.mse_loss(values, targets) / variance


def _score_classification(dropped: nn.Module, plain: nn.Module, split: Split) -> Scores:
    test = split.test
    sampler = sampler_of(dropped, test, "classification")
    return Scores(
        deterministic=score_classes(predict(sampler, test.inputs), test),
        sampled=score_classes(sample_classes(sampler, test.inputs).mean, test),
        plain=score_classes(predict(sampler_of(plain, test, "classification"), test.inputs), test),
        tau=None,
        plain_tau=None,
    )


def _score_regression(dropped: nn.Module, plain: nn.Module, split: Split) -> Scores:
    test, validation = split.test, split.validation
    sampler, plain_sampler = (sampler_of(module, test, "regression") for module in (dropped, plain))
    targets = torch.from_numpy(validation.targets)
    tau = fit_tau(sample_values(sampler, validation.inputs), targets)
    plain_tau = fit_tau(predict(plain_sampler, validation.inputs)[:, None], targets)
    return Scores(
        deterministic=score_values(predict(sampler, test.inputs)[:, None], test, tau),
        sampled=score_values(sample_values(sampler, test.inputs), test, tau),
        plain=score_values(predict(plain_sampler, test.inputs)[:, None], test, plain_tau),
        tau=tau,
        plain_tau=plain_tau,
    )
