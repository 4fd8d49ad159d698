"""How often something may happen: a token bucket, as a pure function of the time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bucket:
    """tokens: how many there were at the time `at_s`."""

    tokens: float
    at_s: float


def burst(rate: float) -> float:
    """How many may come at once where `rate` a second may come: those of one second, at least one."""
    return max(1.0, rate)


def take(bucket: Bucket | None, now_s: float, rate: float) -> tuple[Bucket, float]:
    """Takes a token if there is one. Returns the bucket after it, and 0.0, or else the seconds until there is one.

    rate: tokens that come a second; a bucket holds `burst(rate)` of them. None is one that nobody took from yet."""
    most = burst(rate)
    tokens = most if bucket is None else min(most, bucket.tokens + max(0.0, now_s - bucket.at_s) * rate)
    if tokens >= 1.0:
        return Bucket(tokens - 1.0, now_s), 0.0
    return Bucket(tokens, now_s), (1.0 - tokens) / rate
