"""Whether a way's mean and std are those of the network with its dropout on, by measurement.

The reference is thousands of plain passes, one mask a pass and row, of a few rows. A way is asked for the same rows,
one of them alone and all in one batch, over and over; it is *right* if
- its variance, pooled over rows and classes, is the reference's within 3 % or four standard errors of the comparison;
- its means are the reference's within what chance explains, or within a tenth of the std;
- the network's weights and buffers are afterwards what they were.
Small differences drown, gross ones do not: dropout left out, batch statistics, an answer kept for another input.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.compared_networks import Network, dropout_on
from benchmarks.peers import SAMPLES, Way

ROWS = 8  # of the reference
_CHUNK = 50  # passes at once
_VARIANCE_TOLERANCE, _STANDARD_ERRORS = 0.06, 4.0  # of the variance: 3 % of the std
_CHANCE, _SHARE_OF_STD = 6.0, 0.1
_CANDIDATES, _AVERAGED = 9, 8


@dataclass(frozen=True)
class Moments:
    """mean, variance: (rows, classes), over all samples. parts: pooled variance of each chunk or call."""

    mean: Tensor
    variance: Tensor
    parts: Tensor
    samples: int


@dataclass(frozen=True)
class Verdict:
    """reason: why it is wrong; empty if right. std_ratio: of the reference's, pooled; the worse one."""

    reason: str
    std_ratio: float

    @property
    def right(self) -> bool:
        return not self.reason


def reference(network: Network, passes: int) -> Moments:
    """Of `ROWS` rows, input 0. Rows are repeated: every pass and row has masks of its own."""
    module = dropout_on(network.made(), network.sites is not None)
    x = network.input(ROWS, 0)
    calls = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for _ in range(-(-passes // _CHUNK)):
            logits = module(x.repeat(_CHUNK, *[1] * (x.dim() - 1))).unflatten(0, (_CHUNK, -1))
            draws = logits.softmax(-1).double()
            calls.append((draws.mean(0), draws.std(0)))
    return _moments(calls, _CHUNK)


def verdict(network: Network, way: Way, truth: Moments, calls: int) -> Verdict:
    """calls: alone, and as many in company, by turns, each with a tensor of its own."""
    before = [value.clone() for value in way.module.state_dict().values()]
    company = network.input(ROWS, 0)
    asked = {"alone": (company[:1], 1), "in company": (company, ROWS)}
    answers: dict[str, list[tuple[Tensor, Tensor]]] = {where: [] for where in asked}
    for number in range(calls):
        for where, (inputs, rows) in asked.items():
            mean, std = way.call(inputs.clone(), number)
            answers[where].append((mean[:rows].double(), std[:rows].double()))
    found = [_compared(_moments(answers[where], SAMPLES), truth, rows, where) for where, (_, rows) in asked.items()]
    reasons = [each.reason for each in found if each.reason]
    after = way.module.state_dict().values()
    if any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        reasons.append("it changes the model's buffers")
    return Verdict("; ".join(reasons), max((each.std_ratio for each in found), key=lambda ratio: abs(ratio - 1)))


def reason_in_company(network: Network, way: Way, truth: Moments, rows: int, calls: int, patience_s: float) -> str:
    """Why it is wrong in a batch of that many rows; empty where right, or where so many calls take too long."""
    others = network.input(rows, 0)[ROWS:]
    batch = torch.cat([network.input(ROWS, 0), others])
    answers: list[tuple[Tensor, Tensor]] = []
    started = time.monotonic()
    for number in range(calls):
        mean, std = way.call(batch.clone(), number)
        answers.append((mean[:ROWS].double(), std[:ROWS].double()))
        if time.monotonic() - started > patience_s / calls * (number + 1):
            return ""
    return _compared(_moments(answers, SAMPLES), truth, ROWS, f"among {rows} rows").reason


def keeps_a_stale_answer(network: Network, way: Way) -> bool:
    """Whether an input tensor that is filled anew in place gets the answer of what it held before."""

    def answer(x: Tensor, calls: int = _AVERAGED) -> Tensor:
        return torch.stack([way.call(x, number)[0] for number in range(calls)]).mean(0)

    buffer = network.input(1, 0).clone()
    before = answer(buffer)
    others = [network.input(1, number) for number in range(1, _CANDIDATES)]
    # the answer furthest away, so that chance is not taken for staleness
    other = max(others, key=lambda x: float((answer(x, 1) - before).abs().sum()))
    anew = answer(other)
    way.call(buffer, 0)
    buffer.copy_(other)
    refilled = answer(buffer)
    return float((refilled - before).abs().sum()) < float((refilled - anew).abs().sum())


def _moments(calls: list[tuple[Tensor, Tensor]], samples: int) -> Moments:
    means, stds = (torch.stack(parts) for parts in zip(*calls, strict=True))
    variances = stds.square()
    return Moments(means.mean(0), variances.mean(0), variances, samples * len(calls))


def _compared(found: Moments, truth: Moments, rows: int, where: str) -> Verdict:
    pooled, expected = float(found.variance.sum()), float(truth.variance[:rows].sum())
    if not math.isfinite(pooled) or pooled == 0:
        return Verdict(f"std is {math.sqrt(pooled):g} {where}", 0.0)
    ratio = pooled / expected
    exact = _relative_error(truth.parts[:, :rows])
    # few calls tell little of how they scatter; independent ones would scatter as the reference's chunks do
    error = math.hypot(max(_relative_error(found.parts), exact * math.sqrt(len(truth.parts) / len(found.parts))), exact)
    std_ratio = math.sqrt(ratio)
    if abs(ratio - 1) > max(_VARIANCE_TOLERANCE, _STANDARD_ERRORS * error):
        return Verdict(f"std is {std_ratio:.2f} of the true one {where}", std_ratio)
    apart = (found.mean - truth.mean[:rows]).square()
    chance = truth.variance[:rows] * (1 / found.samples + 1 / truth.samples)
    if float(apart.sum() / chance.sum()) > _CHANCE and float(apart.sum()) > _SHARE_OF_STD**2 * expected:
        return Verdict(f"means are {math.sqrt(float(apart.sum()) / expected):.1f} std off {where}", std_ratio)
    return Verdict("", std_ratio)


def _relative_error(parts: Tensor) -> float:
    """Standard error of the pooled variance, as a share of it. parts: (calls, rows, classes)."""
    sums = parts.flatten(1).sum(1)
    return float(sums.std() / sums.mean() / math.sqrt(len(sums)))
