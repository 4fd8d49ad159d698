"""Recipe of `digits`: an MLP with dropout that reads handwritten digits. Run `python -m models.recipes.digits`."""

from __future__ import annotations

from models.architectures.mlp import MLP
from models.recipes.data import digits_split
from models.recipes.digit_training import (
    ABOUT_DATA,
    ABOUT_TRAINING,
    LABELS,
    PIXEL_RANGE,
    damage_section,
    pixel_scaling,
)
from models.recipes.images import jitter
from models.recipes.publish import main
from models.recipes.recipe import Recipe, no_features
from models.recipes.training import Schedule

RECIPE = Recipe(
    name="digits",
    task="classification",
    description="Handwritten digits, 8x8 pixels of 0 to 16 flattened by rows, read by an MLP with dropout.",
    labels=LABELS,
    split=digits_split,
    input_shape=(64,),
    input_range=PIXEL_RANGE,
    features=no_features,
    factory=MLP,
    sizes={"inputs": 64, "hidden": (256, 128), "outputs": 10},
    dropout={"dropout": (0.5, 0.3)},
    scaling=pixel_scaling,
    schedule=Schedule(epochs=120, batch_rows=64, learning_rate=2e-3, weight_decay=0.3),
    augment=jitter,
    about_data=ABOUT_DATA,
    about_training=ABOUT_TRAINING,
)

if __name__ == "__main__":
    main(RECIPE, damage_section)
