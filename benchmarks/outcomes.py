"""What became of the requests of one run: counts, latencies from the intended time of arrival, goodput."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEFT, CLOSED, REFUSED, UNANSWERED, UNREADABLE = -1, -2, -3, -4, -5
WORDS = {
    LEFT: "left",              # the client closed the connection, as its part of the mix says
    CLOSED: "closed",          # the server closed it before the answer was whole
    REFUSED: "refused",        # no connection could be made
    UNANSWERED: "unanswered",  # the run ended before
    UNREADABLE: "unreadable",  # not an HTTP response with a length
}


@dataclass(frozen=True)
class Percentiles:
    """Latencies in ms; NaN where there was no answer."""

    count: int
    p50: float
    p99: float
    p999: float
    greatest: float


@dataclass(frozen=True)
class Result:
    """An entry a request, in the order they were intended; seconds from the start of the run.

    intended_s: when it should have been sent; asked_s: when the generator came to it. Between the two the generator
    itself was late: a run where that is not small against the latencies says nothing of the server. ended_s: when its
    last byte was read, or it was given up. outcome: the status, or one of the negative numbers above. seconds: how
    long requests were sent. held: requests that waited for one of the allowed connections. cpu_s: what the generator
    itself used. bodies: of answers, by entry, where they were asked for.
    """

    parts: tuple[str, ...]
    part: NDArray[np.int16]
    intended_s: NDArray[np.float64]
    asked_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    outcome: NDArray[np.int16]
    seconds: float
    held: int
    cpu_s: float
    bodies: Mapping[int, bytes]

    def counts(self, part: str | None = None) -> dict[str, int]:
        """Requests by status or by the word for what else became of them."""
        found = Counter(self.outcome[self._of(part)].tolist())
        return {WORDS.get(key, str(key)): found[key] for key in sorted(found, reverse=True)}

    def latencies_ms(self, status: int = 200, part: str | None = None) -> NDArray[np.float64]:
        """From the intended arrival to the last byte, so that a stalled server delays every request that was due
        meanwhile, not only those that were sent (no coordinated omission)."""
        chosen = (self.outcome == status) & self._of(part)
        return (self.ended_s[chosen] - self.intended_s[chosen]) * 1e3

    def percentiles(self, status: int = 200, part: str | None = None) -> Percentiles:
        latencies = self.latencies_ms(status, part)
        if not len(latencies):
            return Percentiles(0, *[float("nan")] * 4)
        p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9], method="higher")
        return Percentiles(len(latencies), float(p50), float(p99), float(p999), float(latencies.max()))

    def goodput(self, status: int = 200) -> float:
        """Such answers a second, while requests were sent."""
        return float(((self.outcome == status) & (self.ended_s <= self.seconds)).sum() / self.seconds)

    @property
    def late_ms(self) -> float:
        """99th percentile of how late the generator itself was."""
        return float(np.percentile((self.asked_s - self.intended_s) * 1e3, 99)) if len(self.asked_s) else 0.0

    def after(self, warm_up_s: float) -> Result:
        """Without the requests that were due in the first seconds."""
        chosen = np.flatnonzero(self.intended_s >= warm_up_s)
        place = {int(old): new for new, old in enumerate(chosen)}
        return replace(
            self, part=self.part[chosen], outcome=self.outcome[chosen], seconds=self.seconds - warm_up_s,
            intended_s=self.intended_s[chosen] - warm_up_s, asked_s=self.asked_s[chosen] - warm_up_s,
            ended_s=self.ended_s[chosen] - warm_up_s,
            bodies={place[i]: body for i, body in self.bodies.items() if i in place},
        )

    def as_dict(self) -> dict[str, Any]:
        """What a report keeps, for JSON; a latency that there is not is None."""
        latencies = {name: None if value != value else value for name, value in asdict(self.percentiles()).items()}
        return {
            "requests": len(self.outcome), "outcomes": self.counts(), "latency_ms": latencies,
            "goodput": self.goodput(), "seconds": self.seconds, "held": self.held, "generator_late_ms": self.late_ms,
            "generator_cpu_s": self.cpu_s,
        }

    def _of(self, part: str | None) -> NDArray[np.bool_]:
        if part is None:
            return np.ones(len(self.part), dtype=np.bool_)
        return self.part == self.parts.index(part)
