"""Early stop: the rules, and the loop in which rows leave the batch as they settle.

What the rules mean stands in `service.statistics.confidence`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from service.errors import InvalidOption, cut, nearest
from service.sampling.option_values import real, shown, whole
from service.sampling.steps import Work
from service.statistics import BLOCK, Task
from service.statistics.settling import DecisionWatch, ToleranceWatch, Watch, least_for_decision
from service.statistics.stopped import StoppedRows
from service.statistics.summary import StopReason

DEFAULT_SAMPLES = 1000
_MAX_TOLERANCE, _MAX_ERROR = 0.5, 0.5
_DECIDE = ("above", "error")


@dataclass(frozen=True)
class Tolerance:
    """Stop a row once each of its means is known to ± `within` (anytime-valid, 95 % each)."""

    within: float
    reason: ClassVar[StopReason] = "tolerance"

    def watch(self, predicted: Callable[[], Tensor], shape: tuple[int, int, int], device: torch.device) -> Watch:
        samples, rows, columns = shape
        return ToleranceWatch(self.within, rows, columns, samples, device)


@dataclass(frozen=True)
class Decide:
    """Stop a row once it is settled whether the mean probability of its predicted class is above `above`; each answer
    is wrong with probability at most `error`. The class is the deterministic pass's."""

    above: float
    error: float
    reason: ClassVar[StopReason] = "decision"

    def watch(self, predicted: Callable[[], Tensor], shape: tuple[int, int, int], device: torch.device) -> Watch:
        return DecisionWatch(self.above, self.error, predicted().argmax(1))


StopRule = Tolerance | Decide


def stop_rule(
    task: Task, tolerance: float | None, decide: Decide | Mapping[str, float] | None, design: str | None,
    samples: int | None,
) -> StopRule | None:
    """The rule that a request asks for; None where it asks for none. design, samples: None where it does not say.

    InvalidOption, with the option's path, where the rule is out of range, not for this task, asked for with balanced
    samples, or could not settle within so many samples.
    """
    if tolerance is None and decide is None:
        return None
    name = "tolerance" if decide is None else "decide"
    if tolerance is not None and decide is not None:
        raise InvalidOption.at("decide", "give tolerance or decide, not both: a row stops for one reason")
    if task not in ("classification", "multilabel") or (task == "multilabel" and decide is not None):
        kind = "classification models" if decide is not None else "classification and multilabel models"
        raise InvalidOption.at(name, f"only for {kind}, this one is of the task {task}")
    if design not in (None, "iid"):
        raise InvalidOption.at(
            "design", f'{name} rests on independent samples: leave design out or say "iid", got {design!r}')
    if tolerance is not None:
        tolerance = real("tolerance", tolerance)
        if not 0 < tolerance < _MAX_TOLERANCE:
            raise InvalidOption.at("tolerance", f"a number between 0 and {_MAX_TOLERANCE} expected, got {tolerance!r}")
        return Tolerance(tolerance)
    assert decide is not None
    given = {key: getattr(decide, key) for key in _DECIDE} if isinstance(decide, Decide) else _fields(decide)
    rule = Decide(*(real(f"decide.{key}", given[key]) for key in _DECIDE))
    if not 0.5 <= rule.above < 1:
        raise InvalidOption.at("decide.above", f"a number from 0.5 to less than 1 expected, got {rule.above!r}")
    if not 0 < rule.error <= _MAX_ERROR:
        raise InvalidOption.at("decide.error", f"a number over 0, at most {_MAX_ERROR}, expected, got {rule.error!r}")
    least = least_for_decision(rule.above, rule.error)
    samples = DEFAULT_SAMPLES if samples is None else whole("samples", samples)
    if samples < least:
        raise InvalidOption.at(
            "samples", f"at least {least} are needed to decide above {rule.above!r} with error {rule.error!r}, "
                       f"got {samples}")
    return rule


def _fields(decide: Any) -> Mapping[str, Any]:
    if not isinstance(decide, Mapping):
        raise InvalidOption.at("decide", f'{{"above": 0.9, "error": 0.01}} expected, got {shown(decide)}')
    for key in decide:
        if key not in _DECIDE:
            name = str(key)
            raise InvalidOption.at(f"decide.{cut(name)}", f"not a field of decide{nearest(name, _DECIDE)}")
    for key in _DECIDE:
        if key not in decide:
            raise InvalidOption.at(f"decide.{key}", "missing")
    return decide


def until_settled(
    watch: Watch, task: Task, samples: int, rows: int, draw: Callable[[int, int, Tensor], Work[Tensor]], keep: bool,
    device: torch.device, ends: Callable[[int], bool] = lambda drawn: False,
    follower: Callable[[Callable[[], StoppedRows]], None] = lambda so_far: None,
) -> Work[StoppedRows]:
    """Draws samples of rows block by block; rows that the watch calls settled are not drawn again.

    draw: (first sample, most samples, places of the rows) to (samples, rows, columns), in whole blocks of 10 but for
    the very last. ends: by how many samples there are, whether the rows that are not settled end with them. follower:
    told after each block but the last how to learn what became of the rows so far. Holds what it drew, rows × samples
    × columns float32, until all rows have stopped: the limits of a tolerance move with the mean, and the statistics of
    a row are those of exactly its own samples.
    """
    seen = torch.empty(0)
    counts = torch.full((rows,), samples, device=device)
    sides, early = torch.zeros_like(counts), torch.zeros_like(counts, dtype=torch.bool)
    active, done = torch.arange(rows, device=device), 0

    def so_far() -> StoppedRows:
        now = counts.clone()
        now[active] = done
        return StoppedRows.of(seen, now, early, sides, task, keep=False)

    while done < samples and len(active):
        if done:
            follower(so_far)
            yield
            if ends(done):
                counts[active] = done
                break
        values = yield from draw(done, min(block(done, watch.least), samples - done), active)
        if not done:  # samples innermost in memory: a watch reads all samples of some rows and columns
            seen = values.new_empty(rows, values.shape[2], samples).permute(2, 0, 1)
        end = done + len(values)
        seen[done:end, active] = values
        at, side = watch.look(seen, done, end, active)
        stops = at > 0
        gone = active[stops]
        counts[gone], sides[gone], early[gone] = at[stops], side[stops], True
        active, done = active[~stops], end
    return StoppedRows.of(seen, counts, early, sides, task, keep)


def block(done: int, least: int) -> int:
    """How many samples to draw before the next look, in tens: at first as many as the quickest row needs, then an
    eighth of what there is, so that few are drawn in vain and few rows of few samples run."""
    wanted = least if not done else done // 8
    return max(BLOCK, -(-wanted // BLOCK) * BLOCK)
