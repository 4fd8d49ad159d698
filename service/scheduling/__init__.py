"""Who computes when: a bounded queue in front of one thread that owns the device. Knows no event loop and no web."""

from service.scheduling.engine import Engine
from service.scheduling.job import Answer, Job, Options
from service.scheduling.limits import Limits

__all__ = ["Answer", "Engine", "Job", "Limits", "Options"]
