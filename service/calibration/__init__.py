"""What labelled rows make of a model's answers. Pure functions of float64 arrays. Knows numpy only."""

from service.calibration.binomial import binomial_tail, least_rows, log_binomial_tail
from service.calibration.halves import Halves, split_in_halves

__all__ = ["Halves", "binomial_tail", "least_rows", "log_binomial_tail", "split_in_halves"]
