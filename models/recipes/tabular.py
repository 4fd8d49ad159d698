"""Scaling of tabular models: every feature to mean 0 and standard deviation 1 over the training rows."""

from __future__ import annotations

from collections.abc import Mapping

from models.recipes.data import Split


def feature_scaling(split: Split) -> Mapping[str, list[float]]:
    """Mean and standard deviation (ddof 0) of each feature, in its own unit."""
    inputs = split.train.inputs.astype("float64")
    return {"shift": inputs.mean(axis=0).tolist(), "scale": inputs.std(axis=0).tolist()}
