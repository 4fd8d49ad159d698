"""The precision of the observation noise, fitted on rows that trained nothing."""

from __future__ import annotations

from torch import Tensor

ROUNDS = 1000
TOLERANCE = 1e-12


def fit_tau(draws: Tensor, targets: Tensor) -> float:
    """The tau, 1 / (target unit)², that makes `targets` most likely; noise_std is 1 / sqrt(tau).

    Expectation-maximisation on the mixture of `gaussian_mixture_log_likelihood`: each sample answers for a row by its
    likelihood, and the noise variance is the mean squared error so weighted. The spread of the samples explains part
    of the errors, so the noise found is smaller than the errors are; with a single sample it is the mean squared
    error itself. Few samples stand for the spread badly in its tails, and the noise is then too wide on average: with
    50 Gaussian samples by under 1 % where the spread is half the noise, by 5 % where they are equal, by 17 % where it
    is one and a half times the noise. ZeroDivisionError where every error is zero.

    Args: draws: (rows, samples, 1). targets: (rows, 1).
    Source: Dempster, Laird and Rubin 1977, J. R. Statist. Soc. B 39.
    """
    squares = (draws.double() - targets.double()[:, None, :]).square().sum(dim=-1)  # (rows, samples)
    tau = 1 / float(squares.mean())
    for _ in range(ROUNDS):
        shares = (-0.5 * tau * squares).softmax(dim=1)
        better = 1 / float((shares * squares).sum(dim=1).mean())
        if abs(better - tau) <= TOLERANCE * tau:
            return better
        tau = better
    return tau
