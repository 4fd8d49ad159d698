"""Writes `model.toml`, what a model says of itself on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.recipes.data import Floats
from service.repository import Feature


def training_features(names: Sequence[str], units: Sequence[str], inputs: Floats) -> tuple[Feature, ...]:
    """Features with their range over the training rows, (rows, features).

    The bounds are the shortest decimals of their float32 values: as float32 they are those values, so no training
    row lies outside, and people can read them.
    """
    lows, highs = inputs.min(axis=0), inputs.max(axis=0)
    return tuple(
        Feature(name, unit, _decimal(low), _decimal(high))
        for name, unit, low, high in zip(names, units, lows, highs, strict=True)
    )


def manifest_toml(
    *,
    name: str,
    task: str,
    description: str,
    labels: Sequence[str],
    input_shape: Sequence[int],
    input_range: Sequence[float] | None,
    features: Sequence[Feature],
    factory: str,
    arguments: Mapping[str, Any],
    samples: int,
    seed: int,
    tau: float | None,
) -> str:
    """The text of a `model.toml` with one float32 input "x".

    Args: tau: precision of the observation noise, 1 / (target unit)²; None for a task without one.
    """
    top: dict[str, Any] = {"name": name, "task": task, "description": description}
    if labels:
        top["labels"] = labels
    tensor: dict[str, Any] = {"name": "x", "dtype": "float32", "shape": input_shape}
    if input_range is not None:
        tensor["range"] = input_range
    sections = [
        _lines(top),
        "[[inputs]]\n" + _lines(tensor),
        *("[[features]]\n" + _lines(vars(feature)) for feature in features),
        "[architecture]\n" + _lines({"factory": factory}),
        "[architecture.arguments]\n" + _lines(arguments),
        "[sampling]\n" + _lines({"samples": samples, "seed": seed, "masks": "shared", "design": "balanced"}),
    ]
    if tau is not None:
        sections.append("[noise]\n" + _lines({"tau": tau}))
    sections.append("[numerics]\n" + _lines({"dtype": "float32"}))
    return "\n".join(sections)


def _decimal(value: np.float32) -> float:
    return float(str(value))


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    """Strings, booleans, numbers and lists of them. JSON's escapes are TOML's, and repr keeps every digit."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
