"""Recipe of `diabetes`: a regression with known observation noise. Run `python -m models.recipes.diabetes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.architectures.mlp import RegressionMLP
from models.recipes.data import Split, diabetes_split
from models.recipes.manifest import training_features
from models.recipes.publish import main
from models.recipes.recipe import Recipe
from models.recipes.tabular import feature_scaling
from models.recipes.training import Schedule
from service.repository import Feature

NAMES_AND_UNITS = {
    "age": "years",
    "sex": "1",
    "bmi": "kg/m^2",
    "bp": "mmHg",
    "s1": "mg/dL",
    "s2": "mg/dL",
    "s3": "mg/dL",
    "s4": "1",
    "s5": "log(mg/dL)",
    "s6": "mg/dL",
}


def features(split: Split) -> tuple[Feature, ...]:
    return training_features(list(NAMES_AND_UNITS), list(NAMES_AND_UNITS.values()), split.train.inputs)


def scaling(split: Split) -> Mapping[str, Any]:
    targets = split.train.targets.astype("float64")
    return {**feature_scaling(split), "target_shift": float(targets.mean()), "target_scale": float(targets.std())}


RECIPE = Recipe(
    name="diabetes",
    task="regression",
    description="Progression of diabetes one year after baseline, a score of 25 to 346, from ten measurements.",
    labels=(),
    split=diabetes_split,
    input_shape=(10,),
    input_range=None,
    features=features,
    factory=RegressionMLP,
    sizes={"inputs": 10, "hidden": (64, 32), "outputs": 1},
    dropout={"dropout": (0.2, 0.2)},
    scaling=scaling,
    schedule=Schedule(epochs=200, batch_rows=32, learning_rate=1e-3, weight_decay=0.3),
    augment=None,
    about_data=(
        "`sklearn.datasets.load_diabetes(scaled=False)`: 442 patients (B. Efron, T. Hastie, I. Johnstone, R. "
        'Tibshirani, "Least Angle Regression", Annals of Statistics 32, 2004). No licence is stated at the source; '
        "scikit-learn, which ships the copy, is under the BSD 3-clause licence. Features keep scikit-learn's names: "
        "bp is average blood pressure, s1 total cholesterol, s2 LDL, s3 HDL, s4 total cholesterol over HDL, s5 "
        "possibly the log of triglycerides, s6 blood sugar; sex is a code, 1 or 2, and the source does not say "
        "which is which. The source names no units but years; the others are the usual ones of these measurements that "
        "fit the values. This is a demonstration and no medical device."
    ),
    about_training="The loss is the squared error.",
)

if __name__ == "__main__":
    main(RECIPE)
