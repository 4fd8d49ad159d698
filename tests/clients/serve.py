"""`errorbar FOLDER …`, with models for the clients made in that folder first: flat rows, a picture of a photo's size,
texts, and several inputs at once."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from models.architectures.cnn import CNN
from models.architectures.mlp import MLP
from service.cli import main
from service.repository import loader
from tests.api.mixed import JUDGE, WITNESS
from tests.api.networks import Judge, Witness
from tests.conftest import CLASSIFIER, write_model
from tests.preprocessing.files import tokenizer

PICTURE = """
name = "picture"
task = "classification"
description = "What is in a picture of the usual size."
labels = ["cat", "dog", "neither"]
[[inputs]]
name = "image"
dtype = "float32"
shape = [3, 224, 224]
[architecture]
factory = "models.architectures.cnn:CNN"
[architecture.arguments]
image_channels = 3
side = 224
channels = [2, 4]
hidden = 8
outputs = 3
"""


def make(root: Path) -> None:
    torch.manual_seed(0)
    write_model(root, "flowers", CLASSIFIER, MLP(3, (16, 8), 2, (0.5, 0.3)))
    tokenizer().save(str(write_model(root, "judge", JUDGE, Judge()) / "tokenizer.json"))
    tokenizer().save(str(write_model(root, "witness", WITNESS, Witness()) / "said.tokenizer.json"))
    write_model(root, "picture", PICTURE, CNN(3, 224, channels=(2, 4), hidden=8, outputs=3).eval())


if __name__ == "__main__":
    folder = Path(sys.argv.pop(1))
    loader.TRUSTED_FACTORIES = ("models.architectures.", "tests.api.")
    make(folder)
    main([*sys.argv[1:], "--models", str(folder)])
