"""How much patience there is with one connection: pure functions of time and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reading = Literal["idle", "head", "body", "nothing"]
_LINGER_S = 2.0  # for a refused client to read why, before the connection is cut
_SLOWEST = 1024  # bytes a second: who reads an answer slower than that does not read it


@dataclass(frozen=True)
class ConnectionLimits:
    """connections: most at once. header_bytes: of a request's address and headers together. head_s, body_s: for a
    request's head and body to come whole. keep_alive_s: for the next request to begin. unread_s: an answer of which so
    long next to nothing is read is given up."""

    connections: int
    header_bytes: int
    headers: int
    head_s: float
    body_s: float
    keep_alive_s: float
    unread_s: float

    @property
    def sweep_s(self) -> float:
        """How often to look: a quarter of the shortest deadline, at most a second, at least 50 ms."""
        return max(0.05, min(1.0, *(s / 4 for s in (self.head_s, self.body_s, self.keep_alive_s, self.unread_s))))


def overdue(reading: Reading, waited_s: float, limits: ConnectionLimits) -> bool:
    """Whether a connection that has been reading this for so long has had its time."""
    allowed_s = {"idle": limits.keep_alive_s, "head": limits.head_s, "body": limits.body_s, "nothing": _LINGER_S}
    return waited_s > allowed_s[reading]


def too_slow(read_bytes: int, waited_s: float, limits: ConnectionLimits) -> bool:
    """Whether a client that read so much of what is written for it, in so long, does not read it."""
    return waited_s > limits.unread_s and read_bytes < _SLOWEST * waited_s
