"""Whether more work may wait: how much there is and how fast it is done. Decides from values it is handed; locks and
clocks are the engine's."""

from __future__ import annotations

from math import exp

from service.errors import DeadlineExceeded, Overloaded
from service.sampling.steps import LEAST_WHEN_CUT
from service.scheduling.job import Job
from service.scheduling.queue import Queue

_SMALLEST_ROOM = 0.02  # of the queue, below which nothing is read any more
_MEMORY_S = 2.0  # of busy time, over which the drain rate is a mean
_PRIOR_S = 0.1  # of busy time, that the rate of before anything was measured counts for
_CAUTION_S = 20.0  # of busy time, over which a rate that was lower is forgotten


class Drain:
    """How fast work is done: seconds of it, as each job is expected to take by itself, in a second that passes while
    there is any. Over 1 where jobs share passes; less where the machine has more to do than to answer."""

    def __init__(self) -> None:
        self._work_s = self._passed_s = _PRIOR_S
        self._since_s = 0.0
        self.low = self.rate
        """The lowest rate of late: what may be promised, since a machine that was slow will be slow again."""

    @property
    def rate(self) -> float:
        return min(max(self._work_s / self._passed_s, 0.05), 100.0)

    def begins(self, now_s: float) -> None:
        """There is work, and was none."""
        self._since_s = now_s

    def done(self, expected_s: float, now_s: float) -> None:
        """So much is done since it was last told, or since there is work. Work of which nothing was expected says
        nothing."""
        passed_s, self._since_s = now_s - self._since_s, now_s
        if expected_s > 0 and passed_s > 0:
            kept = exp(-passed_s / _MEMORY_S)
            self._work_s, self._passed_s = kept * self._work_s + expected_s, kept * self._passed_s + passed_s
            forgets = 1 - exp(-passed_s / _CAUTION_S)
            self.low = min(self.rate, self.low + forgets * (self.rate - self.low))


class Admission:
    """backlog_s: expected work that waits or runs."""

    def __init__(self, most_s: float) -> None:
        """most_s: that new work may wait."""
        self._most_s = most_s
        self._drain = Drain()
        self._jobs = 0
        self.backlog_s = 0.0

    def joined(self, cost_s: float, now_s: float) -> None:
        if not self._jobs:
            self._drain.begins(now_s)
        self._jobs += 1
        self.backlog_s += cost_s

    def left(self, cost_s: float) -> None:
        """It is neither waited for nor worked on any more."""
        self._jobs -= 1
        self.backlog_s = max(0.0, self.backlog_s - cost_s) if self._jobs else 0.0

    def done(self, cost_s: float, now_s: float) -> None:
        """So much expected work has its answers; before it leaves."""
        self._drain.done(cost_s, now_s)

    def check_any_room(self) -> None:
        """Overloaded where there is as good as none."""
        self.check_room(_SMALLEST_ROOM * self._most_s * self._drain.low)

    def check_room(self, cost_s: float) -> None:
        """Overloaded where a job would wait too long, and another does."""
        rate = self._drain.low
        waiting_s = self.backlog_s / rate
        if self.backlog_s and waiting_s + cost_s / rate > self._most_s:
            raise Overloaded(
                f"about {waiting_s:.1f} s of work wait, at most {self._most_s:g} s may; nothing was computed, a retry "
                "is safe", retry_after_s=max(1.0, waiting_s + cost_s / rate - self._most_s))

    def check_deadline(self, job: Job, cost_s: float, queue: Queue, now_s: float) -> None:
        """DeadlineExceeded where the job cannot be answered in time behind what waits."""
        left_s = job.deadline - now_s
        least_s = cost_s if not job.partial else cost_s * min(1.0, LEAST_WHEN_CUT / job.samples)
        if self.backlog_s + cost_s <= left_s:
            return
        wait_s = queue.ahead_s(job.priority, job.size) / self._drain.rate
        if wait_s + least_s > left_s:
            raise DeadlineExceeded(
                f"the answer would take about {wait_s + least_s:.3f} s, the deadline leaves {max(left_s, 0):.3f} s")
