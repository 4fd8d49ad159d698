"""How well a running mean is known, however often one looks: bets on samples in [0, 1].

Whoever bets against "the true mean is at most m" and must not lose more than the stake cannot grow rich if it is true:
the wealth K⁺(m) reaches 1/a with probability at most a, at any time (Ville 1939). So a row may be looked at after every
sample and stopped on what is seen, which no plug-in standard error allows: a mode of 3 % stays unseen in 30 samples
with probability 0.40, and every plug-in error is 0 then.

    K⁺(m) = Σ_j w_j Π_i (1 + θ_j (x_i/m - 1))            against "the mean is at most m"
    K⁻(m) = Σ_j w_j Π_i (1 - θ_j (x_i - m)/(1 - m))      against "the mean is at least m"

K⁻ of x at m is K⁺ of 1 - x at 1 - m, so only K⁺ is written here. All in float64 logarithms.
Source: Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86(1).
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, log, log1p

import torch
from torch import Tensor

STAKES = (1.0, 0.6, 0.35, 0.2, 0.1)  # θ: how much of the wealth each bettor puts on a sample
SHARES = (0.4, 0.2, 0.2, 0.1, 0.1)  # w: how the first coin is divided between the bettors
_LEAST_GROWTH = 1e-250  # nobody draws the samples that even this takes; with less their number would be no float


def log_wealth(values: Tensor, at: Tensor) -> Tensor:
    """log K⁺(at) of independent samples: evidence that their true mean is above `at`.

    Args:    values: (samples, …) in [0, 1], float64; at: (…) in (0, 1].
    Returns: (…). NaN where any sample is NaN. Falls as `at` rises.
    """
    growth = values / at - 1
    return mixed(torch.stack([torch.log1p(stake * growth).sum(0) for stake in STAKES]))


def mixed(log_bets: Tensor) -> Tensor:
    """The logarithm of all bettors' wealth together: (stakes, …) to (…)."""
    shares = torch.tensor(SHARES, dtype=log_bets.dtype, device=log_bets.device).log()
    return torch.logsumexp(log_bets + shares.view(-1, *[1] * (log_bets.dim() - 1)), 0)


def log_wealth_bounds(
    samples: Tensor, mean: Tensor, variance: Tensor, low: Tensor, high: Tensor, at: Tensor
) -> tuple[Tensor, Tensor]:
    """What log K⁺(at) is at least and at most, from moments alone: two tensors (…).

    Of all samples in [low, high] with that mean and variance, wealth is least where one of two points is `low`, and
    most where one is `high`, because the logarithm's third derivative is positive. So most looks need no sample again.
    Args:   samples: how many; mean, variance (ddof 0), low, high: of the samples; at: (…) over 0. All float64.
    Source: Karlin & Studden 1966, "Tchebycheff Systems", chapter IV (principal representations).
    """
    least, most = (_log_wealth_of_two_points(samples, mean, variance, end, low, high, at) for end in (low, high))
    return least, most


def _log_wealth_of_two_points(
    samples: Tensor, mean: Tensor, variance: Tensor, end: Tensor, low: Tensor, high: Tensor, at: Tensor
) -> Tensor:
    gap = end - mean
    spread = gap != 0
    share = torch.where(spread, variance / (variance + gap.square()), 0.0)  # of the samples that lie at `end`
    other = torch.where(spread, mean - variance / gap, mean).clamp(low, high)
    # xlogy: a share of 0 adds 0, even where the bet is lost for good
    return mixed(torch.stack([
        samples * (torch.special.xlogy(share, 1 + stake * (end / at - 1))
                   + torch.special.xlogy(1 - share, 1 + stake * (other / at - 1)))
        for stake in STAKES
    ]))


@lru_cache(maxsize=1024)
def least_samples(growth: float, log_wanted: float) -> int:
    """The fewest equal samples x with x/m - 1 = growth whose log K⁺(m) reaches log_wanted: no others reach it sooner.

    growth: over 0.
    """
    growth = max(growth, _LEAST_GROWTH)
    few, many = 0, 1
    while _log_wealth_of_equal(many, growth) < log_wanted:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if _log_wealth_of_equal(middle, growth) < log_wanted else (few, middle)
    return many


def _log_wealth_of_equal(samples: int, growth: float) -> float:
    logs = [log(share) + samples * log1p(stake * growth) for stake, share in zip(STAKES, SHARES, strict=True)]
    top = max(logs)
    return inf if top == inf else top + log(sum(exp(x - top) for x in logs))
