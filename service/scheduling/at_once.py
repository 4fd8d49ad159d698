"""A job alone, here and now, in one go."""

from __future__ import annotations

from service.clock import MonotonicClock
from service.errors import ErrorbarError, ModelFailed, reason
from service.scheduling.job import Answer, Job
from service.scheduling.queue import Queue
from service.scheduling.run import Run


def answered(job: Job) -> Answer:
    """Unlike an engine's, the answer does not depend on how long its parts took, down to the last bit. ModelFailed."""
    ticket = Queue().ticket(job, 0.0, 0.0, 0.0, lambda outcome: None)
    try:
        run = Run([ticket], MonotonicClock(), step_samples=None)
        while run.step():
            pass
        (answer,), _ = run.answers()
    except ErrorbarError:
        raise
    except Exception as e:
        raise ModelFailed(f"model {job.model.name!r} raised {reason(e)}") from e
    return answer
