"""What work takes: learned while models are warmed and with every batch since."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable

_LEARNING_RATE = 0.2  # follows a machine whose speed drifts, not one slow batch
_MOST_SURPRISE = 4.0  # times what was expected, that one batch may count for
_STEADY = 4.0
_ALL_OF_FIRST, _THEN_EVERY = 32, 16


class Costs:
    """Seconds by kind of work and its size in passes. Small work carries its fixed cost and large work is cheaper a
    pass, so sizes are told apart by their power of two; between those that were seen it interpolates."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Hashable, dict[int, float]] = defaultdict(dict)  # by kind, by size, a pass
        self._turns: Counter[Hashable] = Counter()
        self._steady: dict[tuple[Hashable, int], float] = {}  # by kind and size, a pass

    def wants(self, kind: Hashable) -> bool:
        """Whether to measure what is about to run, where measuring has a cost: at first always, then now and then."""
        self._turns[kind] += 1
        return self._turns[kind] <= _ALL_OF_FIRST or self._turns[kind] % _THEN_EVERY == 0

    def learn(self, kind: Hashable, passes: int, seconds: float) -> None:
        """passes: that were computed together, at least 1."""
        known, size = self._seconds[kind], passes.bit_length()
        seen, before = seconds / passes, known.get(size)
        if before is None or seen < before:  # the first run of a size carries what is made once
            known[size] = seen
        else:
            known[size] = before + _LEARNING_RATE * (min(seen, _MOST_SURPRISE * before) - before)

    def steady_s(self, kind: Hashable, passes: int) -> float:
        """As `estimate_s`, and the same from one time to the next unless it is off by a factor of four: work that is
        cut into parts by it is cut alike each time, and its answer has the same last bits."""
        place, now = (kind, passes.bit_length()), self.estimate_s(kind, passes) / passes
        before = self._steady.get(place, 0.0)
        if not before / _STEADY <= now <= before * _STEADY:
            before = self._steady[place] = now
        return passes * before

    def estimate_s(self, kind: Hashable, passes: int) -> float:
        """0 where nothing is known of the kind."""
        known = self._seconds.get(kind)
        if not known:
            return 0.0
        size = passes.bit_length()
        if size in known:
            return passes * known[size]
        below = max((s for s in known if s < size), default=None)
        above = min((s for s in known if s > size), default=None)
        if below is None:  # smaller than all that was seen: it is no cheaper than its fixed cost, which nobody knows
            assert above is not None
            return known[above] * 2 ** (above - 1)
        if above is None:
            return passes * known[below]
        share = (size - below) / (above - below)
        return passes * float(known[below] ** (1 - share) * known[above] ** share)
