"""How good a regression network with dropout is on rows that it was not trained on, sampled by the service's engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.architectures.scaling import Restore, Standardise
from models.recipes.noise import fit_tau
from models.recipes.uci_data import Doubles, Part
from models.recipes.uci_training import Weights
from service.sampling import prepare
from service.sampling.untimed import chosen_by_rule

SAMPLES = 10_000
SAMPLING_SEED = 0
LEVEL = 0.9
_NUMBERS_AT_ONCE = 2_000_000  # samples of rows: what is held at a time
_SAMPLES_TO_FIT = 1000  # of each row, that the noise is fitted on: ten times as many hardly move it


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of the rows that trained: inputs (features,), and target. Deviations are never 0."""

    shift: Doubles
    scale: Doubles
    target_shift: float
    target_scale: float

    @classmethod
    def of(cls, rows: Part) -> Scaling:
        """A feature that does not vary is only shifted."""
        spread = rows.inputs.std(axis=0)
        return cls(
            rows.inputs.mean(axis=0), np.where(spread > 0, spread, 1.0),
            float(rows.targets.mean()), float(rows.targets.std()),
        )  # fmt: skip

    def inputs(self, rows: Part) -> Doubles:
        return (rows.inputs - self.shift) / self.scale

    def targets(self, rows: Part) -> Doubles:
        return (rows.targets - self.target_shift) / self.target_scale


class DropoutRegression(nn.Module):
    """One hidden layer of ReLU, dropout before either layer, and the scaling of what comes in and goes out.

    Forward: (rows, features) in their own units -> (rows, 1) in the target's.
    """

    def __init__(self, weights: Weights, rate: float, scaling: Scaling) -> None:
        super().__init__()
        hidden, features = weights.hidden.shape
        self.standardise = Standardise((features,), scaling.shift.tolist(), scaling.scale.tolist())
        self.body = nn.Sequential(
            nn.Dropout(rate), nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(rate), nn.Linear(hidden, 1)
        )
        self.restore = Restore(1, scaling.target_shift, scaling.target_scale)
        parts = (weights.hidden, weights.hidden_bias, weights.output[None], weights.output_bias[None])
        with torch.no_grad():
            for parameter, values in zip(self.parameters(), parts, strict=True):
                parameter.copy_(torch.tensor(values))

    def forward(self, rows: Tensor) -> Tensor:
        values: Tensor = self.restore(self.body(self.standardise(rows)))
        return values


@dataclass(frozen=True)
class Score:
    """On rows that trained nothing.

    rmse: of the mean over the samples, in the target's unit. log_likelihood: nats a row, of the mixture over the
    samples of Gaussians of precision tau. coverage: share of rows in the central 90 % interval of that mixture.
    constant_log_likelihood: nats a row, of one Gaussian around the mean for all rows, as wide as the RMSE: what knowing
    how large errors are on the whole, and nothing of each row, would give. fitted_*: the same with the precision that
    was fitted on the rows that chose, instead of tau.
    """

    rmse: float
    log_likelihood: float
    coverage: float
    constant_log_likelihood: float
    fitted_log_likelihood: float
    fitted_coverage: float


@dataclass(frozen=True)
class Validation:
    """On the rows that choose: log_likelihood, as in `Score`, and fitted_tau, the precision that would make it largest,
    1 / (target unit)²."""

    log_likelihood: float
    fitted_tau: float


def score(network: nn.Module, rows: Part, tau: float, fitted_tau: float, samples: int = SAMPLES) -> Score:
    """Samples the network on those rows as the server would, and scores it.

    The masks are shared, so each sample is one thinned network for all rows. Rows run in groups, to bound memory.
    UnservableModel where the engine refuses the network.
    """
    errors, densities, levels = [], [], []
    for draws, targets in _sampled(network, rows, samples):
        errors.append(draws.mean(dim=1) - targets)
        densities.append([log_densities(draws, targets, each) for each in (tau, fitted_tau)])
        levels.append([mixture_levels(draws, targets, each) for each in (tau, fitted_tau)])
    rmse = float(torch.cat(errors).square().mean().sqrt())
    likelihoods = [float(torch.cat(parts).mean()) for parts in zip(*densities, strict=True)]
    coverages = [
        float(((torch.cat(parts) - 0.5).abs() <= LEVEL / 2).double().mean()) for parts in zip(*levels, strict=True)
    ]
    return Score(
        rmse=rmse,
        log_likelihood=likelihoods[0],
        coverage=coverages[0],
        constant_log_likelihood=constant_log_likelihood(rmse),
        fitted_log_likelihood=likelihoods[1],
        fitted_coverage=coverages[1],
    )


def validate(network: nn.Module, rows: Part, tau: float, samples: int = SAMPLES) -> Validation:
    """Samples the network on the rows that choose, as `score` does."""
    densities, kept = [], []
    for draws, targets in _sampled(network, rows, samples):
        kept.append(draws[:, :_SAMPLES_TO_FIT, None].clone())
        densities.append(log_densities(draws, targets, tau))
    fitted = fit_tau(torch.cat(kept), torch.from_numpy(rows.targets)[:, None])
    return Validation(float(torch.cat(densities).mean()), fitted)


def log_densities(draws: Tensor, targets: Tensor, tau: float) -> Tensor:
    """(rows,), nats: log of the mean over the samples of N(target; sample, 1/tau).

    Args: draws: (rows, samples). targets: (rows,). tau: 1 / (target unit)².
    Source: Gal and Ghahramani 2016, arXiv 1506.02142, equation 8.
    """
    exponents = (draws - targets[:, None]).square_().mul_(-0.5 * tau)
    return exponents.logsumexp(dim=1) - math.log(draws.shape[1]) + 0.5 * math.log(tau / (2 * math.pi))


def mixture_levels(draws: Tensor, targets: Tensor, tau: float) -> Tensor:
    """(rows,): the chance that the mixture of `log_densities` gives each target or less. Where this is .05 to .95 the
    target is in the central 90 % interval, whose ends need not be looked for."""
    return torch.special.ndtr((targets[:, None] - draws).mul_(math.sqrt(tau))).mean(dim=1)


def constant_log_likelihood(rmse: float) -> float:
    """Nats a row of a Gaussian whose standard deviation is the RMSE of what it is about."""
    return -math.log(rmse) - 0.5 * (1 + math.log(2 * math.pi)) if rmse > 0 else math.inf


def _sampled(network: nn.Module, rows: Part, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows, samples) and (rows,), float64, of a group of rows at a time, in the target's unit."""
    inputs, targets = torch.from_numpy(rows.inputs).float(), torch.from_numpy(rows.targets)
    at_once = max(1, _NUMBERS_AT_ONCE // samples)
    with chosen_by_rule():  # figures must not depend on timing
        sampler = prepare(network, inputs[:2], task="regression")
        kernel = sampler.kernels[0]
        for some, their in zip(inputs.split(at_once), targets.split(at_once), strict=True):
            draws = sampler.uncertainty(
                some, samples=samples, seed=SAMPLING_SEED, include_samples=True, kernel=kernel, method="sampled"
            ).draws  # a likelihood is of the samples themselves
            if draws is None:
                raise RuntimeError("the samples were asked for and did not come")
            yield draws[..., 0].double(), their
