"""Streaming statistics of Monte-Carlo samples: moments, standard errors, information. Knows torch only."""

from service.statistics.blocks import BLOCK
from service.statistics.stopped import StoppedUncertainty
from service.statistics.summary import Accumulator, Task, Uncertainty

__all__ = ["BLOCK", "Accumulator", "StoppedUncertainty", "Task", "Uncertainty"]
