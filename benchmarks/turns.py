"""Times of calls that take turns, so that a machine whose speed drifts slows all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[int], object]  # takes its number

WARM_UP_CALLS, WARM_UP_S = 8, 1.0
TURNS, CALLS_A_TURN, CALL_S = 30, 8, 0.02
LEAST_TURNS = 3
HOPELESS = 3.0  # times the fastest: timed less often where calls are long


@dataclass(frozen=True)
class Timing:
    """Median of `calls` calls. calls = 1: the only call there was time for, not warmed up."""

    ms: float
    calls: int


def timed(calls: Mapping[str, Call], always: set[str], may_win: set[str], budget_s: float) -> dict[str, Timing]:
    """Times each of the calls, in another order every turn.

    always: get at least three turns after a warm-up, whatever it takes. may_win: so do these, of which the fastest is
    looked for, but where one takes over three times as long as it. Others get what the budget of seconds leaves.
    """
    first: dict[str, float] = {}
    warm: dict[str, float] = {}
    for name, call in calls.items():
        spent: list[float] = []
        while len(spent) < WARM_UP_CALLS and sum(spent) < WARM_UP_S:
            spent.append(_seconds(call, len(spent)))
        first[name], warm[name] = spent[0], min(spent)
    fastest = min((warm[name] for name in may_win), default=0.0)
    needed = [name for name in calls if name in always or (name in may_win and warm[name] <= HOPELESS * fastest)]
    others = [name for name in calls if name not in needed]
    bunch = {name: max(1, min(CALLS_A_TURN, int(CALL_S / warm[name]))) for name in calls}
    chosen = list(needed)
    for name in sorted(others, key=lambda name: warm[name]):
        if LEAST_TURNS * sum(warm[n] * bunch[n] for n in [*chosen, name]) <= budget_s:
            chosen.append(name)
    a_turn = sum(warm[name] * bunch[name] for name in chosen)
    turns = max(LEAST_TURNS, min(TURNS, int(budget_s / a_turn))) if chosen else 0
    seen: dict[str, list[float]] = {name: [] for name in chosen}
    number = dict.fromkeys(chosen, 0)
    for turn in range(turns):
        for name in random.Random(turn).sample(chosen, len(chosen)):
            for _ in range(bunch[name]):
                seen[name].append(_seconds(calls[name], number[name]))
                number[name] += 1
    return {
        name: Timing(statistics.median(seen[name]) * 1e3, len(seen[name])) if name in seen
        else Timing(first[name] * 1e3, 1)
        for name in calls
    }


def _seconds(call: Call, number: int) -> float:
    started = time.perf_counter()
    call(number)
    return time.perf_counter() - started
