"""What labelled rows make of a model's answers. Pure functions of float64 arrays. Knows numpy only."""

from service.calibration.binomial import binomial_tail, least_rows, log_binomial_tail
from service.calibration.halves import Halves, split_in_halves
from service.calibration.temperature import Temperature, apply_temperature, fit_temperature, logits_of

__all__ = [
    "Halves", "Temperature", "apply_temperature", "binomial_tail", "fit_temperature", "least_rows",
    "log_binomial_tail", "logits_of", "split_in_halves",
]
