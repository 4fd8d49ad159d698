"""Recipe of `breast_cancer`: malignant or benign from cell nuclei. Run `python -m models.recipes.breast_cancer`."""

from __future__ import annotations

from models.architectures.mlp import MLP
from models.recipes.data import Split, breast_cancer_split
from models.recipes.manifest import training_features
from models.recipes.publish import main
from models.recipes.recipe import Recipe
from models.recipes.tabular import feature_scaling
from models.recipes.training import Schedule
from service.repository import Feature

MEASURES_AND_UNITS = {
    "radius": "px",
    "texture": "grey levels",
    "perimeter": "px",
    "area": "px^2",
    "smoothness": "1",
    "compactness": "1",
    "concavity": "1",
    "concave points": "1",
    "symmetry": "1",
    "fractal dimension": "1",
}
NAMES = [
    name
    for names in (
        [f"mean {measure}" for measure in MEASURES_AND_UNITS],
        [f"{measure} error" for measure in MEASURES_AND_UNITS],
        [f"worst {measure}" for measure in MEASURES_AND_UNITS],
    )
    for name in names
]
"""As scikit-learn names and orders them: mean, standard error, and mean of the three largest, of each measure."""


def features(split: Split) -> tuple[Feature, ...]:
    return training_features(NAMES, 3 * list(MEASURES_AND_UNITS.values()), split.train.inputs)


RECIPE = Recipe(
    name="breast_cancer",
    task="classification",
    description="Malignant or benign, from 30 measurements of cell nuclei in a fine-needle aspirate of a breast mass.",
    labels=("malignant", "benign"),
    split=breast_cancer_split,
    input_shape=(30,),
    input_range=None,
    features=features,
    factory=MLP,
    sizes={"inputs": 30, "hidden": (64, 32), "outputs": 2},
    dropout={"dropout": (0.3, 0.2)},
    scaling=feature_scaling,
    schedule=Schedule(epochs=100, batch_rows=32, learning_rate=1e-3, weight_decay=0.1),
    augment=None,
    about_data=(
        '`sklearn.datasets.load_breast_cancer`: 569 aspirates of "Breast Cancer Wisconsin (Diagnostic)" (W. H. '
        "Wolberg, W. N. Street, O. L. Mangasarian, 1995, UCI Machine Learning Repository), which UCI offers under CC "
        "BY 4.0; scikit-learn, which ships the copy, is under the BSD 3-clause licence. The data set's own text names "
        "no units. Lengths and areas were measured on a digitised image, so they are given as px and px^2; the text "
        "does not say how long a pixel is. This is a demonstration and no medical device."
    ),
    about_training="The loss is the cross-entropy.",
)

if __name__ == "__main__":
    main(RECIPE)
