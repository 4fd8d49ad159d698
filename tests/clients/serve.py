"""`errorbar FOLDER …`, with models for the clients made in that folder first: flat rows, a picture of a photo's size,
texts, and several inputs at once."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from models.architectures.cnn import CNN
from service.cli import main
from service.repository import loader
from tests.api.mixed import write_texts
from tests.conftest import CLASSIFIER, classifier, write_model
from tests.manifests import built, manifest, tensor

PICTURE = manifest(
    "picture", "classification", [tensor("image", 3, 224, 224)],
    built("models.architectures.cnn:CNN", image_channels=3, side=224, channels=[2, 4], hidden=8, outputs=3),
    description="What is in a picture of the usual size.", labels=["cat", "dog", "neither"],
)


def make(root: Path) -> None:
    torch.manual_seed(0)
    write_model(root, "flowers", CLASSIFIER, classifier())
    write_texts(root)
    write_model(root, "picture", PICTURE, CNN(3, 224, channels=(2, 4), hidden=8, outputs=3).eval())


if __name__ == "__main__":
    folder = Path(sys.argv.pop(1))
    loader.TRUSTED_FACTORIES = ("models.architectures.", "tests.api.")
    make(folder)
    main([*sys.argv[1:], "--models", str(folder)])
