"""Samples of rows that may stop early: only those that have not are run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from service.sampling.arming import Inputs
from service.sampling.bank import Draw
from service.sampling.chunks import shared_out
from service.sampling.kernels import Kernel, tiles
from service.sampling.memory import in_cuts
from service.sampling.options import Asked
from service.sampling.outputs import finite
from service.sampling.progress import all_finite
from service.sampling.rows import part_of, row_count
from service.sampling.running import PREFIX_BYTES, Runner
from service.sampling.split import Split
from service.sampling.steps import Work
from service.sampling.stopping import StopRule, until_settled
from service.statistics import StoppedUncertainty
from service.statistics.stopped import StoppedRows

SEEN_BYTES = 64 << 20  # samples that are kept of rows that run together, until all of them have stopped


def stopped(
    runner: Runner, rows: Inputs, asked: Asked, rule: StopRule, choose: Callable[[int], Kernel],
    predict: Callable[[Inputs], Tensor],
) -> Work[StoppedUncertainty]:
    """Runs rows until each has settled or has all samples. choose: the kernel for so many rows, always one of the
    general kernel's split. predict: the deterministic pass."""
    samples, outputs, device = asked.samples, runner.outputs, next(iter(rows.values())).device
    columns = math.prod(outputs.shape)
    group = max(1, min(PREFIX_BYTES // (4 * runner.general.split.prefix_width), SEEN_BYTES // (4 * samples * columns)))

    count, follower = row_count(rows), asked.pace.follower
    groups: list[StoppedRows] = []

    def answer(so_far: Sequence[StoppedRows]) -> StoppedUncertainty:
        return StoppedUncertainty(so_far, outputs.shape, samples, rule.reason)

    def told(group: Callable[[], StoppedRows]) -> None:
        if follower is not None:
            follower(lambda: all_finite(answer([*groups, group()])))

    def run(part: range) -> Work[None]:
        some, here = part_of(rows, part), asked.of(part)
        watch = rule.watch(partial(predict, some), (samples, len(part), columns), device)
        draw = _drawing(runner, some, here, choose)
        groups.append((yield from until_settled(
            watch, outputs.task, samples, len(part), draw, asked.keep, device,
            lambda drawn: asked.pace.ends(drawn, part.stop / count), told)))

    yield from runner.room.through(count, group, run)
    return answer(groups)


def _drawing(
    runner: Runner, rows: Inputs, asked: Asked, choose: Callable[[int], Kernel]
) -> Callable[[int, int, Tensor], Work[Tensor]]:
    """What draws the samples of those of `rows` that still sample: see `until_settled`."""
    room, read = runner.room, runner.outputs.read
    remaining = Remaining(runner.general.split, rows, runner.general.rows)

    def draw(first: int, most: int, active: Tensor) -> Work[Tensor]:
        remaining.keep(active)
        kernel = choose(len(active))
        parts = tiles(len(active), room.rows(kernel.rows))
        widest = len(parts[0])
        size, at_once, kernel = shared_out(kernel, runner.general, room, widest, asked, most)
        # the bank keeps the first samples for the next request, though more may be needed
        some = Draw("iid", asked.seed, first, size, first + size)
        shared = None if asked.per_row else kernel.drawn(some, None)
        outputs = []
        for part in parts:
            if part.start:
                yield
            room.using(widest, at_once)
            places = None if asked.places is None else asked.places[active[part.start : part.stop].cpu().numpy()]
            drawn = shared or kernel.drawn(some, places)
            output = in_cuts(kernel, remaining.tile(part), len(part), size, drawn, at_once)
            outputs.append((output if kernel.normalised else read(output)).reshape(size, len(part), -1))
        return finite(torch.cat(outputs, 1))

    return draw


class Remaining:
    """What the prefix gives for the rows that still sample."""

    def __init__(self, split: Split, inputs: Inputs, at_once: int) -> None:
        """at_once: rows that run through the prefix together."""
        self._layouts = split.prefix_layouts
        count = row_count(inputs)
        made = [split.prefix.forward(*part_of(inputs, part).values()) for part in tiles(count, at_once)]
        self._values: list[Tensor] = [
            values[0] if layout is None else layout.together(values)
            for values, layout in zip(zip(*made, strict=True), self._layouts, strict=True)
        ]
        self._rows = torch.arange(count, device=next(iter(inputs.values())).device)

    def keep(self, rows: Tensor) -> None:
        """Leaves out all but these places, ascending, of the rows at the start."""
        if len(rows) == len(self._rows):
            return
        where = torch.searchsorted(self._rows, rows)
        self._values = [
            value if layout is None else layout.picked(value, where)
            for value, layout in zip(self._values, self._layouts, strict=True)
        ]
        self._rows = rows

    def tile(self, part: range) -> list[Tensor]:
        """Of the rows that remain, the ones from part.start on."""
        if len(part) == len(self._rows):
            return self._values
        return [
            value if layout is None else layout.part(value, part)
            for value, layout in zip(self._values, self._layouts, strict=True)
        ]
