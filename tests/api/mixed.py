"""Models whose rows are images, texts, several inputs at once, or plain numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from models.architectures.cnn import CNN
from models.architectures.mlp import MLP
from service.preprocessing.steps import ImageSteps
from tests.api.networks import Judge, Witness
from tests.conftest import CLASSIFIER, write_model
from tests.preprocessing.files import tokenizer

BODY_BYTES = 200_000  # that a server of these takes
PHOTO = """
name = "photo"
task = "classification"
description = "What is in a photo."
labels = ["cat", "dog"]
[[inputs]]
name = "image"
dtype = "float32"
shape = [3, 8, 8]
[inputs.image]
mode = "RGB"
short_side = 10
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[architecture]
factory = "models.architectures.cnn:CNN"
[architecture.arguments]
image_channels = 3
outputs = 2
"""

JUDGE = """
name = "judge"
task = "classification"
description = "Is a text good or bad?"
labels = ["bad", "good"]
[[inputs]]
name = "tokens"
dtype = "int64"
shape = [8]
range = [0, 39]
[inputs.text]
mask = "mask"
[[inputs]]
name = "mask"
dtype = "int64"
shape = [8]
range = [0, 1]
[architecture]
factory = "tests.api.networks:Judge"
"""

WITNESS = """
name = "witness"
task = "classification"
description = "An image, what was said of it, and three numbers."
labels = ["false", "true"]
[[inputs]]
name = "image"
dtype = "float32"
shape = [3, 8, 8]
[inputs.image]
mode = "RGB"
[[inputs]]
name = "tokens"
dtype = "int64"
shape = [8]
range = [0, 39]
[inputs.text]
tokenizer = "said.tokenizer.json"
[[inputs]]
name = "numbers"
dtype = "float32"
shape = [3]
[architecture]
factory = "tests.api.networks:Witness"
"""

STEPS = ImageSteps("RGB", short_side=10, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def write(root: Path) -> None:
    """photo, judge, witness and flowers."""
    torch.manual_seed(0)
    write_model(root, "photo", PHOTO, CNN(3, 8, outputs=2).eval())
    tokenizer().save(str(write_model(root, "judge", JUDGE, Judge()) / "tokenizer.json"))
    tokenizer().save(str(write_model(root, "witness", WITNESS, Witness()) / "said.tokenizer.json"))
    write_model(root, "flowers", CLASSIFIER, MLP(3, (16, 8), 2, (0.5, 0.3)))
