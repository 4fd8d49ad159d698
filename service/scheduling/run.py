"""A batch under way: jobs whose rows run together, part by part."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from math import prod

import numpy as np
import torch

from service import events
from service.clock import Clock
from service.repository import ReadyModel
from service.sampling.steps import Pace, Steps
from service.scheduling.answers import prediction, sampled, shared_out, so_far, uncertainty
from service.scheduling.job import Answer, Job, Options, Watcher
from service.scheduling.queue import Order, Ticket
from service.statistics import Uncertainty

_ANSWER_S, _A_NUMBER_S = 0.005, 1e-5


def answer_s(job: Job) -> float:
    """Kept free before a deadline for statistics, their JSON and the answer's way. Of a thousand rows of ten classes
    they take a tenth of a second."""
    return _ANSWER_S + _A_NUMBER_S * job.rows * prod(job.model.sampler.output_shape)


class Run:
    """tickets: of one key. Not thread-safe: one thread at a time, that has the device."""

    def __init__(self, tickets: Sequence[Ticket], clock: Clock, step_samples: int | None) -> None:
        """step_samples: of a row in one part, at most; None where memory alone bounds it."""
        self.tickets, self._clock = tickets, clock
        self.started = clock.now()
        self.spent_s = self._last_s = 0.0  # in all, and in the last part that sampled
        self.busy_s, self.measured = 0.0, False  # of a thread's own time, where that is measured
        self._jobs = [ticket.job for ticket in tickets]
        self._retries = self.model.sampler.out_of_memory_retries
        self._steps: Steps[torch.Tensor] | Steps[Uncertainty] = self._begun(step_samples)

    @property
    def model(self) -> ReadyModel:
        return self.tickets[0].job.model

    @property
    def order(self) -> Order:
        return self.tickets[0].order

    @property
    def kind(self) -> Hashable:
        return self._jobs[0].kind

    @property
    def passes(self) -> int:
        """As they were expected, should no row stop early."""
        return sum(job.passes for job in self._jobs)

    @property
    def is_watched(self) -> bool:
        return self._jobs[0].watcher is not None

    @property
    def cost_s(self) -> float:
        return sum(ticket.cost_s for ticket in self.tickets)

    def step(self) -> bool:
        """Runs the next part; False once there is an answer. Raises what the model raises."""
        started = self._clock.now()
        try:
            return self._steps.step()
        finally:
            took_s = self._clock.now() - started
            # of one that is watched, parts that sample take turns with parts that tell
            self._last_s = max(took_s, self._last_s) if self.is_watched else took_s
            self.spent_s += took_s

    def answers(self) -> tuple[list[Answer], list[events.Event]]:
        """Of a run that is done: an answer for each ticket, and what there is to count."""
        first = self._jobs[0]
        ran = self._clock.now()
        result = self._steps.result
        happened: list[events.Event] = [
            events.BatchRan(self.model.name, first.mode, len(self._jobs), sum(job.rows for job in self._jobs))]
        if first.options is None:
            assert isinstance(result, torch.Tensor)
            whole = prediction(result)
        else:
            assert not isinstance(result, torch.Tensor)
            whole = uncertainty(self.model.manifest.task, first.options, result)
            happened.append(sampled(self._jobs, whole))
        summary_s = self._clock.now() - ran
        device_s, self.spent_s = self.spent_s, self.spent_s + summary_s
        timings = [
            {"queue": self.started - ticket.queued_at, "device": device_s, "summary": summary_s}
            for ticket in self.tickets
        ]
        return shared_out(whole, self._jobs, timings), happened

    def retries(self) -> list[events.Event]:
        """Whether memory ran out since it was last asked."""
        before, self._retries = self._retries, self.model.sampler.out_of_memory_retries
        times = self._retries - before
        return [events.OutOfMemoryRetried(self.model.name, times)] if times else []

    def _begun(self, step_samples: int | None) -> Steps[torch.Tensor] | Steps[Uncertainty]:
        sampler, options = self.model.sampler, self._jobs[0].options
        if len(self._jobs) == 1:
            inputs = self._jobs[0].tensors
        else:
            inputs = tuple(torch.cat(parts) for parts in zip(*(job.tensors for job in self._jobs), strict=True))
        if options is None:
            return sampler.predicting(inputs)
        watcher, cut = self._jobs[0].watcher, self._is_cut if self._jobs[0].partial else None
        return sampler.sampling(
            inputs, options.samples, self._seed(), options.masks, options.design, options.keeps_samples,
            self._places() if options.masks == "independent" else 0, method=options.method,
            tolerance=options.tolerance, decide=options.decide,
            pace=Pace(step_samples, cut, None if watcher is None else partial(self._show, watcher, options)),
        )

    def _show(self, watcher: Watcher, options: Options, found: Callable[[], Uncertainty]) -> None:
        if watcher.wants():
            watcher.see(so_far(self.model.manifest.task, options, found()))

    def _seed(self) -> int | np.ndarray:
        """Of all rows, or of each."""
        seeds = [job.seed for job in self._jobs if job.seed is not None]
        return seeds[0] if len(set(seeds)) == 1 else np.repeat(seeds, [job.rows for job in self._jobs])

    def _places(self) -> np.ndarray:
        """Of all rows, each in its own request."""
        firsts = [job.options.first_row if job.options is not None else 0 for job in self._jobs]
        return np.concatenate([
            np.arange(first, first + job.rows) for first, job in zip(firsts, self._jobs, strict=True)
        ])

    def _is_cut(self, share: float) -> bool:
        """Whether one part more would end after the deadline, or after the part of the time that these rows have."""
        job = self._jobs[0]
        allowed = self.started + (job.deadline - answer_s(job) - self.started) * share
        return self._clock.now() + self._last_s > allowed
