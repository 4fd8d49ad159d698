"""What labelled rows make of a model's answers: a temperature, sets and intervals that hold the truth as often as
asked, a threshold under which errors are rare. Pure functions of float64 arrays. Knows numpy only."""

from service.calibration.binomial import binomial_tail, least_rows, log_binomial_tail
from service.calibration.conformal import (
    ConformalIntervals,
    ConformalSets,
    PredictionSets,
    SetMethod,
    calibrate_intervals,
    calibrate_sets,
    class_scores,
    conformal_quantile,
    least_calibration_rows,
    quantile_rank,
)
from service.calibration.halves import Halves, split_in_halves
from service.calibration.selective import Plan, RiskGuarantee, guarantee_risk, plan_thresholds
from service.calibration.temperature import Temperature, apply_temperature, fit_temperature, logits_of

__all__ = [
    "ConformalIntervals", "ConformalSets", "Halves", "Plan", "PredictionSets", "RiskGuarantee", "SetMethod",
    "Temperature", "apply_temperature", "binomial_tail", "calibrate_intervals", "calibrate_sets", "class_scores",
    "conformal_quantile", "fit_temperature", "guarantee_risk", "least_calibration_rows", "least_rows",
    "log_binomial_tail", "logits_of", "plan_thresholds", "quantile_rank", "split_in_halves",
]
