"""Which models leave so that another one fits."""

from __future__ import annotations

from collections.abc import Mapping

from service.repository.scan import Key


def to_unload(held: Mapping[Key, int], used: Mapping[Key, int], needed: int, budget: int) -> list[Key]:
    """The versions that go, least recently used first, so that `needed` bytes more fit into the budget.

    held: bytes of each that may go. used: when each was asked for last, as a number that only grows; never: 0.
    """
    free = budget - sum(held.values())
    gone = []
    for key in sorted(held, key=lambda key: used.get(key, 0)):
        if free >= needed:
            break
        gone.append(key)
        free += held[key]
    return gone
