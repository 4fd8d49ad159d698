"""Streaming statistics of Monte-Carlo samples: moments, standard errors, information. Knows torch only."""

from service.statistics.blocks import BLOCK
from service.statistics.conditional import ClosedForm, ConditionalAccumulator
from service.statistics.heteroscedastic import NoiseHead, NoisyAccumulator, NoisyUncertainty
from service.statistics.stopped import StoppedUncertainty
from service.statistics.summary import Accumulator, Method, Task, Uncertainty

__all__ = [
    "BLOCK", "Accumulator", "ClosedForm", "ConditionalAccumulator", "Method", "NoiseHead", "NoisyAccumulator",
    "NoisyUncertainty", "StoppedUncertainty", "Task", "Uncertainty",
]
