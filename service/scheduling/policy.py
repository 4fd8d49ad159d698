"""Whose turn it is on the device. Decides from values it is handed; threads and clocks are the engine's."""

from __future__ import annotations

from collections.abc import Iterable

from service.scheduling.queue import Order, Ticket
from service.scheduling.run import Run

BATCH_S = 0.02
"""Most expected work that runs together where one job is not more by itself: what a job may wait for its mates."""
STEP_S = 0.01
"""Of work that takes longer, about how much runs before others get a turn."""


class Shares:
    """The device's time, by model, so that models with work get equal parts of it whatever the others' load."""

    def __init__(self) -> None:
        self._served_s: dict[str, float] = {}
        self._level_s = 0.0  # of the model that ran last

    def joins(self, model: str) -> None:
        """It has work, and had none: what it did not use meanwhile is not saved up."""
        self._served_s[model] = self._level_s

    def spent(self, model: str, seconds: float) -> None:
        self._level_s = self._served_s[model] = self.of(model) + seconds

    def of(self, model: str) -> float:
        return self._served_s.get(model, self._level_s)


def most_urgent(turns: Iterable[Ticket | Run], shares: Shares) -> Ticket | Run | None:
    """Higher priority first; then the model that had least of the device; then what is due first, then what came
    first."""

    def urgency(turn: Ticket | Run) -> tuple[int, float, Order]:
        return turn.order[0], shares.of(turn.model.name), turn.order

    return min(turns, key=urgency, default=None)
