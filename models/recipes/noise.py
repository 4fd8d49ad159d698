"""The precision of the observation noise, fitted on rows that trained nothing."""

from __future__ import annotations

import math

from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from torch import Tensor

from models.recipes.evaluation import gaussian_mixture_log_likelihood


def fit_tau(draws: Tensor, targets: Tensor) -> float:
    """The tau, 1 / (target unit)², that makes `targets` most likely; noise_std is 1 / sqrt(tau).

    Sought between a hundredth and a hundred times the precision of the mean's errors. The spread of the samples
    explains part of the errors, so the noise found with them is smaller than the errors are. For a single sample
    it is 1 / mean squared error, to 1e-6 relative.

    Args: draws: (rows, samples, 1). targets: (rows, 1).
    """
    errors = draws.double().mean(dim=1) - targets.double()
    centre = -math.log(float(errors.square().mean()))
    found = minimize_scalar(
        lambda log_tau: -gaussian_mixture_log_likelihood(draws, targets, math.exp(log_tau)),
        bounds=(centre - math.log(100), centre + math.log(100)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))
