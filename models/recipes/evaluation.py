"""How good a network is on held-out rows, in both modes of the service."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from models.recipes.data import Floats, Rows
from models.recipes.recipe import Task
from service.sampling import Sampler, prepare

SAMPLES = 50
"""Dropout samples T behind every sampled figure, and the default of the manifests."""
SAMPLING_SEED = 0


@dataclass(frozen=True)
class Score:
    """`figure`: accuracy (share of rows) or RMSE (target unit). `log_likelihood`: mean over rows, nats a row."""

    figure: float
    log_likelihood: float


@dataclass(frozen=True)
class SampledClasses:
    """What Monte-Carlo dropout says of rows: mean probabilities and their std (rows, classes), entropy (rows,) nats."""

    mean: Tensor
    std: Tensor
    entropy: Tensor


def sampler_of(module: nn.Module, rows: Rows, task: Task) -> Sampler:
    """The service's own sampler for a network, so that the figures are those of what is served."""
    return prepare(module, torch.from_numpy(rows.inputs[:2]), task=task)


def predict(sampler: Sampler, inputs: Floats) -> Tensor:
    """The answers with every dropout off: probabilities (rows, classes) or values (rows, outputs)."""
    return sampler.predict(torch.from_numpy(inputs))


def sample_classes(sampler: Sampler, inputs: Floats) -> SampledClasses:
    """The answers of a classifier over `SAMPLES` dropout samples."""
    rows, kernel = torch.from_numpy(inputs), sampler.kernels[0]  # one kernel: a card must not depend on timing
    summary = sampler.uncertainty(rows, samples=SAMPLES, seed=SAMPLING_SEED, kernel=kernel, method="sampled")
    return SampledClasses(summary.mean, summary.std, summary.entropy)


def sample_values(sampler: Sampler, inputs: Floats) -> Tensor:
    """Each of `SAMPLES` dropout samples of a regression: (rows, samples, outputs), in the target's unit."""
    rows, kernel = torch.from_numpy(inputs), sampler.kernels[0]
    draws = sampler.uncertainty(
        rows, samples=SAMPLES, seed=SAMPLING_SEED, include_samples=True, kernel=kernel, method="sampled"
    ).draws  # a likelihood is of the samples themselves
    if draws is None:
        raise RuntimeError("the samples were asked for and did not come")
    return draws


def score_classes(probabilities: Tensor, rows: Rows) -> Score:
    """Accuracy, and log of the true class's probability; the latter is -inf where that probability is 0."""
    targets = torch.from_numpy(rows.targets)
    accuracy = float((probabilities.argmax(dim=-1) == targets).double().mean())
    true_class = probabilities.double().gather(1, targets[:, None])
    return Score(accuracy, float(true_class.log().mean()))


def score_values(draws: Tensor, rows: Rows, tau: float) -> Score:
    """RMSE of the mean over samples, and the log-likelihood of `gaussian_mixture_log_likelihood`.

    Args: draws: (rows, samples, outputs); one sample for a deterministic answer. tau: 1 / (target unit)².
    """
    targets = torch.from_numpy(rows.targets).double()
    errors = draws.double().mean(dim=1) - targets
    return Score(float(errors.square().mean().sqrt()), gaussian_mixture_log_likelihood(draws, targets, tau))


def gaussian_mixture_log_likelihood(draws: Tensor, targets: Tensor, tau: float) -> float:
    """Mean over rows of log( mean over samples of N(target; draw, 1/tau) ), nats a row.

    Args: draws: (rows, samples, 1). targets: (rows, 1). tau: precision of the observation noise, 1 / (target unit)².
    Source: Gal and Ghahramani 2016, arXiv 1506.02142, equation 8.
    """
    errors = draws.double() - targets.double()[:, None, :]  # (rows, samples, 1)
    exponents = -0.5 * tau * errors.square().sum(dim=-1)
    mixtures = exponents.logsumexp(dim=1) - math.log(draws.shape[1])
    return float(mixtures.mean()) + 0.5 * math.log(tau / (2 * math.pi))


def entropy_nats(probabilities: Tensor) -> Tensor:
    """Entropy of each row's distribution, (rows,), nats; a probability of 0 counts nothing."""
    return torch.special.entr(probabilities.double()).sum(dim=-1)


def auroc(usual: Tensor, damaged: Tensor) -> float:
    """Chance that a damaged row scores above a usual one: 1 tells them apart, 0.5 does not.

    Args: usual, damaged: (rows,) of scores.
    """
    scores: NDArray[np.float64] = torch.cat([usual, damaged]).double().numpy()
    return float(roc_auc_score(np.repeat([0, 1], [len(usual), len(damaged)]), scores))
