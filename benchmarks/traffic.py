"""Who asks what, and when: requests as bytes, and arrivals drawn from a seed before the first one is sent."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 2_000_000  # arrivals: what a run may hold in memory


@dataclass(frozen=True)
class Part:
    """One kind of client in a mix. It sends its requests (whole HTTP requests) one after the other, over and over.

    weight: how many of its kind come, against the other parts. leaving: the share of them that close the connection
    when their answer takes longer than they wait; how long that is, is exponential with the mean patience_s.
    """

    name: str
    requests: Sequence[bytes]
    weight: float = 1.0
    leaving: float = 0.0
    patience_s: float = 0.1


@dataclass(frozen=True)
class Arrivals:
    """at_s: rising, seconds from the start. part: the place of each one's part in `parts`. patience_s: how long it
    waits before it leaves, inf where it stays. seconds: how long arrivals went on."""

    parts: tuple[str, ...]
    at_s: NDArray[np.float64]
    part: NDArray[np.int16]
    requests: Sequence[bytes]
    patience_s: NDArray[np.float64]
    seconds: float


def poisson(mix: Sequence[Part], rate: float, seconds: float, seed: int, most: int = MOST) -> Arrivals:
    """Independent clients, `rate` a second on average: gaps are exponential, so they also come in bunches.

    Ends after `seconds` or after `most` arrivals, whichever is first; same seed, same arrivals. ValueError where the
    mix is empty, or a rate or a time is not positive.
    """
    if not mix or rate <= 0 or seconds <= 0:
        raise ValueError(f"a mix, a rate and a time above 0 expected, got {len(mix)} parts, {rate}/s, {seconds} s")
    draw = np.random.default_rng(seed)
    count = int(draw.poisson(rate * seconds))
    at_s = np.sort(draw.uniform(0.0, seconds, count))
    if count > most:
        at_s, count, seconds = at_s[:most], most, float(at_s[most])
    weights = np.array([part.weight for part in mix], dtype=np.float64)
    chosen = draw.choice(len(mix), count, p=weights / weights.sum()).astype(np.int16)
    leaves = draw.random(count) < np.array([part.leaving for part in mix])[chosen]
    waits = draw.exponential(1.0, count) * np.array([part.patience_s for part in mix])[chosen]
    sent = [0] * len(mix)
    requests = []
    for place in chosen.tolist():
        requests.append(mix[place].requests[sent[place] % len(mix[place].requests)])
        sent[place] += 1
    return Arrivals(tuple(part.name for part in mix), at_s, chosen, requests, np.where(leaves, waits, inf), seconds)


def http_post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole request with that body, JSON unless the headers say otherwise; the connection stays open."""
    given = {"Host": "127.0.0.1", "Content-Type": "application/json", **(headers or {}),
             "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def digit_rows(rows: int, number: int) -> list[list[int]]:
    """Rows for the bundled model `digits`: strokes and noise, 8×8 pixels of 0 to 16. Same number, same rows."""
    draw = random.Random(number)
    made = []
    for _ in range(rows):
        image = [[draw.choice((0, 0, 0, 1, 2)) for _ in range(8)] for _ in range(8)]
        for _ in range(draw.randint(2, 4)):
            x, y, dx, dy = draw.randint(2, 5), draw.randint(0, 3), draw.choice((-1, 0, 0, 1)), draw.choice((0, 1, 1))
            for step in range(draw.randint(3, 6)):
                image[min(7, y + step * dy)][min(7, max(0, x + step * dx))] = draw.randint(10, 16)
        made.append([pixel for line in image for pixel in line])
    return made


def native_posts(
    mode: str, rows: int, bodies: int = 64, seeds: int = 8, model: str = "digits", **options: Any
) -> list[bytes]:
    """Requests of the native routes with as many different bodies; the seeds of uncertainty rotate beside them."""
    asked = []
    for number in range(bodies):
        body: dict[str, Any] = {"instances": digit_rows(rows, number), **options}
        if mode == "uncertainty":
            body["seed"] = number % seeds
        asked.append(http_post(f"/v1/models/{model}:{mode}", json.dumps(body, separators=(",", ":")).encode()))
    return asked
