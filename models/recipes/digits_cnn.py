"""Recipe of `digits_cnn`: a small CNN that reads handwritten digits. Run `python -m models.recipes.digits_cnn`."""

from __future__ import annotations

from models.architectures.cnn import CNN
from models.recipes.data import digits_image_split
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
    name="digits_cnn",
    task="classification",
    description="Handwritten digits, images of 8x8 pixels of 0 to 16, read by a CNN with channel and unit dropout.",
    labels=LABELS,
    split=digits_image_split,
    input_shape=(1, 8, 8),
    input_range=PIXEL_RANGE,
    features=no_features,
    factory=CNN,
    sizes={"image_channels": 1, "side": 8, "channels": (16, 32), "hidden": 64, "outputs": 10},
    dropout={"channel_dropout": 0.2, "head_dropout": 0.5},
    scaling=pixel_scaling,
    schedule=Schedule(epochs=40, batch_rows=64, learning_rate=2e-3, weight_decay=0.01),
    augment=jitter,
    about_data=ABOUT_DATA,
    about_training=ABOUT_TRAINING,
)

if __name__ == "__main__":
    main(RECIPE, damage_section)
