"""Whether a server's answers are those of the digits network: looked at before anything is timed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.contenders import SAMPLES, Route
from benchmarks.http_connection import connecting
from benchmarks.load import closed_loop
from benchmarks.traffic import digit_rows

ROWS, CALLS = 8, 25
_PASSES = 200  # of SAMPLES samples each
_VARIANCE = (0.8, 1.25)  # of the reference's, pooled: what 25 calls tell by chance, and gross errors do not meet
_CHANCE, _SHARE_OF_STD, _ROUNDING = 6.0, 0.1, 1e-4


@dataclass(frozen=True)
class Truth:
    """mean, variance: (rows, classes), of samples. plain: probabilities with every dropout off."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    plain: NDArray[np.float64]


def truth() -> Truth:
    """By plain passes of the network itself."""
    os.environ.setdefault("THREADS", "1")
    from benchmarks.serving_peers.network import Digits

    digits = Digits()
    rows = torch.tensor(digit_rows(ROWS, 0), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts = [digits.repeated(rows) for _ in range(_PASSES)]
    mean = torch.stack([part[0] for part in parts]).double().mean(0).numpy()
    variance = torch.stack([part[1] for part in parts]).double().square().mean(0).numpy()
    return Truth(mean, variance, digits.plain(rows).double().numpy())


def wrong(port: int, route: Route, known: Truth) -> str:
    """Why this route's answers cannot be right; empty where they are plausible."""
    if route.read is None:
        return ""
    rows = digit_rows(ROWS, 0)
    requests = [route.request(rows[n % ROWS], n // ROWS) for n in range(ROWS * CALLS)]
    result = closed_loop(connecting("127.0.0.1", port), requests, 1, 120.0, most=len(requests), keep_bodies=True)
    if result.counts() != {"200": len(requests)}:
        return f"answers: {result.counts()}"
    answers = [route.read(json.loads(result.bodies[n])) for n in range(len(requests))]
    mean = np.stack([answer[0] for answer in answers]).reshape(CALLS, ROWS, -1)
    stds = [answer[1] for answer in answers if answer[1] is not None]
    if not stds:
        apart = float(np.abs(mean - known.plain).max())
        return f"probabilities are off by {apart:.2g}" if apart > _ROUNDING else ""
    return unlike(mean, np.stack(stds).reshape(CALLS, ROWS, -1), known)


def unlike(mean: NDArray[np.float64], std: NDArray[np.float64], known: Truth) -> str:
    """mean, std: (calls, rows, classes), each of SAMPLES samples."""
    if (std.max(-1) == 0).any():
        return "std is 0"
    ratio = float((std**2).mean() / known.variance.mean())
    if not _VARIANCE[0] <= ratio <= _VARIANCE[1]:
        return f"std is {ratio**0.5:.2f} of the true one"
    spread = np.sqrt(known.variance)
    allowed = np.maximum(_CHANCE * spread / (len(mean) * SAMPLES) ** 0.5, _SHARE_OF_STD * spread) + _ROUNDING
    if (np.abs(mean.mean(0) - known.mean) > allowed).any():
        return f"mean is off by {np.abs(mean.mean(0) - known.mean).max():.2g}"
    return ""
