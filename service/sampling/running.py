"""All samples of some rows: the prefix once, then chunks of samples through the suffix and into the statistics."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from service.sampling.arming import Inputs
from service.sampling.bank import Draw
from service.sampling.chunks import shared_out
from service.sampling.device import roomy
from service.sampling.kernels import Kernel, tiles
from service.sampling.memory import Room, in_cuts
from service.sampling.options import Asked
from service.sampling.outputs import Checks, Outputs, SampleAccumulator
from service.sampling.progress import Progress
from service.sampling.rows import part_of, row_count
from service.sampling.steps import Work
from service.statistics import Method

PREFIX_BYTES = 32 << 20  # values of the prefix that are held while all samples run


class Runner:
    """general: the kernel that runs whatever another cannot. room: how much runs at once. outputs: what becomes of
    what the kernels give."""

    def __init__(self, general: Kernel, room: Room, outputs: Outputs) -> None:
        self.general, self.room, self.outputs = general, room, outputs

    def accumulated(self, rows: Inputs, asked: Asked, kernel: Kernel, method: Method) -> Work[list[SampleAccumulator]]:
        """Runs all samples of all rows, or as many as its pace leaves time for. An accumulator for each part of the
        rows, in order."""
        # as many rows share what is made of the masks as their values of the prefix may take of memory
        device = next(iter(rows.values())).device
        group = max(kernel.rows, roomy(PREFIX_BYTES, device) // (4 * kernel.split.prefix_width))
        checks, count = Checks(device), row_count(rows)
        follower = asked.pace.follower
        progress = None
        if follower is not None and method != "closed_form":  # which has no samples on its way
            progress = Progress(self.outputs, asked.design == "balanced", method, asked.samples, follower)

        def run(part: range) -> Work[list[SampleAccumulator]]:
            return self._group(part_of(rows, part), asked.of(part), part.stop / count, kernel, method, checks, progress)

        groups = yield from self.room.through(count, group, run)
        checks.settle()
        return [accumulator for accumulators in groups for accumulator in accumulators]

    def _group(
        self, rows: Inputs, asked: Asked, share: float, kernel: Kernel, method: Method, checks: Checks,
        progress: Progress | None,
    ) -> Work[list[SampleAccumulator]]:
        """share: of all rows of the request, those that are done with these."""
        room, read = self.room, self.outputs.read
        parts = tiles(row_count(rows), room.rows(kernel.rows))
        most = len(parts[0])
        size, at_once, kernel = shared_out(kernel, self.general, room, most, asked)
        room.using(most)
        read_by_suffix = [kernel.split.prefix.forward(*part_of(rows, part).values()) for part in parts]
        balanced = asked.design == "balanced"
        accumulators = [self.outputs.accumulator(balanced, asked.keep, method) for _ in parts]
        if progress is not None:
            progress.begin(len(parts), last=share == 1)

        def run_chunk(first: int) -> Work[None]:  # what it makes of masks is gone before the next chunk makes its own
            samples = min(size, asked.samples - first)
            shared = None if asked.per_row else _drawn(kernel, asked, first, samples)
            for i, (part, given) in enumerate(zip(parts, read_by_suffix, strict=True)):
                if part.start:
                    yield
                room.using(most, at_once)
                drawn = shared or _drawn(kernel, asked.of(part), first, samples)
                output = in_cuts(kernel, given, len(part), samples, drawn, at_once)
                values = output if kernel.normalised else read(output)
                values = values.reshape(samples, len(part), -1)
                accumulators[i].add(values)
                if progress is not None:
                    yield from progress.add(i, values)

        for first in range(0, asked.samples, size):
            if first:
                yield
                if asked.pace.ends(first, share):
                    break
            yield from run_chunk(first)
        for accumulator in accumulators:
            checks.finished(accumulator)
        if progress is not None:
            progress.end()
        return accumulators


def _drawn(kernel: Kernel, asked: Asked, first: int, samples: int) -> list[Tensor]:
    """What the kernel needs of the masks of all rows that are asked about."""
    draw = Draw(asked.design, asked.seed, first, samples, asked.samples)
    if asked.seeds is None:
        return kernel.drawn(draw, asked.places)
    seeds, place = np.unique(asked.seeds, return_inverse=True)
    of_each, rows = [kernel.drawn(draw._replace(seed=seed), None) for seed in seeds.tolist()], torch.from_numpy(place)
    return [torch.cat(of_site, 1).index_select(1, rows) for of_site in zip(*of_each, strict=True)]
